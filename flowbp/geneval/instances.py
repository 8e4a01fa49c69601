"""From a Mask2Former's outputs to objects with boxes and masks."""

from __future__ import annotations

import attrs
from torch import Tensor
from torch.nn import functional as F

from flowbp.geneval.geometry import Box
from flowbp.geneval.scene import Detection
from flowbp.geneval.vocabulary import CLASSES

Size = tuple[int, int]


@attrs.frozen
class Sizes:
    """Heights and widths of one picture on its way through a detector.

    Args:
        padded: as the model saw it.
        shown: without the padding.
        original: as it came.

    Example:
        >>> Sizes(padded=(800, 800), shown=(800, 800), original=(512, 512)).original
        (512, 512)
    """

    padded: Size
    shown: Size
    original: Size


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    sizes: Sizes,
    *,
    above: float = 0.3,
    most: int = 100,
) -> tuple[Detection, ...]:
    """The objects in a picture.

    ``score = p(class) mean(sigmoid(mask logits) where they are above 0)``, with `p` the softmax
    over the classes and no object; of all pairs of query and class the `most` of the highest
    `p(class)` are looked at. Mask logits are brought to the padded size, cut to what was shown and
    brought to the original size, bilinear both times.

    Args:
        class_logits: (Q, 81), no object last.
        mask_logits: (Q, h, w).
        sizes: of the picture.
        above: the score that an object must exceed.
        most: pairs of query and class.

    Returns:
        The objects, surest first; none with an empty mask.

    Example:
        >>> import torch
        >>> logits = torch.zeros(1, 81)
        >>> logits[0, 16] = 9
        >>> mask = torch.full((1, 8, 8), -9.0)
        >>> mask[0, 2:4, 2:6] = 9
        >>> sizes = Sizes(padded=(8, 8), shown=(8, 8), original=(8, 8))
        >>> [(found.name, found.box) for found in instances(logits, mask, sizes)]
        [('dog', (2, 2, 6, 4))]

    Source: mmdetection, the instance post-processing of its Mask2Former.
    """
    masks = _upright(mask_logits.float(), sizes)
    inside = masks > 0
    areas = inside.sum((1, 2))
    sure = (masks.sigmoid() * inside).sum((1, 2)) / (areas + 1e-6)
    p = class_logits.float().softmax(-1)[:, :-1]
    best, places = p.flatten().topk(min(most, p.numel()))
    queries = places // p.shape[1]
    scores = best * sure[queries]
    # An empty mask has the score 0, and `above` may be lower than that.
    kept = ((scores > above) & (areas[queries] > 0)).nonzero()[:, 0]
    kept = kept[scores[kept].argsort(descending=True, stable=True)]
    return tuple(
        Detection(
            CLASSES[int(places[i]) % p.shape[1]],
            float(scores[i]),
            mask_box(inside[queries[i]]),
            inside[queries[i]],
        )
        for i in kept.tolist()
    )


def mask_box(mask: Tensor) -> Box:
    """The smallest box around a mask.

    Args:
        mask: (H, W) of bools, some of them true.

    Returns:
        The box, in whole pixels.

    Example:
        >>> import torch
        >>> mask_box(torch.tensor([[False, False, False], [False, True, True]]))
        (1, 1, 3, 2)
    """
    rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _upright(logits: Tensor, sizes: Sizes) -> Tensor:
    height, width = sizes.shown
    masks = _bilinear(logits, sizes.padded)[:, :height, :width]
    return _bilinear(masks, sizes.original)


def _bilinear(masks: Tensor, size: Size) -> Tensor:
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]

"""Mask2Former of transformers as GenEval's detector."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.dtype_policy import CPU, FLOAT32
from flowbp.evaluation.metrics.geneval.criteria import Box, Detection
from flowbp.evaluation.metrics.geneval.task import CLASSES
from flowbp.extras import require
from flowbp.limits import BATCH
from flowbp.place import located, read_json
from flowbp.rewards.needs import Need, model_need, package
from flowbp.rewards.pixels import normalise
from flowbp.rewards.pretrained import load_model
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.validators import integer

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

HUB_ID = "facebook/mask2former-swin-small-coco-instance"
"""The detector on the hub: the architecture of GenEval's own, with other weights."""


@attrs.frozen(kw_only=True, eq=False)
class Mask2Former:
    """Objects of COCO's 80 classes by a Mask2Former, in float32.

    Classes go by their number, because models call some of them by other names.

    Construction loads the model.

    Source: Cheng et al., "Masked-attention Mask Transformer", arXiv 2112.01527.
    """

    source: str | os.PathLike[str] = attrs.field(
        default=HUB_ID, validator=located(folder="a Mask2Former in the layout of transformers")
    )
    batch: int = attrs.field(default=4, validator=integer(1, BATCH))
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    model: Mask2FormerForUniversalSegmentation = attrs.field(init=False, repr=False)

    @model.default
    def _load(self) -> Mask2FormerForUniversalSegmentation:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return self.towers.get(
            self.source,
            dtype=FLOAT32.weights,
            device=self.device,
            load=lambda: load_mask2former(self.source),
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[tuple[Detection, ...], ...]:
        """Find objects."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"`images` must be (B, 3, H, W), got {tuple(images.shape)}")
        parts = torch.split(images, self.batch) if len(images) else ()
        return tuple(found for part in parts for found in self._find(part))

    def _find(self, images: Tensor) -> tuple[tuple[Detection, ...], ...]:
        with FLOAT32.autocast(self.device):
            pixels = prepare(images.to(device=self.device, dtype=FLOAT32.state))
            output = self.model(pixel_values=pixels)
        (rows, columns), (height, width) = pixels.shape[-2:], images.shape[-2:]
        sizes = Sizes((rows, columns), shown_size(height, width), (height, width))
        return tuple(
            instances(classes, masks, sizes)
            for classes, masks in zip(
                output.class_queries_logits, output.masks_queries_logits, strict=True
            )
        )


def detector_needs(source: str | os.PathLike[str] = HUB_ID) -> tuple[Need, ...]:
    """What loading a Mask2Former reads."""
    return (
        package("transformers"),
        package("scipy", extra="geneval"),
        model_need(source, check=_check_folder),
    )


def load_mask2former(source: str | os.PathLike[str]) -> Mask2FormerForUniversalSegmentation:
    """Load a Mask2Former of COCO's classes."""
    # transformers' class asks for it, and names no extra of ours.
    require("scipy", extra="geneval")
    model = load_model(
        source,
        "Mask2FormerForUniversalSegmentation",
        check=_check_folder,
        dtype=FLOAT32.weights,
        # Weights of the training loss, which is not run.
        unused=("criterion.",),
    )
    if model.config.num_labels != len(CLASSES):
        raise ValueError(
            f"`source` {str(source)!r} must distinguish COCO's {len(CLASSES)} classes, got "
            f"{model.config.num_labels}; take {HUB_ID}"
        )
    found: Mask2FormerForUniversalSegmentation = model
    return found


def _check_folder(folder: Path) -> None:
    config = read_json(folder / "config.json", what="a Mask2Former in transformers' layout")
    if config.get("model_type") != "mask2former":
        raise ValueError(
            f"`source` must hold a Mask2Former, got model_type {config.get('model_type')!r} "
            f"in {str(folder)!r}; take {HUB_ID}"
        )


Size = tuple[int, int]


@attrs.frozen
class Sizes:
    """Heights and widths of one picture on its way through a detector."""

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

    Source: mmdetection, the instance post-processing of its Mask2Former.
    """
    height, width = sizes.shown
    masks = _bilinear(mask_logits.float(), sizes.padded)[:, :height, :width]
    masks = _bilinear(masks, sizes.original)
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
    """The smallest box around a mask."""
    rows, columns = (mask.any(axis).nonzero()[:, 0] for axis in (1, 0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _bilinear(masks: Tensor, size: Size) -> Tensor:
    return F.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]


IMAGENET_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
IMAGENET_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)

_LONGEST, _SHORTEST = 1333, 800
_MULTIPLE = 32


def shown_size(height: int, width: int) -> tuple[int, int]:
    """The largest size of a picture's proportions within 1333x800, either way round."""
    scale = min(_LONGEST / max(height, width), _SHORTEST / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def eight_bits(images: Tensor) -> Tensor:
    """Pictures as their files hold them, so that a picture is judged alike before and after."""
    return (images.clamp(0, 1) * 255).round() / 255


def prepare(images: Tensor) -> Tensor:
    """Pictures resized, normalised, and padded to multiples of 32 at the right and below."""
    height, width = shown_size(*images.shape[-2:])
    images = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
    images = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
    return F.pad(images, (0, -width % _MULTIPLE, 0, -height % _MULTIPLE))

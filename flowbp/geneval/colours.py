"""The colour of an object, by a CLIP model."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.geneval.scene import Detection
from flowbp.geneval.vocabulary import COLOURS
from flowbp.rewards.clip import ClipReward

GROUND = 0x99 / 255
"""The grey around a masked object."""

_TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)


def cut_out(image: Tensor, detection: Detection) -> Tensor:
    """An object on grey, cut to its box.

    Args:
        image: (3, H, W) in [0, 1].
        detection: with a mask, or without, which leaves all of its box.

    Returns:
        (3, h, w).

    Example:
        >>> dog = Detection("dog", 0.9, (0, 0, 2, 1), torch.tensor([[True, False], [False, True]]))
        >>> cut_out(torch.ones(3, 2, 2), dog)[0]
        tensor([[1.0000, 0.6000]])
    """
    left, top, right, bottom = (round(edge) for edge in detection.box)
    if detection.mask is not None:
        image = torch.where(detection.mask.to(image.device), image, GROUND)
    return image[:, top:bottom, left:right]


@attrs.frozen(eq=False)
class Colours:
    """Which of 10 colours an object is of: the nearest by CLIP.

    ``argmax over c of f(object) . g(c)`` with the object on grey, cut to its box, and ``g(c)`` the
    mean of the unit embeddings of three descriptions.

    Args:
        clip: The model; GenEval's is OpenAI's ViT-L/14.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> colours = Colours(ClipReward.from_pretrained(reward_folder()))
        >>> colours(torch.zeros(3, 8, 8), Detection("dog", 0.9, (0, 0, 4, 4))) in COLOURS
        True

    Source: Ghosh et al., arXiv 2310.11513, section 3.
    """

    clip: ClipReward
    _known: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @torch.no_grad()
    def __call__(self, image: Tensor, detection: Detection) -> str:
        """Name the colour.

        Args:
            image: (3, H, W) in [0, 1].
            detection: the object.

        Returns:
            One of `COLOURS`.
        """
        seen = self.clip.embed_images(cut_out(image, detection)[None])
        with torch.autocast(self.clip.device.type, enabled=False):
            return COLOURS[int((self._described(detection.name) @ seen[0]).argmax())]

    def _described(self, name: str) -> Tensor:
        if name not in self._known:
            texts = [t.format(colour=c, name=name) for c in COLOURS for t in _TEMPLATES]
            unit = self.clip.embed_prompts(texts)
            means = unit.reshape(len(COLOURS), len(_TEMPLATES), -1).mean(1)
            self._known[name] = F.normalize(means, dim=-1)
        return self._known[name]

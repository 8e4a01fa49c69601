"""LAION's aesthetic predictor v2: how much people like a picture, whatever its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.place import Place, located
from flowbp.rewards.clip import ClipTower, load_clip
from flowbp.rewards.clip_model import VIT_L_14, clip_needs
from flowbp.rewards.needs import Need, file_need, package
from flowbp.rewards.pixels import crop_shortest_side_torchvision
from flowbp.rewards.reward import check_prompts
from flowbp.rewards.towers import ModelReward
from flowbp.rewards.weight_files import check_layout, read_weights
from flowbp.source_files import resolve

_REPOSITORY, _FILE = "trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"
# The numbers between were dropouts.
_LAYERS = {0: 1024, 2: 128, 4: 64, 6: 16, 7: 1}

Head = tuple[tuple[Tensor, Tensor], ...]


def head_layout(width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the head by key, for embeddings of `width` numbers: 768 for ViT-L/14."""
    layout: dict[str, tuple[int, ...]] = {}
    for number, outputs in _LAYERS.items():
        layout[f"layers.{number}.weight"] = (outputs, width)
        layout[f"layers.{number}.bias"] = (outputs,)
        width = outputs
    return layout


@attrs.frozen(kw_only=True, eq=False)
class AestheticScore(ModelReward):
    """Five linear layers on a picture's unit CLIP embedding: 1 is poor, 10 is splendid.

    ``score = A5(A4(A3(A2(A1(f(image) / |f(image)|)))))`` with affine A and no activations, in
    float32 whatever the policy; the prompt plays no part.

    Construction loads both models. Further arguments are those of `ModelReward`.

    Args:
        source: The head: a file (of ``torch.save``, or safetensors), or a hub id, of which
            aesthetic-model.pth is taken.
        clip: The CLIP model below it: a folder or hub id in CLIPModel layout.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a damaged file, or a head for another CLIP model; the first key
            that does not fit is named.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import mkdtemp
        >>> from flowbp.shapes.embedded import reward_folder
        >>> head = Path(mkdtemp()) / "head.pth"
        >>> torch.save({key: torch.zeros(s) for key, s in head_layout(128).items()}, head)
        >>> reward = AestheticScore(source=head, clip=reward_folder())
        >>> reward(torch.rand(2, 3, 64, 48), ["a red circle", "two squares"])
        tensor([0., 0.])

    Source: github.com/christophschuhmann/improved-aesthetic-predictor.
    """

    source: Place = attrs.field(default=_REPOSITORY, validator=located(file="the head's weights"))
    clip: Place = attrs.field(default=VIT_L_14, validator=located(folder="CLIPModel layout"))
    tower: ClipTower = attrs.field(init=False, repr=False)
    _head: Head = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: Place, clip: Place) -> tuple[Need, ...]:
        """What its construction reads."""
        return package("transformers"), file_need(source, _FILE), *clip_needs(clip, argument="clip")

    @tower.default
    def _load_tower(self) -> ClipTower:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        loaded = load_clip(self.clip, policy=self.policy, device=self.device, towers=self.towers)
        return ClipTower(**loaded, resize=crop_shortest_side_torchvision, batch=self.batch)

    @_head.default
    def _load_head(self) -> Head:
        path = resolve(self.source, _FILE)
        width = self.tower.model.config.projection_dim
        weights = read_weights(path)
        what = f"an aesthetic predictor's head for embeddings of {width} numbers"
        check_layout(weights, head_layout(width), path=path, what=what)
        placed = {
            key: value.to(device=self.device, dtype=self.policy.state)
            for key, value in weights.items()
        }
        return tuple((placed[f"layers.{n}.weight"], placed[f"layers.{n}.bias"]) for n in _LAYERS)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1]: (B,), differentiable; prompts are not read."""
        check_prompts(images, prompts)
        x = self.tower.embed_images(images)
        with torch.autocast(self.device.type, enabled=False):
            for weight, bias in self._head:
                x = F.linear(x, weight, bias)
        return x[:, 0]

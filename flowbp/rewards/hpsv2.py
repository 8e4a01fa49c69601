"""Human Preference Score v2.1: the reward of the published results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.extras import require
from flowbp.hub import hub_file
from flowbp.rewards.clip import ClipReward, repaired
from flowbp.rewards.clip_model import VIT_L_14, check_vocabulary, clip_needs
from flowbp.rewards.model_files import (
    CLIP_TOKENIZER_FILES,
    Place,
    load_tokenizer,
    located,
    on_disk,
    tokenizer_place,
)
from flowbp.rewards.needs import Need, package, published_file
from flowbp.rewards.needs import tokenizer as tokenizer_need
from flowbp.rewards.open_clip import VIT_H_14, ClipArchitecture, load_open_clip
from flowbp.rewards.pixels import pad_longest_side
from flowbp.rewards.reward import batch_size
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.rewards.weight_files import PublishedFile

HPS_V2_1 = PublishedFile(
    repository="xswu/HPSv2",
    name="HPS_v2.1_compressed.pt",
    size=1_972_490_005,
    sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)
"""The published checkpoint: float16 weights of a ViT-H/14 in open_clip's keys."""

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")


def _check_size(self: HPSv2, attribute: attrs.Attribute[Any], value: Any) -> None:
    path = on_disk(value)
    if path is not None and self.verify and path.suffix in _PICKLED:
        self.published.check_size(path)


def _tokenizer(source: Place, tokenizer: Place | None, published: PublishedFile) -> Place:
    own = source != published.repository
    return tokenizer_place(tokenizer, source, own=own, published=VIT_L_14)


@attrs.frozen(kw_only=True, eq=False)
class HPSv2:
    """Cosine of picture and prompt under HPSv2.1's CLIP, without its logit scale.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``; the longest side of a picture
    becomes 224 pixels and the rest is black. Scores are near 0.3; some report them times 100.

    Construction loads the model. `batch` changes scores by rounding alone.

    Args:
        source: The published repository, a file in open_clip's keys (of ``torch.save``, or
            safetensors), or a folder or another hub id in CLIPModel layout.
        tokenizer: A folder or hub id with CLIP's vocabulary, which the published file lacks; None
            takes that of a folder, else OpenAI's from the hub.
        verify: Refuse a file of ``torch.save`` that is not the published one, bit for bit; nothing
            is known of files in other formats.
        batch: Pictures in the model at a time; see `ClipTower`.
        policy: Dtypes of the model; bfloat16 leaves the normalisation and the dot in float32.
        device: Where it runs.
        towers: The pool in which models are shared.
        published: What `source` means by its repository, and what `verify` compares with.
        architecture: Sizes of the model in a file.

    Raises:
        ModuleNotFoundError: transformers or ftfy is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, another file than the published one, a damaged file, or weights
            of another model; the first key that does not fit is named.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> reward = HPSv2(source=reward_folder())
        >>> reward(torch.rand(2, 3, 64, 48), ["a red circle", "two squares"]).shape
        torch.Size([2])

    Source: Wu et al., arXiv 2306.09341, section 4; github.com/tgxs002/HPSv2.
    """

    source: Place = attrs.field(
        default=HPS_V2_1.repository,
        validator=[
            located(file="weights in open_clip's keys", folder="CLIPModel layout"),
            _check_size,
        ],
    )
    tokenizer: Place | None = attrs.field(
        default=None, validator=located(folder="a CLIP tokenizer")
    )
    verify: bool = True
    batch: int | None = attrs.field(default=None, validator=batch_size)
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    published: PublishedFile = attrs.field(default=HPS_V2_1, repr=False)
    architecture: ClipArchitecture = attrs.field(default=VIT_H_14, repr=False)
    clip: ClipReward = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(
        source: Place,
        tokenizer: Place | None,
        verify: bool,
        published: PublishedFile,
    ) -> tuple[Need, ...]:
        """What its construction reads."""
        packages = package("transformers"), package("ftfy", extra="rewards")
        path = on_disk(source)
        place = _tokenizer(source, tokenizer, published)
        if source != published.repository if path is None else path.is_dir():
            return *packages, *clip_needs(source, tokenizer=place)
        known = verify and (path or Path(published.name)).suffix in _PICKLED
        weights = published_file(source, published, verify=known)
        return *packages, weights, tokenizer_need(place, files=CLIP_TOKENIZER_FILES)

    @clip.default
    def _load(self) -> ClipReward:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        require("ftfy", extra="rewards")
        place = _tokenizer(self.source, self.tokenizer, self.published)
        options: dict[str, Any] = {
            "resize": pad_longest_side,
            "clean": repaired,
            "batch": self.batch,
            "policy": self.policy,
            "device": self.device,
        }
        path = self._file()
        if path is None:
            return ClipReward.from_pretrained(
                self.source, tokenizer=place, towers=self.towers, **options
            )
        tokenizer = load_tokenizer(place)
        model = self.towers.get(
            path,
            dtype=self.policy.weights,
            device=self.device,
            load=lambda: load_open_clip(path, self.architecture, dtype=self.policy.weights),
        )
        check_vocabulary(tokenizer, model)
        return ClipReward(model=model, tokenizer=tokenizer, **options)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1] against B prompts: (B,), differentiable."""
        return self.clip(images, prompts)

    def _file(self) -> Path | None:
        path = on_disk(self.source)
        if path is None and self.source == self.published.repository:
            path = hub_file(self.published.repository, self.published.name, alone=True)
        if path is None or path.is_dir():
            return None
        if self.verify and path.suffix in _PICKLED:
            self.published.check(path)
        return path

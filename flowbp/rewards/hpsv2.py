"""Human Preference Score v2.1: the reward of the published results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.core._validators import integer
from flowbp.limits import BATCH
from flowbp.rewards.cleaning import repaired
from flowbp.rewards.clip import ClipReward
from flowbp.rewards.clip_architecture import VIT_H_14, ClipArchitecture
from flowbp.rewards.clip_source import clip_needs
from flowbp.rewards.clip_tokenizer import TOKENIZER_FILES, check_vocabulary, load_tokenizer
from flowbp.rewards.needs import Need, Reading, package
from flowbp.rewards.open_clip import load_open_clip
from flowbp.rewards.pixels import pad_longest_side
from flowbp.rewards.places import Place, located, on_disk, tokenizer_place
from flowbp.rewards.sources import check_file, check_tokenizer, file_of
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.rewards.weight_files import PublishedFile, from_hub

HPS_V2_1 = PublishedFile(
    repository="xswu/HPSv2",
    name="HPS_v2.1_compressed.pt",
    size=1_972_490_005,
    sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)
"""The published checkpoint: float16 weights of a ViT-H/14 in open_clip's keys."""

_TOKENIZER = "openai/clip-vit-large-patch14"
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")


def _whole(self: HPSv2, attribute: attrs.Attribute[Any], value: Any) -> None:
    path = on_disk(value)
    if path is not None and self.verify and path.suffix in _PICKLED:
        self.published.check_size(path)


def _words(source: Place, tokenizer: Place | None, published: PublishedFile) -> Place:
    own = source != published.repository
    return tokenizer_place(tokenizer, source, own=own, published=_TOKENIZER)


@attrs.frozen(kw_only=True, eq=False)
class HPSv2:
    """Cosine of picture and prompt under HPSv2.1's CLIP, without its logit scale.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``; the longest side of a picture
    becomes 224 pixels and the rest is black. Scores are near 0.3; some report a hundredfold.

    Construction loads the model. A batch changes a score by rounding alone.

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
        towers: With whom the model is shared.
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

    source: str | os.PathLike[str] = attrs.field(
        default=HPS_V2_1.repository,
        validator=[located(file="weights in open_clip's keys", folder="CLIPModel layout"), _whole],
    )
    tokenizer: str | os.PathLike[str] | None = attrs.field(
        default=None, validator=located(folder="a CLIP tokenizer")
    )
    verify: bool = True
    batch: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, BATCH))
    )
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    published: PublishedFile = attrs.field(default=HPS_V2_1, repr=False)
    architecture: ClipArchitecture = attrs.field(default=VIT_H_14, repr=False)
    clip: ClipReward = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(
        source: str | os.PathLike[str],
        tokenizer: str | os.PathLike[str] | None,
        verify: bool,
        published: PublishedFile,
    ) -> tuple[Need, ...]:
        """What its construction reads; see `flowbp.rewards.Need`."""
        packages = package("transformers"), package("ftfy", extra="rewards")
        words, place = _words(source, tokenizer, published), on_disk(source)
        if source != published.repository if place is None else place.is_dir():
            return *packages, *clip_needs(source, tokenizer=words)
        known = published if verify and (place or Path(published.name)).suffix in _PICKLED else None
        weights = Need(
            check=partial(check_file, source, published.name, published=known),
            tower=file_of(source, published.name) or source,
            reading=Reading(source, (published.name,), alone=True, size=published.size),
        )
        tokens = Need(
            check=partial(check_tokenizer, words, files=TOKENIZER_FILES),
            reading=Reading(words, TOKENIZER_FILES),
        )
        return *packages, weights, tokens

    @clip.default
    def _load(self) -> ClipReward:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        require("ftfy", extra="rewards")
        words = _words(self.source, self.tokenizer, self.published)
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
                self.source, tokenizer=words, towers=self.towers, **options
            )
        tokenizer = load_tokenizer(words)
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
            path = from_hub(self.published.repository, self.published.name)
        if path is None or path.is_dir():
            return None
        if self.verify and path.suffix in _PICKLED:
            self.published.check(path)
        return path

"""Human Preference Score v2.1: the reward of the published results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from flowbp.extras import require
from flowbp.place import Place, located, on_disk
from flowbp.rewards.clip import ClipReward, PublishedClipReward, repaired
from flowbp.rewards.clip_model import (
    VIT_H_14,
    VIT_L_14,
    ClipArchitecture,
    check_vocabulary,
    clip_needs,
    load_open_clip,
)
from flowbp.rewards.needs import Need, file_need, package, tokenizer_need
from flowbp.rewards.pixels import pad_longest_side
from flowbp.rewards.pretrained import load_tokenizer, tokenizer_place
from flowbp.source_files import PublishedFile, resolve

HPS_V2_1 = PublishedFile(
    repository="xswu/HPSv2",
    name="HPS_v2.1_compressed.pt",
    size=1_972_490_005,
    sha256="c57a38fb4a2f7e7c15bf00da2ea377cdf165448b4dd1052a484c215a998c9837",
)
"""The published checkpoint: float16 weights of a ViT-H/14 in open_clip's keys."""

_PICKLED = (".pt", ".pth", ".bin", ".ckpt")


def _check_size(self: HPSv2, _: Any, value: Place) -> None:
    path, known = on_disk(value), _verified(value, self.published, self.verify)
    if path is not None and path.is_file() and known is not None:
        known.check_size(path)


def _tokenizer(source: Place, tokenizer: Place | None, published: PublishedFile) -> Place:
    own = source != published.repository
    return tokenizer_place(tokenizer, source, own=own, published=VIT_L_14)


@attrs.frozen(kw_only=True, eq=False)
class HPSv2(PublishedClipReward):
    """Cosine of picture and prompt under HPSv2.1's CLIP, without its logit scale.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``; the longest side of a picture
    becomes 224 pixels and the rest is black. Scores are near 0.3; some report them times 100.

    Construction loads the model. Further arguments are those of `ModelReward`.

    Args:
        source: The published repository, a file in open_clip's keys (of ``torch.save``, or
            safetensors), or a folder or another hub id in CLIPModel layout.
        tokenizer: A folder or hub id with CLIP's vocabulary, which the published file lacks; None
            takes that of a folder, else OpenAI's from the hub.
        verify: Refuse a file of ``torch.save`` that is not the published one, bit for bit; nothing
            is known of files in other formats.
        published: What `source` means by its repository, and what `verify` compares with.
        architecture: Sizes of the model in a file.

    Raises:
        ModuleNotFoundError: transformers or ftfy is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, another file than the published one, a damaged file, or weights
            of another model; the first key that does not fit is named.

    Example:
        >>> import torch
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
    verify: bool = True
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
        place = _tokenizer(source, tokenizer, published)
        if not _is_file(source, published):
            return *packages, *clip_needs(source, tokenizer=place)
        known = _verified(source, published, verify)
        weights = file_need(source, published.name, published=known, size=published.size)
        return *packages, weights, tokenizer_need(place)

    @clip.default
    def _load(self) -> ClipReward:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        require("ftfy", extra="rewards")
        place = _tokenizer(self.source, self.tokenizer, self.published)
        if not _is_file(self.source, self.published):
            return self._from_pretrained(place, resize=pad_longest_side, clean=repaired)
        known = _verified(self.source, self.published, self.verify)
        path = resolve(self.source, self.published.name, published=known)
        tokenizer = load_tokenizer(place)
        model = self.towers.get(
            path,
            dtype=self.policy.weights,
            device=self.device,
            load=lambda: load_open_clip(path, self.architecture, dtype=self.policy.weights),
        )
        check_vocabulary(tokenizer, model)
        return ClipReward(
            model=model,
            tokenizer=tokenizer,
            resize=pad_longest_side,
            clean=repaired,
            batch=self.batch,
            policy=self.policy,
            device=self.device,
        )


def _is_file(source: Place, published: PublishedFile) -> bool:
    """Whether a source is a file in open_clip's keys, and not a model in CLIPModel layout."""
    path = on_disk(source)
    return source == published.repository if path is None else path.is_file()


def _verified(source: Place, published: PublishedFile, verify: bool) -> PublishedFile | None:
    """What a file must be, bit for bit; of those in other formats nothing is known."""
    path = on_disk(source) or Path(published.name)
    return published if verify and path.suffix in _PICKLED else None

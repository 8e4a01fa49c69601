"""ImageReward: how much people would like a picture for a prompt, by a BLIP model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.hub import hub_file
from flowbp.rewards.image_reward_model import (
    BLIP_LARGE,
    IMAGE_REWARD,
    BlipSizes,
    ImageRewardModel,
    load_model,
)
from flowbp.rewards.model_files import Place, load_tokenizer, located, on_disk
from flowbp.rewards.needs import Need, package, published_file
from flowbp.rewards.needs import tokenizer as tokenizer_need
from flowbp.rewards.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    channel_tensors,
    crop_shortest_side_torchvision,
    normalise,
)
from flowbp.rewards.reward import batch_size, check_inputs, score_in_batches
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.rewards.weight_files import PublishedFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORE_MEAN = 0.16717362830052426
"""Mean of the raw scores that ImageReward is reported relative to."""

SCORE_STD = 1.0333394966054072
"""Their standard deviation."""

MAX_TOKENS = 35
"""Tokens of a prompt that are read, as in training; the rest is cut off."""

_TOKENIZER = "google-bert/bert-base-uncased"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")


def _check_size(self: ImageReward, attribute: attrs.Attribute[Any], value: Any) -> None:
    path = on_disk(value)
    if path is not None and path.is_dir():
        path = path / self.published.name
        if not path.is_file():
            raise ValueError(f"`source` {str(value)!r} must hold {path.name}; download it there")
    if path is not None and self.verify:
        self.published.check_size(path)


@attrs.frozen(kw_only=True, eq=False)
class ImageReward:
    """ImageReward v1.0: a preference score with mean 0 and deviation 1 over its own data.

    ``score = (head(text(prompt, vision(image))[CLS]) - 0.167) / 1.033``, the head in float32
    whatever the policy. The shortest side of a picture becomes 224 pixels and its centre is cut
    out. The text tower looks at the picture in every layer, so only a prompt's tokens can be kept;
    they are, on the device.

    Construction loads the model. `batch` changes scores by rounding alone.

    Args:
        source: The published repository, its file, or a folder that holds it.
        tokenizer: A folder or hub id of bert-base-uncased's tokenizer.
        verify: Refuse a file that is not the published one, bit for bit.
        batch: Pictures in the model at a time, each batch computed again in the backward pass;
            None takes all.
        policy: Dtypes of the model.
        device: Where it runs.
        towers: The pool in which models are shared.
        published: What `source` means by its repository, and what `verify` compares with.
        sizes: of the model in the file.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached.
        ValueError: No such path, another file than the published one, a damaged file, or weights
            of another model; the first key that does not fit is named.

    Example:
        ``ImageReward(source="ImageReward.pt", device="cuda")(images, prompts)``

    Source: Xu et al., "ImageReward: Learning and Evaluating Human Preferences for Text-to-Image
    Generation", arXiv 2304.05977, section 3; github.com/THUDM/ImageReward (Apache-2.0).
    """

    source: Place = attrs.field(
        default=IMAGE_REWARD.repository,
        validator=[
            located(file=IMAGE_REWARD.name, folder=f"with {IMAGE_REWARD.name}"),
            _check_size,
        ],
    )
    tokenizer: Place = attrs.field(default=_TOKENIZER, validator=located(folder="a BERT tokenizer"))
    verify: bool = True
    batch: int | None = attrs.field(default=None, validator=batch_size)
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    published: PublishedFile = attrs.field(default=IMAGE_REWARD, repr=False)
    sizes: BlipSizes = attrs.field(default=BLIP_LARGE, repr=False)
    bert_tokenizer: PreTrainedTokenizerBase = attrs.field(init=False, repr=False)
    model: ImageRewardModel = attrs.field(init=False, repr=False)
    _statistics: tuple[Tensor, Tensor] = attrs.field(init=False, repr=False)
    _tokens: dict[str, tuple[Tensor, Tensor]] = attrs.field(factory=dict, init=False, repr=False)

    @staticmethod
    def needs(
        source: Place,
        tokenizer: Place,
        verify: bool,
        published: PublishedFile,
    ) -> tuple[Need, ...]:
        """What its construction reads."""
        weights = published_file(source, published, verify=verify)
        vocabulary = tokenizer_need(tokenizer, files=_TOKENIZER_FILES)
        return package("transformers"), weights, vocabulary

    @bert_tokenizer.default
    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return load_tokenizer(
            self.tokenizer, kind="BertTokenizer", files=_TOKENIZER_FILES, published=_TOKENIZER
        )

    @model.default
    def _load(self) -> ImageRewardModel:
        path = self._file()
        if self.verify:
            self.published.check(path)
        return self.towers.get(
            path,
            dtype=self.policy.weights,
            device=self.device,
            load=lambda: load_model(path, self.sizes),
        )

    @_statistics.default
    def _on_device(self) -> tuple[Tensor, Tensor]:
        dtype, device = self.policy.state, self.device
        return channel_tensors(CLIP_MEAN, CLIP_STD, dtype=dtype, device=device)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures against B prompts.

        Args:
            images: (B, 3, H, W) in [0, 1], any size.
            prompts: B prompts.

        Returns:
            (B,) scores in float32 (float64 under a float64 policy).

        Raises:
            ValueError: Images of another shape, or another number of prompts.
        """
        check_inputs(images, prompts)
        return score_in_batches(self._score, images, prompts, batch=self.batch)

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        ids, mask = self._read(prompts)
        size = self.model.vision.config.image_size
        with torch.autocast(self.device.type, enabled=False):
            pixels = images.to(device=self.device, dtype=self.policy.state)
            pixels = normalise(crop_shortest_side_torchvision(pixels, size), *self._statistics)
        with self.policy.autocast(self.device):
            raw: Tensor = self.model(pixels.to(self.policy.weights), ids, mask)
        return (raw - SCORE_MEAN) / SCORE_STD

    def _read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._tokens]
        if new:
            batch = self.bert_tokenizer(
                new,
                padding="max_length",
                max_length=MAX_TOKENS,
                truncation=True,
                return_tensors="pt",
            )
            ids, mask = batch.input_ids.to(self.device), batch.attention_mask.to(self.device)
            self._tokens.update(zip(new, zip(ids, mask, strict=True), strict=True))
        rows = [self._tokens[prompt] for prompt in prompts]
        return torch.stack([ids for ids, _ in rows]), torch.stack([mask for _, mask in rows])

    def _file(self) -> Path:
        path = on_disk(self.source)
        if path is None:
            return hub_file(str(self.source), self.published.name, alone=True)
        return path / self.published.name if path.is_dir() else path

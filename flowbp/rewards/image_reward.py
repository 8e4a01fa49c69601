"""ImageReward: how much people would like a picture for a prompt, by a BLIP model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.extras import require
from flowbp.place import Place, located, on_disk
from flowbp.rewards.needs import Need, file_need, package, tokenizer_need
from flowbp.rewards.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    channel_tensors,
    crop_shortest_side_torchvision,
    normalise,
)
from flowbp.rewards.pretrained import load_tokenizer
from flowbp.rewards.reward import check_inputs, score_in_batches
from flowbp.rewards.towers import ModelReward, TowerSizes
from flowbp.rewards.weight_files import Float32Head, assign, read_weights, unfilled
from flowbp.source_files import PublishedFile, resolve

if TYPE_CHECKING:
    from transformers import BlipTextModel, BlipVisionModel, PreTrainedTokenizerBase

IMAGE_REWARD = PublishedFile(
    repository="THUDM/ImageReward",
    name="ImageReward.pt",
    size=1_786_880_927,
    sha256="d71dc8d4912bc633c06ab8ef1ef6a81e8199d4369f14b47b29baf1d19de561f6",
)
"""The published checkpoint: float32 weights in the keys of BLIP's own code."""

SCORE_MEAN = 0.16717362830052426
"""Mean of the raw scores that ImageReward is reported relative to."""

SCORE_STD = 1.0333394966054072
"""Their standard deviation."""

MAX_TOKENS = 35
"""Tokens of a prompt that are read, as in training; the rest is cut off."""

_TOKENIZER = "google-bert/bert-base-uncased"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")

BLIP_LARGE = TowerSizes(
    vision=dict(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=16,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
        attention_dropout=0.0,
    ),
    text=dict(
        vocab_size=30524,
        hidden_size=768,
        encoder_hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=512,
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
        # Only transformers' decoder looks at the picture; it is called as an encoder.
        is_decoder=True,
    ),
)
"""ImageReward's sizes: fields of a BlipVisionConfig and of a BlipTextConfig."""


def _check_size(self: ImageReward, _: Any, value: Place) -> None:
    path = on_disk(value)
    if path is not None and path.is_dir():
        path = path / self.published.name
        if not path.is_file():
            raise ValueError(f"`source` {str(value)!r} must hold {path.name}; download it there")
    if path is not None and self.verify:
        self.published.check_size(path)


@attrs.frozen(kw_only=True, eq=False)
class ImageReward(ModelReward):
    """ImageReward v1.0: a preference score with mean 0 and deviation 1 over its own data.

    ``score = (head(text(prompt, vision(image))[CLS]) - 0.167) / 1.033``, the head in float32
    whatever the policy. The shortest side of a picture becomes 224 pixels and its centre is cut
    out. The text tower looks at the picture in every layer, so only a prompt's tokens can be kept;
    they are, on the device.

    Construction loads the model. Further arguments are those of `ModelReward`.

    Args:
        source: The published repository, its file, or a folder that holds it.
        tokenizer: A folder or hub id of bert-base-uncased's tokenizer.
        verify: Refuse a file that is not the published one, bit for bit.
        published: What `source` means by its repository, and what `verify` compares with.
        sizes: Of the model in the file.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
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
    published: PublishedFile = attrs.field(default=IMAGE_REWARD, repr=False)
    sizes: TowerSizes = attrs.field(default=BLIP_LARGE, repr=False)
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
        known = published if verify else None
        weights = file_need(source, published.name, published=known, size=published.size)
        return package("transformers"), weights, tokenizer_need(tokenizer, files=_TOKENIZER_FILES)

    @bert_tokenizer.default
    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return load_tokenizer(self.tokenizer, kind="BertTokenizer", files=_TOKENIZER_FILES)

    @model.default
    def _load(self) -> ImageRewardModel:
        known = self.published if self.verify else None
        path = resolve(self.source, self.published.name, published=known)
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
        """Score B pictures (B, 3, H, W) in [0, 1] against B prompts: (B,), differentiable."""
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


_UNUSED = re.compile(r"blip\.(vision_proj|text_proj)\.|.*\.position_ids$")
_RENAMED = (
    (r"^mlp\.layers\.", "head."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.norm([12])\.",
        r"vision.encoder.layers.\1.layer_norm\2.",
    ),
    (
        r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.",
        r"vision.encoder.layers.\1.self_attn.projection.",
    ),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.", r"vision.encoder.layers.\1.self_attn."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
)


class ImageRewardModel(nn.Module):
    """BLIP's two towers, the text looking at the picture, and a linear head on the first token."""

    def __init__(self, vision: BlipVisionModel, text: BlipTextModel) -> None:
        super().__init__()
        self.vision = vision
        self.text = text
        # The file counts the dropouts that the head was trained with as layers of their own.
        self.head = Float32Head(
            nn.Linear(text.config.hidden_size, 1024),
            nn.Identity(),
            nn.Linear(1024, 128),
            nn.Identity(),
            nn.Linear(128, 64),
            nn.Identity(),
            nn.Linear(64, 16),
            nn.Linear(16, 1),
        )

    def forward(self, pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Scores (B,) of normalised pictures (B, 3, S, S) under tokens and mask (B, L)."""
        patches = self.vision(pixel_values=pixels).last_hidden_state
        read = self.text(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=patches, is_decoder=False
        ).last_hidden_state[:, 0]
        with torch.autocast(pixels.device.type, enabled=False):
            score: Tensor = self.head(read.to(self.head[0].weight.dtype)).squeeze(-1)
        return score


def build_model(sizes: TowerSizes = BLIP_LARGE) -> ImageRewardModel:
    """ImageReward's network with new weights, in torch's default dtype."""
    transformers = require("transformers")
    return ImageRewardModel(
        transformers.BlipVisionModel(transformers.BlipVisionConfig(**sizes.vision)),
        transformers.BlipTextModel(
            transformers.BlipTextConfig(**sizes.text), add_pooling_layer=False
        ),
    )


def rename(key: str) -> str | None:
    """The network's name of a key of the published file; None for one it does not use."""
    if _UNUSED.match(key):
        return None
    for pattern, new in _RENAMED:
        key, count = re.subn(pattern, new, key)
        if count:
            return key
    return key


def load_model(path: Path, sizes: TowerSizes = BLIP_LARGE) -> ImageRewardModel:
    """ImageReward with the weights of a file in the published keys, in float32 on the CPU."""
    weights = read_weights(path)
    renamed = {new: tensor for key, tensor in weights.items() if (new := rename(key)) is not None}
    with unfilled(torch.float32):
        model = build_model(sizes)
    assign(model, renamed, path=path, what="ImageReward")
    return model

"""Vision-language models of Qwen's family that answer questions about pictures."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flowbp.adapters.dtype_policy import CPU, DtypePolicy
from flowbp.extras import require
from flowbp.limits import BATCH, COUNT
from flowbp.place import local_folder, read_json
from flowbp.rewards.needs import Need, model_need, package
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, fit_budget, normalise, patches
from flowbp.rewards.pretrained import (
    channel_statistics,
    check_tokenizer,
    load_model,
    load_tokenizer,
)
from flowbp.rewards.reward import check_inputs
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.validators import integer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)
"""How such a model is published."""

LEAST, MOST = 4, 16384
"""Parts of a picture, each a token, that Qwen's models look at."""


@attrs.frozen(kw_only=True, eq=False)
class VisionChat:
    """Greedy answers of a Qwen vision-language model to one question about each picture.

    Pictures are brought to the nearest size that the model's patches fill. Which other questions
    share the batch changes the model's logits by rounding alone, though a rounding may change a
    greedy answer.

    Source: Bai et al., "Qwen2.5-VL", arXiv 2502.13923; its processing of pictures also rounds the
    resized ones to 8 bits, which is left out.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    mean: Sequence[float] = CLIP_MEAN
    std: Sequence[float] = CLIP_STD
    tokens: int = attrs.field(default=4096, validator=integer(1, COUNT))
    batch: int = attrs.field(default=1, validator=integer(1, BATCH))
    policy: DtypePolicy = BFLOAT16
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    conversation: PictureConversation = attrs.field(init=False, repr=False)

    @conversation.default
    def _converse(self) -> PictureConversation:
        return PictureConversation(self.tokenizer, self.model.config.image_token_id)

    def __attrs_post_init__(self) -> None:
        self.policy.place(self.model, self.device)
        self.model.requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, questions: Sequence[str]) -> tuple[str, ...]:
        """Answer B questions about B pictures."""
        check_inputs(images, questions)
        answers: list[str] = []
        for start in range(0, len(images), self.batch):
            part = slice(start, start + self.batch)
            answers += self._answers(images[part], questions[part])
        return tuple(answers)

    def _answers(self, images: Tensor, questions: Sequence[str]) -> list[str]:
        flat, grid = self._cut(images)
        merge = self.model.config.vision_config.spatial_merge_size
        parts = int(grid[0].prod()) // merge**2
        rows = [torch.tensor(self.conversation.tokens(q, parts=parts)) for q in questions]
        pad = self.tokenizer.pad_token_id
        pad = int(self.tokenizer.eos_token_id if pad is None else pad)
        # On the left, as an answer goes on where a row ends.
        ids = pad_sequence(rows, True, pad, padding_side="left").to(self.device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], True, 0, padding_side="left")
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.to(self.device)}
        # transformers 5 finds the pictures among the tokens by it; 4 refuses it.
        if "mm_token_type_ids" in inspect.signature(self.model.forward).parameters:
            inputs["mm_token_type_ids"] = ids.eq(self.conversation.picture).int()
        with self.policy.autocast(self.device):
            said = self.model.generate(
                **inputs,
                pixel_values=flat,
                image_grid_thw=grid,
                max_new_tokens=self.tokens,
                pad_token_id=pad,
                # A published configuration may ask for draws, whose settings then do nothing.
                **dict(do_sample=False, temperature=None, top_p=None, top_k=None),
            )
        answers: list[str] = self.tokenizer.batch_decode(
            said[:, ids.shape[1] :], skip_special_tokens=True
        )
        return answers

    def _cut(self, images: Tensor) -> tuple[Tensor, Tensor]:
        vision = self.model.config.vision_config
        side = vision.patch_size * vision.spatial_merge_size
        with torch.autocast(self.device.type, enabled=False):
            pixels = images.to(device=self.device, dtype=self.policy.state)
            pixels = fit_budget(pixels, pixels=budget(*pixels.shape[-2:], side=side), multiple=side)
            pixels = normalise(pixels, self.mean, self.std)
        flat = patches(
            pixels,
            patch=vision.patch_size,
            merge=vision.spatial_merge_size,
            frames=vision.temporal_patch_size,
        )
        grid = [1, *(length // vision.patch_size for length in pixels.shape[-2:])]
        grids = torch.tensor([grid] * len(images), device=self.device)
        return flat.to(self.policy.weights), grids


def budget(height: int, width: int, *, side: int) -> int:
    """The number of pixels that a picture is brought to: its own, within the model's limits."""
    tokens = round(height / side) * round(width / side)
    return min(max(tokens, LEAST), MOST) * side**2


_MARK = "⟪question⟫"


@attrs.frozen(eq=False)
class PictureConversation:
    """One question about one picture, in the model's own chat template."""

    tokenizer: PreTrainedTokenizerBase
    picture: int
    _around: tuple[list[int], list[int]] = attrs.field(init=False, repr=False)

    @_around.default
    def _render(self) -> tuple[list[int], list[int]]:
        if not self.tokenizer.chat_template:
            raise ValueError(
                "`tokenizer` must have a chat template, got none; copy chat_template.jinja, or "
                "chat_template.json, of the model as well"
            )
        content = [{"type": "image"}, {"type": "text", "text": _MARK}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        before, mark, after = text.partition(_MARK)
        sides = tuple(self._encode(side, marks=True) for side in (before, after))
        if not mark or sides[0].count(self.picture) != 1 or self.picture in sides[1]:
            raise ValueError(
                "`tokenizer` must have a chat template with one picture before the question, got "
                f"{text!r}; take that of the model, which sees pictures"
            )
        return sides[0], sides[1]

    def tokens(self, question: str, *, parts: int) -> list[int]:
        """The tokens of a question."""
        before, after = self._around
        at = before.index(self.picture)
        return [
            *(*before[:at], *[self.picture] * parts, *before[at + 1 :]),
            *(*self._encode(question, marks=False), *after),
        ]

    def _encode(self, text: str, *, marks: bool) -> list[int]:
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=not marks
        ).input_ids
        return ids


FAMILY = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The models whose pictures are cut up alike."""


def chat_needs(source: str | os.PathLike[str]) -> tuple[Need, ...]:
    """What `load_vision_chat` reads."""
    return (
        package("transformers"),
        package("jinja2", extra="judges"),
        model_need(source, check=_check_folder),
        Need(check=partial(check_tokenizer, source, argument="source")),
    )


def load_vision_chat(
    source: str | os.PathLike[str],
    *,
    tokens: int = 4096,
    batch: int = 1,
    policy: DtypePolicy = BFLOAT16,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> VisionChat:
    """Load a model, its tokenizer and its channel statistics."""
    # Chat templates are written in it.
    require("jinja2", extra="judges")
    folder = local_folder(source)
    if folder is not None:
        _check_folder(folder)
    words = load_tokenizer(source, kind="AutoTokenizer", argument="source")
    mean, std = channel_statistics(source)
    model = towers.get(
        folder or str(source),
        dtype=policy.weights,
        device=device,
        load=lambda: _load(source, policy.weights),
    )
    return VisionChat(
        model=model,
        tokenizer=words,
        mean=mean,
        std=std,
        tokens=tokens,
        batch=batch,
        policy=policy,
        device=torch.device(device),
    )


def _load(source: str | os.PathLike[str], dtype: torch.dtype) -> PreTrainedModel:
    model: PreTrainedModel = load_model(
        source, "AutoModelForImageTextToText", check=_check_folder, dtype=dtype
    )
    _check_family(model.config.model_type, source)
    return model


def _check_folder(folder: Path) -> None:
    config = read_json(folder / "config.json", what="a folder in transformers' layout")
    _check_family(config.get("model_type"), folder)


def _check_family(kind: object, source: str | os.PathLike[str]) -> None:
    if kind not in FAMILY:
        raise ValueError(
            f"`source` must hold a model of type {' or '.join(FAMILY)}, got model_type {kind!r} "
            f"in {str(source)!r}; take CodeGoat24/UnifiedReward-2.0-qwen-7b or another of its sizes"
        )

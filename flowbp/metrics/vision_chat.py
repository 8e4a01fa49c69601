"""A vision-language model of Qwen's family that answers questions about pictures."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.policy import CPU, DtypePolicy
from flowbp.core._validators import integer
from flowbp.limits import BATCH, COUNT
from flowbp.metrics.conversation import PictureConversation
from flowbp.rewards.inputs import check_inputs
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise
from flowbp.rewards.qwen_pictures import fit, patches

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

    Args:
        model: A Qwen2-VL, Qwen2.5-VL or Qwen3-VL of transformers that generates.
        tokenizer: Its tokenizer, with the chat template.
        mean: Channel means that it was trained with.
        std: Channel standard deviations that it was trained with.
        tokens: Longest answer.
        batch: Pictures at a time.
        policy: Dtypes of the model.
        device: Where it runs.

    Raises:
        ValueError: `tokens` or `batch` is below 1, or the tokenizer has no fitting chat template.

    Example:
        ``VisionChat(model=model, tokenizer=tokenizer)(images, ["What is it?"])``

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
        """Answer B questions about B pictures.

        Args:
            images: (B, 3, H, W) in [0, 1].
            questions: B questions.

        Returns:
            B answers, without the marks of the conversation.

        Raises:
            ValueError: Images of another shape, or another number of questions.
        """
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
        ids, mask = self._padded([self.conversation.tokens(q, parts=parts) for q in questions])
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
        # transformers 5 finds the pictures among the tokens by it; 4 refuses it.
        if "mm_token_type_ids" in inspect.signature(self.model.forward).parameters:
            inputs["mm_token_type_ids"] = ids.eq(self.conversation.picture).int()
        with self.policy.autocast(self.device):
            said = self.model.generate(
                **inputs,
                pixel_values=flat,
                image_grid_thw=grid,
                max_new_tokens=self.tokens,
                pad_token_id=self._pad,
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
            pixels = fit(pixels, pixels=budget(*pixels.shape[-2:], side=side), multiple=side)
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

    def _padded(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        # Before the question, as an answer goes on where a row ends.
        longest = max(map(len, rows))
        ids = [[*[self._pad] * (longest - len(row)), *row] for row in rows]
        mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
        return torch.tensor(ids, device=self.device), torch.tensor(mask, device=self.device)

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)


def budget(height: int, width: int, *, side: int) -> int:
    """The number of pixels that a picture is brought to: its own, within the model's limits.

    Args:
        height: of the picture.
        width: of the picture.
        side: of what becomes one token.

    Returns:
        The pixels of the nearest whole number of tokens along both sides, from `LEAST` tokens to
        `MOST`.

    Example:
        >>> budget(512, 512, side=28) == 504 * 504, budget(8, 8, side=28) == 56 * 56
        (True, True)
    """
    tokens = round(height / side) * round(width / side)
    return min(max(tokens, LEAST), MOST) * side**2

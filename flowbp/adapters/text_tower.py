"""A text encoder with its tokenizer, and how it is run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.policy import DtypePolicy
from flowbp.adapters.releasing import Releasable
from flowbp.adapters.text_encoders import CutPromptWarning

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@attrs.frozen(eq=False)
class TextTower:
    """A frozen text encoder with the tokenizer it was trained with.

    Args:
        encoder: A transformers text encoder; construction freezes it. It can be released.
        tokenizer: Its tokenizer.

    Example:
        ``TextTower(pipeline.text_encoder, pipeline.tokenizer)``
    """

    held: Releasable = attrs.field(converter=Releasable, alias="encoder")
    tokenizer: PreTrainedTokenizerBase

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder, where it was placed; one that was released is loaded again."""
        return self.held.ready()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, none of them cut.

        Args:
            texts: Any number of them.

        Returns:
            Their lengths.
        """
        with _unchanged(self.tokenizer):
            return [len(ids) for ids in self.tokenizer(list(texts), verbose=False).input_ids]

    def tokens(
        self, prompts: Sequence[str], length: int, *, cure: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token numbers and attention mask of B prompts, padded or cut to one length.

        Args:
            prompts: B strings.
            length: How many tokens of each are read.
            cure: What to do about a prompt that is cut, of which is then warned; None does not.

        Returns:
            Numbers (B, length), and a mask (B, length) that is 0 at the padding.
        """
        prompts = list(prompts)
        if cure is not None:
            longest = max(self.lengths(prompts))
            if longest > length:
                warnings.warn(
                    f"a prompt has {longest} tokens and only the first {length} are read; {cure}",
                    CutPromptWarning,
                    stacklevel=2,
                )
        with _unchanged(self.tokenizer):
            batch = self.tokenizer(
                prompts,
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            )
        return batch.input_ids, batch.attention_mask


@contextmanager
def _unchanged(tokenizer: Any) -> Iterator[None]:
    # A tokenizer writes the padding and cut of its last call into its file, and what is saved
    # must not depend on whether embeddings were cached.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    padding, truncation = backend.padding, backend.truncation
    try:
        yield
    finally:
        if padding is None:
            backend.no_padding()
        else:
            backend.enable_padding(**padding)
        if truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**truncation)


def run_encoder(
    encoder: Any, ids: Tensor, policy: DtypePolicy, device: torch.device, **options: Any
) -> Any:
    """Run an encoder, or a part of one, where it is and in its own dtypes.

    Args:
        encoder: A transformers model.
        ids: Token numbers (B, L), wherever they are.
        policy: Dtypes of the encoder.
        device: Where it is.
        options: Further arguments; tensors are moved too.

    Returns:
        What the encoder gives.

    Example:
        >>> from types import SimpleNamespace
        >>> double = lambda input_ids, scale: SimpleNamespace(hidden=input_ids * scale)
        >>> ids, cpu = torch.tensor([[1, 2]]), torch.device("cpu")
        >>> run_encoder(double, ids, DtypePolicy(), cpu, scale=2).hidden
        tensor([[2, 4]])
    """
    placed = {
        name: value.to(device) if isinstance(value, Tensor) else value
        for name, value in options.items()
    }
    with policy.autocast(device):
        return encoder(input_ids=ids.to(device), **placed)

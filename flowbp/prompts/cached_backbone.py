"""A backbone that encodes each prompt once."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters import (
    Backbone,
    Conditioning,
    CutPrompt,
    CutPromptWarning,
    TextEncoders,
    WithTextEncoders,
)
from flowbp.adapters.backbone import (
    checked_batch,
    checked_conditioning,
    checked_field,
    checked_parameters,
    checked_pictures,
    checked_sigmas,
)
from flowbp.core import VelocityField
from flowbp.prompts.embedding_store import (
    EmbeddingsError,
    FolderStore,
    MemoryStore,
    Row,
    Store,
    encoders_digest,
)
from flowbp.validators import integer

EMBEDDING_BATCH = 1
"""Prompts encoded together by default: with one, no other prompt can change how it rounds."""


@attrs.frozen(eq=False)
class CachedBackbone:
    """A backbone whose `encode` looks into a store first; all else is the backbone's own.

    Prompts are encoded one at a time: an embedding is the same to the bit whether it comes from the
    store or not, and whatever other prompts there are. Tests assert that on the CPU.

    With a larger `batch`, a GPU encodes a long list sooner; the last batch is filled up with copies
    of its last prompt. How an embedding rounds then depends on its place in the batch, so other
    prompts can change its last bits. The store must belong to this backbone's encoders.
    """

    backbone: Backbone
    store: Store
    batch: int = attrs.field(default=EMBEDDING_BATCH, validator=integer(1))

    def __getattr__(self, name: str) -> Any:
        # What a family can do beyond the protocol stays within reach.
        if name in ("backbone", "store", "batch"):
            raise AttributeError(name)
        return getattr(self.backbone, name)

    @property
    def module(self) -> nn.Module:
        """The network that is trained."""
        return self.backbone.module

    @property
    def device(self) -> torch.device:
        """Where latents, conditioning and images live."""
        return self.backbone.device

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """The conditioning of B prompts; those that were never seen are encoded now."""
        if isinstance(prompts, str) or not prompts:
            raise ValueError(
                f"`prompts` must be a sequence of at least one string, got {prompts!r}; "
                "write [prompt] for a single one"
            )
        each = list(dict.fromkeys(prompts))
        rows = dict(zip(each, self.store.read_all(each), strict=True))
        absent = [prompt for prompt, row in rows.items() if row is None]
        if absent:
            with self._borrowed_encoders():
                rows |= self._computed(absent)
        chosen = [row for row in (rows[prompt] for prompt in prompts) if row is not None]
        tensors = {name: torch.stack([row[name] for row in chosen]) for name in chosen[0]}
        return Conditioning(tensors).to(self.device)

    def absent(self, prompts: Sequence[str]) -> list[str]:
        """The prompts, each once, that the store does not hold whole."""
        each = list(dict.fromkeys(prompts))
        rows = zip(each, self.store.read_all(each), strict=True)
        return [prompt for prompt, row in rows if row is None]

    def fill(
        self, prompts: Sequence[str], progress: Callable[[int, int], object] | None = None
    ) -> None:
        """Encode the prompts that `absent` returned and keep them, without a warning of `cut` ones.

        `progress` is called after every batch with how many are done, and of how many.
        """
        with warnings.catch_warnings(), self._borrowed_encoders():
            warnings.simplefilter("ignore", CutPromptWarning)
            for start in range(0, len(prompts), self.batch):
                rows = self._computed(prompts[start : start + self.batch])
                done = start + len(rows)
                if start == 0:
                    self._check_room(next(iter(rows.values())), len(prompts) - done)
                if progress is not None:
                    progress(done, len(prompts))

    def cut(self, prompts: Sequence[str]) -> tuple[CutPrompt, ...]:
        """The prompts that are longer than what is read; none if that cannot be known."""
        encoders = self._encoders
        return () if encoders is None else encoders.cut(list(dict.fromkeys(prompts)))

    @property
    def cure_of_cut(self) -> str:
        """What to do about prompts that are cut."""
        return "shorten them" if self._encoders is None else self._encoders.cure

    def release(self) -> None:
        """Free the encoders' memory; they come back only while a prompt is encoded."""
        if self._encoders is not None:
            self._encoders.offload()

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        """The backbone's."""
        found = self.backbone.noise(count, height=height, width=width, generator=generator)
        return checked_batch(self.backbone, "noise", found, count)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        """The backbone's."""
        found = self.backbone.sigmas(steps, height=height, width=width)
        return checked_sigmas(self.backbone, found, steps)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The backbone's."""
        return checked_field(self.backbone, self.backbone.velocity(conditioning))

    def decode(self, latents: Tensor) -> Tensor:
        """The backbone's."""
        return checked_pictures(self.backbone, self.backbone.decode(latents), len(latents))

    def trainable(self) -> Mapping[str, nn.Parameter]:
        """The backbone's."""
        return checked_parameters(self.backbone, self.backbone.trainable())

    def save(self, folder: Path) -> None:
        """The backbone's."""
        self.backbone.save(folder)

    @property
    def _encoders(self) -> TextEncoders | None:
        backbone: object = self.backbone
        return backbone.text_encoders if isinstance(backbone, WithTextEncoders) else None

    def _borrowed_encoders(self) -> AbstractContextManager[None]:
        # One entry that was lost must not cost their memory for the rest of a run.
        return nullcontext() if self._encoders is None else self._encoders.borrowed()

    @torch.no_grad()
    def _computed(self, prompts: Sequence[str]) -> dict[str, Row]:
        rows: dict[str, Row] = {}
        for start in range(0, len(prompts), self.batch):
            part = list(prompts[start : start + self.batch])
            filled = part + part[-1:] * (self.batch - len(part))
            found = checked_conditioning(self.backbone, self.backbone.encode(filled), len(filled))
            tensors = found.to("cpu").tensors
            for place, prompt in enumerate(part):
                # Copied, because a slice would keep the whole batch in memory.
                rows[prompt] = {name: tensor[place].clone() for name, tensor in tensors.items()}
                self.store.write(prompt, rows[prompt])
        return rows

    def _check_room(self, row: Row, remaining: int) -> None:
        each = sum(tensor.numel() * tensor.element_size() for tensor in row.values())
        room = self.store.room()
        if room is not None and each * remaining > room:
            raise EmbeddingsError(
                f"the embeddings of {remaining:,} more prompts take {each * remaining / 2**30:.1f} "
                f"GiB, {each / 2**20:.1f} MiB each, and {room / 2**30:.1f} GiB are free in "
                f"{self.store}; name a folder on a larger disk as embeddings.folder, or train on "
                "fewer prompts"
            )


def cached(
    backbone: Backbone, folder: Path | None, *, batch: int = EMBEDDING_BATCH
) -> CachedBackbone:
    """Keep a backbone's embeddings in a folder that runs share, or in memory.

    Embeddings of a backbone without `text_encoders` are kept in memory, with a warning.
    """
    store: Store = MemoryStore()
    if folder is not None and isinstance(backbone, WithTextEncoders):
        store = FolderStore(folder, encoders_digest(backbone.text_encoders, batch))
    elif folder is not None:
        warnings.warn(
            f"{type(backbone).__name__} has no `text_encoders` to identify its embeddings "
            "by, so they are kept in memory and not on disk; embeddings.folder=null avoids this "
            "warning",
            stacklevel=2,
        )
    return CachedBackbone(backbone, store, batch)

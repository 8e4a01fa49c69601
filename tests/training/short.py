"""A tiny model whose memory is short, as far as anyone can tell."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import torch
from torch import Tensor

from flowbp.adapters import Conditioning
from flowbp.core import VelocityField

from .fakes import FakeBackbone, Recorder

SAMPLES, PULL, DECODE = "samples", "pull", "decode"
ROOMY = 10**6
GIB = 2**30
BRANCHES = 2
"""Of each sample, which come in one call: the steps of these tests are guided."""


class ShortBackbone(FakeBackbone):
    """Raises `torch.OutOfMemoryError` for too many samples at once.

    Args:
        limits: the largest number of samples by stage; any other fits.
        spare: calls of each stage that fit in any case, before the limits hold.
        checkpointing: what its owner asked for; None for a backbone that has none.
        relief: how many samples more a pull may have with checkpointing on.
        dropout: of the velocity.
    """

    def __init__(
        self,
        *,
        spare: int = 0,
        checkpointing: object = None,
        relief: int = 4,
        dropout: float = 0.0,
        **limits: int,
    ) -> None:
        super().__init__()
        self.limits, self.spare, self.relief = limits, spare, relief
        self.calls = {SAMPLES: 0, PULL: 0, DECODE: 0}
        self.most = dict(self.calls)
        self.failed: list[str] = []
        self.dropout = torch.nn.Dropout(dropout)
        self.before: Callable[[str], object] = lambda stage: None
        self.on = checkpointing is True
        if checkpointing is not None:
            self.gradient_checkpointing = checkpointing
            self.checkpoint_gradients = self._switch

    def _switch(self, on: bool) -> None:
        self.on = on

    def _use(self, stage: str, count: int) -> None:
        self.before(stage)
        self.calls[stage] += 1
        self.most[stage] = max(self.most[stage], count)
        limit = self.limits.get(stage, ROOMY)
        if stage == PULL and self.on:
            limit += self.relief
        if count > limit and self.calls[stage] > self.spare:
            self.failed.append(stage)
            raise torch.OutOfMemoryError(f"no room for {count} samples")

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        field = super().velocity(conditioning)

        def short(latents: Tensor, sigma: Tensor, /) -> Tensor:
            # Evaluated first, so that a graph is there when memory runs out.
            v = self.dropout(field(latents, sigma))
            if torch.is_grad_enabled():
                self._use(PULL, len(latents))
            else:
                self._use(SAMPLES, len(latents) // BRANCHES)
            return v

        return short

    def decode(self, latents: Tensor) -> Tensor:
        images = super().decode(latents)
        self._use(DECODE, len(latents))
        return images


@attrs.define
class ToyMemory:
    """A device on which a pull of n samples takes `fixed + n each`, a tenth with checkpointing."""

    backbone: ShortBackbone
    room: int
    fixed: int = GIB
    each: int = 5 * GIB
    decode: int = 10 * GIB

    def free(self) -> int:
        return self.room

    def peak(self, work: Callable[[], object]) -> int:
        self.backbone.most = dict.fromkeys(self.backbone.most, 0)
        work()
        most = self.backbone.most
        if most[DECODE]:
            return most[DECODE] * self.decode
        taken = self.fixed + most[PULL] * self.each
        return taken // 10 if self.backbone.on else taken


@attrs.define
class Listener(Recorder):
    """A recorder that is told of portions too."""

    told: list = attrs.field(factory=list)

    def portions(self, step: int, portions: object, told: str) -> None:
        self.told.append((step, portions, told))

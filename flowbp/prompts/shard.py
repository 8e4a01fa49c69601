"""The share of a run's prompts that one process trains on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

import attrs
import torch

from flowbp.training import PromptSource
from flowbp.validators import integer


@attrs.frozen
class Shard:
    """The share of one process among those that train together.

    Args:
        rank: the process's number, from 0.
        world_size: how many there are.

    Raises:
        ValueError: a number is out of range.
    """

    rank: int = attrs.field(default=0, validator=integer(0))
    world_size: int = attrs.field(default=1, validator=integer(1))

    def __attrs_post_init__(self) -> None:
        if self.rank >= self.world_size:
            raise ValueError(
                f"`rank` must be in [0, {self.world_size - 1}], as `world_size` is "
                f"{self.world_size}, got {self.rank}"
            )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """The share that `torchrun` gave this process; everything without torchrun.

        Raises:
            ValueError: RANK or WORLD_SIZE is missing, is no number or out of range.
        """
        given = {name: environment[name] for name in ("RANK", "WORLD_SIZE") if name in environment}
        if not given:
            return cls()
        try:
            return cls(int(given["RANK"]), int(given["WORLD_SIZE"]))
        except (KeyError, ValueError) as error:
            raise ValueError(
                "the environment variables RANK and WORLD_SIZE must be two integers with 0 <= RANK "
                f"< WORLD_SIZE, got {given}; start with torchrun, or unset both"
            ) from error

    def of(self, prompts: Iterator[str]) -> Iterator[str]:
        """Every `world_size`-th of the prompts, starting with the `rank`-th."""
        return itertools.islice(prompts, self.rank, None, self.world_size)


@attrs.frozen
class ShardedPrompts:
    """One process's share of a source's stream.

    All processes draw the same stream and deal it out among themselves, without a remainder at the
    end of an epoch: together they see the prompts that one process alone would see.

    Args:
        source: the same on every process.
        shard: of this process.
    """

    source: PromptSource
    shard: Shard

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """This process's prompts without end; `generator` must be alike on every process."""
        return self.shard.of(self.source.stream(generator))

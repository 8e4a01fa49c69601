"""Which of a run's prompts are one process's own."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping

import attrs
import torch

from flowbp.core._validators import integer
from flowbp.training import PromptSource


@attrs.frozen
class Shard:
    """The share of one process among those that train together.

    Args:
        rank: the process's number, from 0.
        world_size: how many there are.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> list(Shard(1, 3).of(iter("abcdefg")))
        ['b', 'e']
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
        """The share that `torchrun` gave this process; all of it without one.

        Args:
            environment: holds RANK and WORLD_SIZE, or neither.

        Returns:
            The share.

        Raises:
            ValueError: one of the two is missing, is no number or out of range.

        Example:
            >>> Shard.from_environment({"RANK": "1", "WORLD_SIZE": "4"})
            Shard(rank=1, world_size=4)
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
        """Every `world_size`-th of the prompts, starting with the `rank`-th.

        Args:
            prompts: the same on every process.

        Returns:
            This process's own.
        """
        return itertools.islice(prompts, self.rank, None, self.world_size)


@attrs.frozen
class ShardedPrompts:
    """One process's share of a source's stream.

    The processes deal out one stream, which all of them draw alike: each epoch is divided among
    them without a rest, and together they see the prompts that one process alone would see.

    Args:
        source: the same on every process.
        shard: of this process.

    Example:
        >>> from flowbp.training import PromptList
        >>> source = PromptList(["a", "b", "c", "d"])
        >>> streams = [ShardedPrompts(source, Shard(rank, 2)).stream(
        ...     torch.Generator().manual_seed(0)) for rank in range(2)]
        >>> sorted(next(stream) for stream in streams * 2)
        ['a', 'b', 'c', 'd']
    """

    source: PromptSource
    shard: Shard

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """This process's prompts without end; `generator` must be alike on every process."""
        return self.shard.of(self.source.stream(generator))

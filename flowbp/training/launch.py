"""Which of how many processes this one is, as `torchrun` says it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs

from flowbp.validators import integer


class LaunchError(ValueError):
    """The environment does not say which of how many processes this one is."""


@attrs.frozen
class Launch:
    """Which of how many processes this one is, on all machines and on its own.

    Args:
        rank: its number on all machines, from 0.
        size: how many there are.
        local_rank: its number on its machine, which is that of its GPU.
        local_size: how many there are on that machine.

    Raises:
        ValueError: a number is not below its count.

    Example:
        >>> Launch.of({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
        Launch(rank=5, size=8, local_rank=1, local_size=4)
        >>> Launch.of({})
        Launch(rank=0, size=1, local_rank=0, local_size=1)
    """

    rank: int = attrs.field(default=0, validator=integer(0))
    size: int = attrs.field(default=1, validator=integer(1))
    local_rank: int = attrs.field(default=0, validator=integer(0))
    local_size: int = attrs.field(default=1, validator=integer(1))

    def __attrs_post_init__(self) -> None:
        """Refuse a number that is not below the count."""
        for number, count in ((self.rank, self.size), (self.local_rank, self.local_size)):
            if number >= count:
                raise ValueError(f"`rank` must be below `size`, got {number} of {count}")

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """What `torchrun` wrote into the environment; one process without it.

        Raises:
            LaunchError: what is written there is not whole.
        """
        given = {name: environment[name] for name in ("RANK", "WORLD_SIZE") if name in environment}
        if not given:
            return cls()
        try:
            rank, size = int(given["RANK"]), int(given["WORLD_SIZE"])
            local = int(environment.get("LOCAL_RANK", rank))
            return cls(rank, size, local, int(environment.get("LOCAL_WORLD_SIZE", size)))
        except (KeyError, ValueError) as error:
            raise LaunchError(
                "the environment variables RANK and WORLD_SIZE must be two integers with 0 <= RANK "
                f"< WORLD_SIZE, got {given}; start with torchrun, or unset both"
            ) from error

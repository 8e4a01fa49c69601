"""Which of how many processes this one is, as `torchrun` says it."""

from __future__ import annotations

import os
from collections.abc import Mapping

import attrs
import torch

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
        if not {"RANK", "WORLD_SIZE"} & set(environment):
            return cls()
        rank, size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE", least=1)
        local = _number(environment, "LOCAL_RANK", rank)
        locally = _number(environment, "LOCAL_WORLD_SIZE", size, least=1)
        for name, number, of, count in (
            ("RANK", rank, "WORLD_SIZE", size),
            ("LOCAL_RANK", local, "LOCAL_WORLD_SIZE", locally),
        ):
            if number >= count:
                raise _fault(f"{name} must be below {of}, got {number} of {count}")
        return cls(rank, size, local, locally)

    @property
    def gpu(self) -> int | None:
        """The number of this one's GPU among those that it sees; None where there are too few.

        One that sees a single GPU, as a scheduler gives each of its tasks, has that.
        """
        seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if self.local_size <= seen:
            return self.local_rank
        return 0 if seen == 1 and "CUDA_VISIBLE_DEVICES" in os.environ else None


def refuse_several(cure: str, size: int = 1) -> None:
    """Refuse to work in as many processes as torchrun has started, unless they are `size`.

    Raises:
        LaunchError: each of them would do the same, and in the same folder.
    """
    launch = Launch.of()
    if launch.size != size:
        known = "none of them knows of the others" if size == 1 else f"{size} are joined"
        raise LaunchError(
            f"the environment variable WORLD_SIZE is {launch.size}, as torchrun sets it for so "
            f"many processes, and {known}; {cure}"
        )


def _number(
    environment: Mapping[str, str], name: str, default: int | None = None, *, least: int = 0
) -> int:
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        number = int(text or "")
    except ValueError:
        number = -1
    if number < least:
        got = "not set" if text is None else f"set to {text!r}"
        raise _fault(f"{name} must be an integer of at least {least}, and is {got}")
    return number


def _fault(what: str) -> LaunchError:
    return LaunchError(
        f"the environment variable {what}; start with torchrun, or unset both RANK and WORLD_SIZE"
    )

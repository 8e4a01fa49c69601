"""What the processes of a run find wrong with its configuration, reported once and all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import attrs

from flowbp.config import ConfigurationError, Problem
from flowbp.training import Ranks

T = TypeVar("T")


def found_together(ranks: Ranks, load: Callable[[], T]) -> T:
    """Load on all processes, and go on once all have; raise what any of them found wrong."""
    if ranks.size == 1:
        return load()
    loaded: T | None = None
    own: ConfigurationError | None = None
    try:
        loaded = load()
    except ConfigurationError as error:
        own = error
    mine = own.problems if own else ()
    # What raised them stays here.
    every = ranks.exchange([attrs.evolve(each, cause=None) for each in mine])
    if own is None and loaded is not None and not any(every):
        return loaded
    raise ConfigurationError(_merged(every, mine)) from own


def _merged(every: list[list[Problem]], own: tuple[Problem, ...]) -> list[Problem]:
    """Each problem once: as it is here, or where only some others have it, with their rank."""
    found = {each: each for each in own}
    common = set(every[0])
    for rank, problems in enumerate(every):
        for each in problems:
            if each not in found and each not in common:
                found[each] = attrs.evolve(each, message=f"{each.message} (on rank {rank})")
            found.setdefault(each, each)
    return list(found.values())

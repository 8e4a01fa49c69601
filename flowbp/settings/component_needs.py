"""What configured components read when they are built, found and checked without building them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowbp.config import Component
from flowbp.config.arguments import key_of
from flowbp.config.tree import Step
from flowbp.evaluation import HeldOut
from flowbp.rewards import Need
from flowbp.rewards.towers import place_name

_Path = tuple[Step, ...]
Found = Iterator[tuple[_Path, str]]
"""The keys of each problem that a check finds, and what it is."""


def nested(component: Component[Any], path: _Path = ()) -> Iterator[tuple[_Path, Component[Any]]]:
    """A component and all those in its arguments, with their keys."""
    yield path, component
    for name, value in ({} if component.ready else component.completed).items():
        yield from _within(value, (*path, name))


def needs_of(component: Component[Any], path: _Path = ()) -> Iterator[tuple[_Path, Need]]:
    """What a component and those in its arguments read, by their `needs`, see `rewards.Need`."""
    for where, each in nested(component, path):
        needs = getattr(each.target, "needs", None)
        if callable(needs):
            given = each.completed
            named = {name: given[name] for name in inspect.signature(needs).parameters}
            yield from ((where, need) for need in needs(**named))


def _readable(component: Component[Any]) -> list[Need] | None:
    """All that it reads; None where asking raises something, which `missing_needs` reports."""
    try:
        return [need for _, need in needs_of(component)]
    except Exception:
        return None


def reads(component: Component[Any]) -> bool:
    """Whether a component, or one in its arguments, says that it reads something to be built."""
    return _readable(component) != []


def towers_of(component: Component[Any]) -> frozenset[str]:
    """Which models a component shares with others that read the same."""
    towers = (need.tower for need in _readable(component) or ())
    return frozenset(place_name(tower) for tower in towers if tower is not None)


def locations_read(component: Component[Any]) -> Iterator[str]:
    """From where a component, and those in its arguments, are read."""
    try:
        found = [need.location for _, need in needs_of(component) if need.location is not None]
        yield from dict.fromkeys(locate() for locate in found)
    # What raises is reported by `missing_needs`.
    except Exception:
        return


def missing_needs(component: Component[Any], path: _Path = ()) -> Found:
    """What is wrong with what a component reads, in words."""
    found: list[tuple[_Path, str]] = []
    # A check is code of others too, and whatever it raises is what is wrong.
    try:
        for where, need in needs_of(component, path):
            try:
                need.check()
            except Exception as error:
                found.append((where, in_words(error)))
    except Exception as error:
        found.append((path, in_words(error)))
    # One folder may be read twice.
    yield from dict.fromkeys(found)


def unsuitable(
    component: Component[Any],
    prompts: Sequence[HeldOut],
    seeds: Sequence[int],
    path: _Path = (),
) -> Found:
    """Why prompts and seeds do not suffice for a component or one in it, as their targets say."""
    for where, each in nested(component, path):
        found = _why_unsuitable(each, prompts, seeds)
        if found:
            yield where, found


def _why_unsuitable(
    component: Component[Any], prompts: Sequence[HeldOut], seeds: Sequence[int]
) -> str:
    find = getattr(component.target, "why_unsuitable", None)
    if not callable(find):
        return ""
    given = component.completed | {"prompts": prompts, "seeds": seeds}
    # A check is code of others too, and whatever it raises is what is wrong.
    try:
        return find(**{name: given[name] for name in inspect.signature(find).parameters}) or ""
    except Exception as error:
        return in_words(error)


def _within(value: Any, path: _Path) -> Iterator[tuple[_Path, Component[Any]]]:
    if isinstance(value, Component):
        yield from nested(value, path)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _within(each, (*path, key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _within(each, (*path, number))
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _within(getattr(value, field.name), (*path, key_of(field)))


def in_words(error: Exception) -> str:
    """An error of a check in words; that of a check of others with its type."""
    ours = isinstance(error, ValueError | OSError | ModuleNotFoundError)
    return str(error) if ours and str(error) else f"{type(error).__name__}: {error}"

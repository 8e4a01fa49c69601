"""What configured components read when they are built, found and checked without building them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from flowbp.configuration import Component
from flowbp.configuration.tree import Step
from flowbp.rewards import Need
from flowbp.rewards.towers import place_name
from flowbp.rewards.whereabouts import whereabouts
from flowbp.settings.intervals import Found

_Path = tuple[Step, ...]


def needs_of(component: Component[Any], path: _Path = ()) -> Iterator[tuple[_Path, Need]]:
    """What a component reads when it is built, and the components in its arguments.

    Args:
        component: whose target has `needs`, see `flowbp.rewards.Need`, or none.
        path: of the component.

    Yields:
        The path of a component, and what it reads.

    Raises:
        Exception: what a component's `needs` raises.

    Example:
        >>> from flowbp.shapes.embedded import embedded_reward
        >>> inner = Component("shapes", embedded_reward)
        >>> outer = Component("reward", lambda reward: reward, {"reward": inner})
        >>> [path for path, need in needs_of(outer, ("metrics", "likeness"))][0]
        ('metrics', 'likeness', 'reward')
    """
    needs = getattr(component.target, "needs", None)
    if callable(needs):
        given = component.completed
        named = {name: given[name] for name in inspect.signature(needs).parameters}
        yield from ((path, need) for need in needs(**named))
    for name, value in ({} if component.ready else component.completed).items():
        yield from _within(value, (*path, name))


def reads(component: Component[Any]) -> bool:
    """Whether a component, or one in its arguments, says that it reads something to be built.

    Args:
        component: any.

    Returns:
        False of one that does not say.

    Example:
        >>> from flowbp.metrics import clip_embedding
        >>> reads(Component("clip", clip_embedding)), reads(Component("mine", lambda: None))
        (True, False)
    """
    try:
        return any(True for _ in needs_of(component))
    # What raises is told by `unmet`.
    except Exception:
        return True


def towers_of(component: Component[Any]) -> frozenset[str]:
    """Which models a component shares with others that read the same.

    Args:
        component: any.

    Returns:
        Their places as `flowbp.rewards.Towers` calls them; none if the component does not say.

    Example:
        >>> from flowbp.metrics import clip_embedding
        >>> towers_of(Component("clip", clip_embedding, {"source": "owner/name"}))
        frozenset({'owner/name'})
    """
    try:
        needs = [need for _, need in needs_of(component)]
    # What raises is told by `unmet`.
    except Exception:
        return frozenset()
    return frozenset(place_name(need.tower) for need in needs if need.tower is not None)


def readings(component: Component[Any]) -> Iterator[str]:
    """From where a component, and those in its arguments, are read.

    Args:
        component: any.

    Yields:
        Each place once, with whether it is here; nothing of a component that does not say.

    Example:
        >>> from flowbp.metrics import clip_embedding
        >>> for line in readings(Component("clip", clip_embedding, {"source": "owner/name"})):
        ...     print(line.partition("/owner/")[2])
        name (not here)
    """
    try:
        found = [need.reading for _, need in needs_of(component) if need.reading is not None]
        yield from dict.fromkeys(map(whereabouts, found))
    # What raises is told by `unmet`.
    except Exception:
        return


def unmet(component: Component[Any], path: _Path = ()) -> Found:
    """What is wrong with what a component reads, in words.

    Args:
        component: any.
        path: of the component.

    Yields:
        The path of a component, and what is wrong.

    Example:
        >>> from flowbp.rewards import needing, package
        >>> build = needing(lambda: [package("no_such_package")])(lambda: None)
        >>> [message for _, message in unmet(Component("mine", build))]
        ['`no_such_package` is needed here and is not installed; run: pip install "flowbp[models]"']
    """
    found: list[tuple[_Path, str]] = []
    # A check is code of others too, and whatever it raises is what is wrong.
    try:
        for where, need in needs_of(component, path):
            try:
                need.check()
            except Exception as error:
                found.append((where, told(error)))
    except Exception as error:
        found.append((path, told(error)))
    # One folder may be read twice.
    yield from dict.fromkeys(found)


def _within(value: Any, path: _Path) -> Iterator[tuple[_Path, Need]]:
    if isinstance(value, Component):
        yield from needs_of(value, path)
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _within(each, (*path, key))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _within(each, (*path, number))
    elif attrs.has(type(value)):
        for field in attrs.fields(type(value)):
            yield from _within(getattr(value, field.name), (*path, field.alias))


def told(error: Exception) -> str:
    """An error of a check in words; that of a check of others with its type.

    Args:
        error: any.

    Returns:
        Its message.

    Example:
        >>> told(ValueError("`source` is empty")), told(KeyError("a"))
        ('`source` is empty', "KeyError: 'a'")
    """
    ours = isinstance(error, ValueError | OSError | ModuleNotFoundError)
    return str(error) if ours and str(error) else f"{type(error).__name__}: {error}"

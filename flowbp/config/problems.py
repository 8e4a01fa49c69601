"""What is wrong in a configuration, as values, and the one error that carries all of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import attrs

from .tree import NamedMapping, Typed

_SHOWN = 200


@attrs.frozen
class Problem:
    """One mistake in a configuration: where it is, what it is, and who wrote it."""

    path: str
    message: str
    origin: str
    cause: BaseException | None = attrs.field(default=None, eq=False, repr=False)

    def __str__(self) -> str:
        path = self.path if len(self.path) <= _SHOWN else f"{self.path[:_SHOWN]}…"
        return ": ".join(part for part in (self.origin, path, self.message) if part)


class ConfigurationError(Exception):
    """Every problem of a configuration at once; its text is a list that a person can work off."""

    problems: tuple[Problem, ...]

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        if not self.problems:
            raise ValueError("`problems` must hold at least one Problem, got none")
        super().__init__(self.problems)
        causes = [problem.cause for problem in self.problems if problem.cause is not None]
        if causes:
            self.__cause__ = BaseExceptionGroup("what raised the problems", causes)

    def __str__(self) -> str:
        count = len(self.problems)
        heading = f"{count} problem{'s' if count > 1 else ''} in the configuration:"
        return "\n".join([heading, *(f"  {problem}" for problem in self.problems)])


class Rejected(ValueError):
    """A value that a rule of this package refuses; becomes a `Problem` once its path is known."""


class Absent(Rejected):
    """What must be given is not; no problem where it may only be unreadable."""


class UnknownKey(Rejected):
    """A key that there is not, whatever its value."""


def shown(value: object) -> str:
    """A value as messages show it, not longer than a few lines."""
    if isinstance(value, NamedMapping):
        keys = dict(value)
        name = keys.pop("name")
        below = f" with {listed(keys)} below it" if keys else ""
        return f"{shown(name.text if isinstance(name, Typed) else name)}{below}"
    text = repr(_as_read(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _as_read(value: object) -> object:
    """A value with what YAML reads of all that was typed, or its text if that is no YAML."""
    if isinstance(value, Typed):
        return value.text if value.refusal else value.value
    if isinstance(value, dict):
        return {key: _as_read(each) for key, each in value.items()}
    return [_as_read(each) for each in value] if isinstance(value, list) else value


def must_be(what: str, value: object, cure: str = "") -> Rejected:
    """The refusal of a value of another type."""
    return Rejected(f"must be {what}, got {shown(value)}{f'; {cure}' if cure else ''}")


def nearest(name: str, valid: Iterable[str]) -> str:
    """A question that offers the valid names closest to a misspelt one, or an empty text."""
    # What is longer is no slip, and comparing takes the square of the length.
    close = difflib.get_close_matches(name, list(valid), n=2) if len(name) <= _SHOWN else []
    return f"Did you mean {' or '.join(f'`{match}`' for match in close)}? " if close else ""


def listed(names: Iterable[str]) -> str:
    """Names in backquotes, separated by commas."""
    return ", ".join(f"`{name}`" for name in names)

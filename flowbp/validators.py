"""Validators of frozen values: they name the argument, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


@attrs.frozen
class Bounded:
    """A validator with what it lets pass in words, such as `1 to 25`."""

    validate: Validator
    range: str

    def __call__(self, instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        """Validate."""
        self.validate(instance, attribute, value)


def range_of(validator: Any) -> str:
    """What a validator of this module lets pass, also inside attrs' `optional`; or nothing.

    Example:
        >>> range_of(attrs.validators.optional(integer(1, 4096)))
        '1 to 4,096'
    """
    inner = getattr(validator, "validator", validator)
    return inner.range if isinstance(inner, Bounded) else ""


def integer(minimum: int, maximum: int | None = None) -> Bounded:
    """An integer from `minimum` to `maximum`; `True` and `False` are not integers here."""
    words = f"at least {minimum:,}"
    if maximum is not None:
        words = f"{minimum:,} to {'2^63 - 1' if maximum == 2**63 - 1 else f'{maximum:,}'}"

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ValueError(f"`{attribute.name}` must be an integer >= {minimum}, got {value!r}")
        if maximum is not None and value > maximum:
            raise ValueError(f"`{attribute.name}` must be an integer <= {maximum}, got {value!r}")

    return Bounded(validate, words)


def real(minimum: float, maximum: float = math.inf, *, above: bool = False) -> Bounded:
    """A finite number in [minimum, maximum], or in (minimum, maximum] with `above`."""
    opening = "(" if above or math.isinf(minimum) else "["
    closing = ")" if math.isinf(maximum) else "]"
    interval = f"{opening}{minimum:g}, {maximum:g}{closing}"
    lower = "" if math.isinf(minimum) else f"{'above' if above else 'at least'} {minimum:g}"
    upper = "" if math.isinf(maximum) else f"at most {maximum:g}"
    words = ", ".join(filter(None, (lower, upper)))
    if lower and upper and not above:
        words = f"{minimum:g} to {maximum:g}"

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        inside = number and math.isfinite(value) and minimum <= value <= maximum
        if not inside or (above and value == minimum):
            raise ValueError(f"`{attribute.name}` must be a number in {interval}, got {value!r}")

    return Bounded(validate, words)


def one_of(*choices: str) -> Validator:
    """One of a few words."""
    words = " or ".join(f"{choice!r}" for choice in choices)

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value not in choices:
            raise ValueError(f"`{attribute.name}` must be {words}, got {value!r}")

    return validate


def has(method: str, example: str) -> Validator:
    """An object with a method of that name."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if not callable(getattr(value, method, None)) or isinstance(value, type):
            raise ValueError(
                f"`{attribute.name}` must be an object with a `{method}` method, "
                f"such as {example}, got {value!r}"
            )

    return validate


def not_empty(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """A text or a collection with something in it."""
    if len(value) == 0:
        raise ValueError(f"`{attribute.name}` must not be empty, got {value!r}")

"""Validators of this folder's values: they name the field, the value and the cure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import attrs


def up_to(most: int) -> Callable[[Any, attrs.Attribute[int], int], None]:
    """A validator of whole numbers from 1 on, up to one."""

    def validate(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
        above_zero(instance, attribute, value)
        if value > most:
            raise ValueError(f"`{attribute.name}` must be at most {most}, got {value}")

    return validate


def above_zero(instance: Any, attribute: attrs.Attribute[int], value: int) -> None:
    """Accept whole numbers of 1 and above."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{attribute.name}` must be a whole number of at least 1, got {value!r}")


def finite(instance: Any, attribute: attrs.Attribute[float], value: float) -> None:
    """Accept numbers that are neither infinite nor not-a-number."""
    if not math.isfinite(value):
        raise ValueError(f"`{attribute.name}` must be a finite number, got {value!r}")


def all_finite(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept mappings whose values are finite numbers."""
    for name, number in value.items():
        if not math.isfinite(number):
            raise ValueError(
                f"`{attribute.name}` must hold finite numbers, got {number!r} for {name!r}"
            )


def not_empty(instance: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    """Accept texts and sequences with something in them."""
    if len(value) == 0:
        raise ValueError(f"`{attribute.name}` must not be empty, got {value!r}")

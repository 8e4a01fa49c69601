"""Comparisons that say by how much things differ, and pictures to compare."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def relative_gap(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected entry; infinite if not finite."""
    gap = _largest(actual - expected)
    size = _largest(expected)
    if gap == 0:
        return 0.0
    return gap / size if size > 0 and gap < float("inf") else float("inf")


def assert_same_shape(name: str, actual: Tensor, expected: tuple[int, ...]) -> None:
    """Assert a shape; `name` is what has it."""
    if tuple(actual.shape) != tuple(expected):
        raise AssertionError(
            f"`{name}` must have shape {tuple(expected)}, got {tuple(actual.shape)}"
        )


def assert_finite(name: str, actual: Tensor) -> None:
    """Assert that every entry is finite."""
    bad = int((~torch.isfinite(actual)).sum())
    if bad:
        raise AssertionError(f"`{name}` must be finite, got {bad} of {actual.numel()} entries not")


def assert_close(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert that two tensors agree to a relative tolerance of their largest entry.

    Args:
        name: what they are, for the message.
        actual: any shape.
        expected: the same shape.
        tolerance: relative to the largest expected entry.

    Raises:
        AssertionError: shapes differ, or the gap is larger than `tolerance`.

    Example:
        >>> assert_close("x", torch.tensor([1.0]), torch.tensor([1.0]), tolerance=0)
    """
    assert_same_shape(name, actual, tuple(expected.shape))
    gap = relative_gap(actual, expected)
    if not gap <= tolerance:
        raise AssertionError(
            f"`{name}` must agree to {tolerance:g} relative, got a gap of {gap:.3g} "
            f"(largest entry expected {_largest(expected):.3g}, got {_largest(actual):.3g})"
        )


def assert_gradients_close(
    name: str,
    actual: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    tolerance: float,
) -> None:
    """Assert that two gradients agree, relative to the largest entry of the whole gradient.

    Args:
        name: what they are, for the message.
        actual: gradients by parameter.
        expected: the same parameters.
        tolerance: relative to the largest expected entry of all parameters.

    Raises:
        AssertionError: a name is missing or one parameter's gradient is off; names it.

    Example:
        >>> gradient = {"a": torch.tensor([1.0])}
        >>> assert_gradients_close("gradient", gradient, gradient, tolerance=0)
    """
    odd = sorted(set(actual) ^ set(expected))
    if odd:
        raise AssertionError(
            f"`{name}` must hold the same parameters on both sides, differs: {odd}"
        )
    size = max(map(_largest, expected.values()), default=0.0)
    for key, wanted in expected.items():
        assert_same_shape(f"{name}[{key}]", actual[key], tuple(wanted.shape))
        gap = _largest(actual[key] - wanted)
        if not gap <= tolerance * size:
            raise AssertionError(
                f"`{name}` must agree to {tolerance:g} relative, got a gap of {gap:.3g} "
                f"at {key!r}; the largest entry of the gradient is {size:.3g}"
            )


def assert_within(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert that no entry differs by more than `tolerance`, absolute, and say which does most."""
    assert_same_shape(name, actual, tuple(expected.shape))
    gaps = (actual.detach().double() - expected.detach().double()).abs()
    off = int((~(gaps <= tolerance)).sum())
    if not off:
        return
    # What is not finite differs the most.
    worst = int(gaps.nan_to_num(nan=torch.inf).argmax())
    place = tuple(int(each) for each in torch.unravel_index(torch.tensor(worst), gaps.shape))
    raise AssertionError(
        f"`{name}` must agree to {tolerance:g}, got a difference of {gaps[place].item():.3g} at "
        f"{place}, {actual[place].item():.6g} where {expected[place].item():.6g} was expected; "
        f"{off} of {gaps.numel()} entries are off"
    )


def assert_arguments(component: Any, *choices: tuple[str, ...], kind: str) -> None:
    """Assert that a function has the arguments by which a configuration knows its kind."""
    # What has no dotted path, as a lambda, is called by position alone.
    if not inspect.isfunction(component) or "<" in component.__qualname__:
        return
    found = inspect.signature(component).parameters.values()
    required = [each.name for each in found if each.default is each.empty]
    if set(required) not in map(set, choices):
        wanted = ", or ".join(" and ".join(f"`{name}`" for name in names) for names in choices)
        raise AssertionError(
            f"`{component.__name__}` must have the arguments {wanted}, got "
            f"{', '.join(required) or 'none'}; by others a configuration takes a function for one "
            f"that makes a {kind}, and its arguments for keys, so rename them"
        )


def smooth_pictures(count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
    """Random colours away from black and white, so that a small step stays in [0, 1]."""
    coarse = torch.rand((count, 3, 4, 4), generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return 0.2 + 0.6 * smooth


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0

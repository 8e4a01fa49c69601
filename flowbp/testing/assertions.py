"""Comparisons that say by how much things differ."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def relative_gap(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest expected entry; infinite if not finite.

    Args:
        actual: any shape.
        expected: the same shape.

    Example:
        >>> relative_gap(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 4.0]))
        0.25
    """
    gap = float((actual - expected).abs().max()) if actual.numel() else 0.0
    size = float(expected.abs().max()) if expected.numel() else 0.0
    if gap == 0:
        return 0.0
    return gap / size if size > 0 and gap < float("inf") else float("inf")


def assert_same_shape(name: str, actual: Tensor, expected: tuple[int, ...]) -> None:
    """Assert a shape.

    Args:
        name: what has it, for the message.
        actual: the tensor.
        expected: its shape.

    Raises:
        AssertionError: it differs; names what has it.

    Example:
        >>> assert_same_shape("scores", torch.ones(2), (2,))
    """
    if tuple(actual.shape) != tuple(expected):
        raise AssertionError(
            f"`{name}` must have shape {tuple(expected)}, got {tuple(actual.shape)}"
        )


def assert_finite(name: str, actual: Tensor) -> None:
    """Assert that every entry is finite.

    Args:
        name: what it is, for the message.
        actual: the tensor.

    Raises:
        AssertionError: some are not; says how many.

    Example:
        >>> assert_finite("scores", torch.ones(2))
    """
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
            f"(largest entry expected {float(expected.abs().max()):.3g}, "
            f"got {float(actual.abs().max()):.3g})"
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
    if set(actual) != set(expected):
        odd = sorted(set(actual) ^ set(expected))
        raise AssertionError(
            f"`{name}` must hold the same parameters on both sides, differs: {odd}"
        )
    size = max((float(each.abs().max()) for each in expected.values() if each.numel()), default=0)
    for key, wanted in expected.items():
        assert_same_shape(f"{name}[{key}]", actual[key], tuple(wanted.shape))
        gap = float((actual[key] - wanted).abs().max()) if wanted.numel() else 0.0
        if not gap <= tolerance * size:
            raise AssertionError(
                f"`{name}` must agree to {tolerance:g} relative, got a gap of {gap:.3g} "
                f"at {key!r}; the largest entry of the gradient is {size:.3g}"
            )


def assert_within(name: str, actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Assert that no entry differs by more than `tolerance`, and say which does most.

    Args:
        name: what they are, for the message.
        actual: any shape.
        expected: the same shape.
        tolerance: absolute.

    Raises:
        AssertionError: shapes differ, or an entry is off or not finite; names the worst one.

    Example:
        >>> assert_within("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), 0.1)
        Traceback (most recent call last):
            ...
        AssertionError: `x` must agree to 0.1, got a difference of 0.5 at (1,), 2 where 2.5 was \
expected; 1 of 2 entries are off
    """
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

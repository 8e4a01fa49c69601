from __future__ import annotations

import math

import pytest

from flowbp.training import Constant, CosineDecay, LinearDecay


def factors(schedule, total: int) -> list[float]:
    return [schedule.factor(step, total, 1e-3) for step in range(total)]


def test_constant() -> None:
    assert factors(Constant(), 3) == [1, 1, 1]
    assert factors(Constant(warmup=2), 4) == pytest.approx([1 / 3, 2 / 3, 1, 1])


def test_linear_ends_at_the_final_ratio() -> None:
    assert factors(LinearDecay(final_ratio=0.0), 5) == [1, 0.75, 0.5, 0.25, 0]
    assert factors(LinearDecay(warmup=1, final_ratio=0.2), 4) == pytest.approx([0.5, 1, 0.6, 0.2])


def test_cosine_ends_at_the_final_ratio() -> None:
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * t / 4)) / 2 for t in range(5)]
    assert factors(CosineDecay(final_ratio=0.1), 5) == pytest.approx(expected, abs=0)
    assert CosineDecay(final_ratio=0.1).factor(299, 300, 1e-3) == pytest.approx(0.1, abs=1e-16)
    assert factors(CosineDecay(warmup=1, final_ratio=0.0), 4) == pytest.approx([0.5, 1, 0.5, 0])


@pytest.mark.parametrize("schedule", [Constant(2), LinearDecay(2), CosineDecay(2)])
def test_run_of_one_full_step_uses_the_full_rate(schedule) -> None:
    assert schedule.factor(2, 3, 1e-3) == 1


@pytest.mark.parametrize("schedule", [Constant(3), LinearDecay(3), CosineDecay(3)])
def test_warmup_longer_than_the_run_is_refused(schedule) -> None:
    with pytest.raises(ValueError, match="`warmup` must be below the run's 3 optimizer steps"):
        schedule.factor(0, 3, 1e-3)


@pytest.mark.parametrize("step", [-1, 3])
def test_step_outside_the_run_is_refused(step: int) -> None:
    with pytest.raises(ValueError, match=r"`step` must be in \[0, 2\]"):
        Constant().factor(step, 3, 1e-3)


@pytest.mark.parametrize("kind", [LinearDecay, CosineDecay])
def test_illegal_ratio_is_refused(kind: type) -> None:
    with pytest.raises(ValueError, match=r"`final_ratio` must be a number in \[0, 1\], got 1.5"):
        kind(final_ratio=1.5)

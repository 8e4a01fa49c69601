"""What a step's metrics hold, and a warning where there is no gradient."""

from __future__ import annotations

import warnings

import pytest

from flowbp.core import Bridge, Hinge, Method, Segment, Sparse, Surrogate
from flowbp.training import FallingRewardWarning, NoGradientWarning
from flowbp.training.metrics import metrics_row

from .fakes import Recorder, make_step, make_trainer


class Thrice:
    """A method of three segments on six steps."""

    def draw(self, sigmas, generator) -> Surrogate:
        places = ((0, 2), (2, 4), (4, 6))
        segments = tuple(
            Segment(start, stop, {start: float(sigmas[stop] - sigmas[start])}, {start: 1.0})
            for start, stop in places
        )
        return Surrogate(segments, alpha=0.5, reward_input="sample")


@pytest.mark.parametrize(
    ("method", "count"), [(Sparse(active=2), 1), (Bridge(active=3), 2), (Thrice(), 3)]
)
def test_every_segment_has_its_residual_in_the_row(method: Method, count: int) -> None:
    recorder = Recorder()
    make_trainer(make_step(method=method), steps=1, observers=[recorder]).run()
    row = metrics_row(recorder.rows[0])
    names = [f"residual_{number}" for number in range(max(count, 2))]
    keys = list(row)
    first = keys.index("learning_rate") + 1
    assert keys[first : keys.index("velocity_calls")] == names
    assert [row[name] is not None for name in names] == [n < count for n in range(max(count, 2))]


def test_a_hinge_that_every_sample_has_passed_is_told_once() -> None:
    with pytest.warns(NoGradientWarning) as told:
        make_trainer(make_step(shape=Hinge(-1.0)), steps=3).run()
    (warning,) = told
    assert "step 1 has no gradient" in str(warning.message)
    assert "under Hinge(target=-1.0) 0;" in str(warning.message)


def falling_after(step: int, *, wobble: float = 0.01):
    """A reward that rises for so many steps, one call each, and falls from then on."""
    calls = 0

    def reward(images, prompts):
        nonlocal calls
        calls += 1
        height = min(calls, 2 * step - calls) / step + wobble * (-1) ** calls
        return height + 1e-6 * images.mean((1, 2, 3))

    return reward


def test_a_falling_reward_is_told_once_with_its_peak_and_the_cure() -> None:
    with pytest.warns(FallingRewardWarning) as told:
        make_trainer(make_step(reward=falling_after(30)), steps=60).run()
    (warning,) = [each for each in told if each.category is FallingRewardWarning]
    text = str(warning.message)
    assert "up to 30, has been lower since step 50" in text
    assert "the learning rate, whose peak was 0.01" in text and "anchor" in text


def test_a_rising_reward_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FallingRewardWarning)
        make_trainer(make_step(reward=falling_after(90)), steps=60).run()

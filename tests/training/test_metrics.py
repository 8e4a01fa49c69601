"""What a step's metrics hold, and a warning where there is no gradient."""

from __future__ import annotations

import pytest

from flowbp.core import Bridge, Hinge, Method, Segment, Sparse, Surrogate
from flowbp.training import NoGradientWarning
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

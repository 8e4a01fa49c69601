"""What a run reads is checked without its model, but for the parts that Python replaces."""

from __future__ import annotations

import pytest

from flowbp.config import ConfigurationError
from flowbp.settings import load
from flowbp.settings.loader import problems_of
from flowbp.settings.preflight import reading_checks


@pytest.mark.parametrize(
    ("replaced", "wrong"),
    [
        ((), {"reward.source", "sampling.width", "tuning.targets"}),
        (("reward",), {"sampling.width", "tuning.targets"}),
        (("tuning",), {"reward.source", "sampling.width"}),
        (("tuned", "judge"), {"reward.source"}),
        (("backbone", "reward"), set()),
    ],
)
def test_what_python_replaces_is_not_checked(yaml, replaced, wrong):
    typed = ["reward.source=/no/reward", "sampling.width=18", "tuning={name: lora, targets: [no]}"]
    settings = load([yaml, *typed]).settings
    assert {each.path for each in problems_of(reading_checks(replaced), settings)} == wrong


def test_velocities_that_a_method_needs_all_of_cannot_be_extrapolated(yaml):
    typed = [yaml, "sampling.velocity_every=2", "method={name: draft, last: 2}"]
    # Steps 0 and 1 are always evaluated, and the last two of four are active.
    assert load([*typed, "sampling.steps=5"]).settings.sampling.velocity_every == 2
    with pytest.raises(ConfigurationError) as refused:
        load(typed)
    (problem,) = refused.value.problems
    assert problem.path == "sampling.velocity_every" and "none is left" in problem.message

"""What a run reads is checked without its model, but for the parts that Python replaces."""

from __future__ import annotations

import pytest

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

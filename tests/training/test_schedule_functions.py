from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

from flowbp.training import CosineDecay, LinearDecay, ScheduleFunction

WARMUP = {"num_warmup_steps": 3}
CASES = {
    "linear": (transformers.get_linear_schedule_with_warmup, WARMUP),
    "restarts": (
        transformers.get_cosine_with_hard_restarts_schedule_with_warmup,
        {**WARMUP, "num_cycles": 3},
    ),
    "polynomial": (
        transformers.get_polynomial_decay_schedule_with_warmup,
        {**WARMUP, "lr_end": 2e-4, "power": 2.0},
    ),
    "constant": (transformers.get_constant_schedule_with_warmup, WARMUP),
    "min_lr": (get_cosine_with_min_lr_schedule_with_warmup, {**WARMUP, "min_lr": 1e-4}),
    "inverse_sqrt": (transformers.get_inverse_sqrt_schedule, WARMUP),
    "stable": (transformers.get_wsd_schedule, {**WARMUP, "num_decay_steps": 5}),
}


@pytest.mark.parametrize(("function", "arguments"), CASES.values(), ids=CASES)
def test_rates_are_those_that_transformers_sets(function, arguments) -> None:
    total, rate = 20, 1e-3
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
    whole = {"num_training_steps": total}
    takes_total = function not in (
        transformers.get_constant_schedule_with_warmup,
        transformers.get_inverse_sqrt_schedule,
    )
    scheduler = function(optimizer, **arguments, **(whole if takes_total else {}))
    schedule = ScheduleFunction(function, arguments)
    for step in range(total):
        (wanted,) = scheduler.get_last_lr()
        assert rate * schedule.factor(step, total, rate) == pytest.approx(wanted, rel=1e-12)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("function", "arguments", "match"),
    [
        (CASES["linear"][0], {"num_warmup_steps": 20}, r"`num_warmup_steps` must be in \[0, 19\]"),
        (CASES["linear"][0], {"num_warmup_steps": -1}, r"`num_warmup_steps` must be in \[0, 19\]"),
        (CASES["polynomial"][0], {**WARMUP, "lr_end": 1.0}, "lr_end .* must be smaller than"),
        (CASES["min_lr"][0], WARMUP, "refuses its keys: One of min_lr or min_lr_rate"),
        (
            transformers.optimization.get_reduce_on_plateau_schedule,
            {},
            "makes a ReduceLROnPlateau, which is no function of the step",
        ),
    ],
)
def test_what_gives_no_schedule_is_refused(function, arguments, match) -> None:
    with pytest.raises(ValueError, match=match):
        ScheduleFunction(function, arguments).factor(0, 20, 1e-3)


def test_flowbps_own_end_with_the_last_step() -> None:
    line, total = CASES["linear"][0], 20
    theirs = ScheduleFunction(line, {"num_warmup_steps": 0})
    assert theirs.factor(19, total, 1e-3) == pytest.approx(1 / total)
    for schedule in (LinearDecay(final_ratio=0), CosineDecay(final_ratio=0)):
        assert schedule.factor(19, total, 1e-3) == pytest.approx(0, abs=1e-15)

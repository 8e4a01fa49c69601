"""Runs read from made-up cells: sides, gains, collapses, and rates that are chosen."""

from __future__ import annotations

import math

import pytest

from flowbp.study.training_results import RateResult, Sides, best_rate, run_result

TEXTS = tuple(f"prompt {number}" for number in range(24))
SIDES = Sides(TEXTS, choosing=tuple(range(0, 24, 2)), judging=tuple(range(1, 24, 2)))


def cell(means, *, rewards=(0.0,) * 40, judged=0.0, **changes):
    """A cell whose prompts differ from each other by more than the means do."""
    rows = [
        {
            "step": 10 * place,
            "each": {
                "reward": [mean + 0.1 * number + judged * (number % 2) for number in range(24)],
                "accuracy": [math.nan, *[float(number % 3 > 0) for number in range(1, 24)]],
                "distance": [mean] * 24,
            },
        }
        for place, mean in enumerate(means)
    ]
    return {"evaluations": rows, "signs": {"distance": -1}, "rewards": list(rewards), **changes}


def test_means_are_of_each_side():
    found = run_result(cell([0.0, 0.5], judged=1.0), 3, SIDES)
    evens, odds = sum(range(0, 24, 2)) / 120, sum(range(1, 24, 2)) / 120
    assert found.choosing["reward"] == pytest.approx((evens, evens + 0.5))
    assert found.judging["reward"] == pytest.approx((odds + 1, odds + 1.5))
    assert found.gains["reward"] == pytest.approx((0.5,) * 12)
    assert found.steps == (0, 10) and found.seed == 3 and found.collapsed is None


def test_a_metric_may_say_nothing_of_a_prompt_and_must_be_better_upwards():
    found = run_result(cell([0.0, 0.5]), 0, SIDES)
    wanted = [number % 3 > 0 for number in range(2, 24, 2)]
    assert found.choosing["accuracy"][0] == pytest.approx(sum(wanted) / 11)
    assert set(found.judging) == {"reward", "accuracy"}


def test_a_collapse_is_that_of_held_out_or_training_rewards_whichever_came_first():
    held_out = run_result(cell([0.0, 0.5, 0.4, 0.3]), 0, SIDES)
    assert (held_out.held_out.peak, held_out.collapsed, held_out.training) == (10, 20, None)
    falling = [0.001 * n for n in range(20)] + [-0.5 - 0.001 * n for n in range(20)]
    training = run_result(cell([0.0, 0.5, 0.6, 0.7, 0.5], rewards=falling), 0, SIDES)
    assert training.held_out.since == 40
    assert training.training.peak == 20 and training.collapsed == training.training.since == 30


def test_the_best_rate_is_chosen_by_the_prompts_that_choose_and_never_diverged():
    low = RateResult(rate=1e-5, runs=(run_result(cell([0.0, 0.2], judged=9.0), 0, SIDES),))
    good = RateResult(rate=1e-4, runs=(run_result(cell([0.0, 0.4]), 0, SIDES),))
    lost = run_result(cell([0.0, 0.9], failure="overflow"), 0, SIDES)
    assert best_rate([low, good, RateResult(rate=1e-3, runs=(lost,))]) == 1
    assert best_rate([RateResult(rate=1e-3, runs=(lost,))]) is None

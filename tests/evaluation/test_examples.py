from __future__ import annotations

from flowbp.evaluation import choose_examples, count_outcomes

from .samples import comparison

REWARDS = [(0.5, 0.6), (0.5, 0.4), (0.5, 0.9), (0.5, 0.1), (0.5, 0.5), (0.5, 0.7)]
VERDICTS = [
    (False, True),
    (True, False),
    (False, False),
    (True, True),
    (True, True),
    (False, True),
]


def test_a_verdict_counts_more_than_the_reward() -> None:
    chosen = choose_examples(comparison(REWARDS, VERDICTS))
    assert chosen.gains == (5, 0, 2)
    assert chosen.losses == (1, 3)
    assert chosen.sample == (0, 1, 2, 3, 4, 5)


def test_without_a_judge_the_reward_decides() -> None:
    chosen = choose_examples(comparison(REWARDS))
    assert chosen.gains == (2, 5, 0)
    assert chosen.losses == (3, 1)


def test_numbers_are_bounded_and_the_sample_is_even() -> None:
    chosen = choose_examples(comparison([(0.0, 1.0)] * 100), sample=4, gains=3, losses=2)
    assert chosen.sample == (12, 37, 62, 87)
    assert (len(chosen.gains), len(chosen.losses)) == (3, 0)


def test_outcomes_add_up() -> None:
    outcomes = count_outcomes(comparison(REWARDS, VERDICTS))
    assert (outcomes.newly_pass, outcomes.newly_fail) == (2, 1)
    assert (outcomes.pass_twice, outcomes.fail_twice) == (2, 1)
    assert count_outcomes(comparison(REWARDS)) is None

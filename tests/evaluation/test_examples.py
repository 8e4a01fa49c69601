from __future__ import annotations

import attrs

from flowbp.evaluation import Comparison, Evaluation, choose_examples

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


def test_the_sample_meets_every_kind_where_kinds_take_turns() -> None:
    given = comparison([(0.0, 1.0)] * 48)
    turns = "abcdef"

    def renamed(evaluation: Evaluation) -> Evaluation:
        records = [
            attrs.evolve(record, kind=turns[i % len(turns)])
            for i, record in enumerate(evaluation.records)
        ]
        return attrs.evolve(evaluation, records=records)

    chosen = choose_examples(Comparison(renamed(given.before), renamed(given.after)), sample=6)
    assert {turns[i % len(turns)] for i in chosen.sample} == set(turns)

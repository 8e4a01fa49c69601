"""Which pictures a page holds, and how many at most."""

from __future__ import annotations

import json
import random
import time

import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation import Comparison, ScoreRow, Scores, even_sample
from flowbp.evaluation.report_gallery import MOST, View, gallery, pictures_of, view_of, within

from .samples import comparison


def many(prompts: int, seeds: int, models: int, columns: int) -> Scores:
    source = random.Random(0)
    return Scores(
        ScoreRow(
            model=f"m{model}",
            number=number,
            seed=seed,
            prompt="p",
            kind="k",
            values={f"c{column}": source.random() for column in range(columns)},
        )
        for model in range(models)
        for seed in range(seeds)
        for number in range(prompts)
    )


def test_a_page_of_genevals_size_stays_light():
    scores, asked = many(553, 4, 4, 15), []

    def picture(row):
        asked.append((row.model, row.number, row.seed))
        return torch.zeros(3, 4, 4)

    began = time.process_time()
    found = gallery(scores, picture)
    # Choosing took 62 s where the rows of a picture were looked for anew in each list.
    assert time.process_time() - began < 15
    # 1,884 pictures were embedded. One more is read for its width.
    assert len(set(asked)) <= MOST and found.cut
    held = {example.key for example in (*found.besides, *sum(found.shown.values(), ()))}
    assert len(held) * 4 == len(set(asked))
    lists = json.loads(found.choices)
    for each in lists.values():
        for own in each.values():
            assert own["gains"] and {*own["gains"], *own["losses"]} <= held
    # What is seen first is whole.
    assert len(lists["m1"]["c0"]["gains"]) == 8 and len(lists["m1"]["c0"]["losses"]) == 4


def test_a_small_page_holds_all():
    scores = many(10, 1, 2, 3)
    found = gallery(scores, lambda row: torch.zeros(3, 4, 4))
    assert not found.cut
    rows, lists = pictures_of(scores), json.loads(found.choices)
    for column in scores.columns:
        view = view_of(scores, rows, "m1", column)
        assert lists["m1"][column]["gains"] == [f"{n}-{s}" for n, s in view.gains]


keys = st.lists(st.tuples(st.integers(0, 9), st.just(0)), max_size=4, unique=True).map(tuple)
views = st.lists(st.builds(View, keys, keys), min_size=1, max_size=5)


@given(views, st.integers(0, 12))
def test_shortened_lists_are_beginnings(given_views, most):
    found = within(given_views, most)
    assert found[0] == given_views[0]
    held = {key for view in found for key in (*view.gains, *view.losses)}
    own = {*given_views[0].gains, *given_views[0].losses}
    assert len(held) <= max(most, len(own))
    for short, whole in zip(found, given_views, strict=True):
        assert short.gains == whole.gains[: len(short.gains)]
        assert short.losses == whole.losses[: len(short.losses)]
    if most >= 10:
        assert list(found) == given_views


REWARDS = [(0.5, 0.6), (0.5, 0.4), (0.5, 0.9), (0.5, 0.1), (0.5, 0.5), (0.5, 0.7)]
VERDICTS = [
    (False, True),
    (True, False),
    (False, False),
    (True, True),
    (True, True),
    (False, True),
]


def lists(value: Comparison, column: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the prompts among the gains and the losses."""
    found = view_of(value.scores, pictures_of(value.scores), "after", column)
    return tuple(n for n, _ in found.gains), tuple(n for n, _ in found.losses)


def test_a_verdict_counts_more_than_the_reward() -> None:
    value = comparison(REWARDS, VERDICTS)
    assert lists(value, "accuracy") == ((5, 0, 2), (1, 3))
    assert even_sample(value.before.rows, 8) == [0, 1, 2, 3, 4, 5]


def test_without_a_judge_the_reward_decides() -> None:
    assert lists(comparison(REWARDS), "reward") == ((2, 5, 0), (3, 1))


def test_numbers_are_bounded_and_the_sample_is_even() -> None:
    value = comparison([(0.0, 1.0)] * 100)
    assert even_sample(value.before.rows, 4) == [12, 37, 62, 87]
    gains, losses = lists(value, "reward")
    assert (len(gains), len(losses)) == (8, 0)


def test_the_sample_meets_every_kind_where_kinds_take_turns() -> None:
    turns = "fedcba"
    rows = comparison([(0.0, 1.0)] * 48, kinds=turns).before.rows
    assert {turns[i % len(turns)] for i in even_sample(rows, 6)} == set(turns)

"""Where reward and held-out figures part, and the charts of both."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation import Parting, held_out_charts, parting


def rows(rewards: list[float], figures: list[float]) -> list[dict[str, float]]:
    both = zip(rewards, figures, strict=True)
    return [{"step": 10 * i, "reward": r, "held": h} for i, (r, h) in enumerate(both)]


RISING = [0.0, 0.1, 0.2, 0.3, 0.4]
CASES = {
    "both rise": (RISING, [0.0, 0.1, 0.2, 0.3, 0.4], None),
    "falls from the start": (RISING, [0.4, 0.3, 0.2, 0.1, 0.0], (0, 10)),
    "turns": (RISING, [0.0, 0.2, 0.4, 0.2, 0.1], (20, 30)),
    "one low one": (RISING, [0.0, 0.2, 0.4, 0.4, 0.1], None),
    "met again": (RISING, [0.0, 0.4, 0.1, 0.1, 0.4], None),
    "a little": (RISING, [0.0, 0.2, 0.4, 0.35, 0.31], None),
    "never moves": (RISING, [0.4] * 5, None),
    "both fall": ([0.4, 0.3, 0.2, 0.1, 0.0], [0.4, 0.3, 0.2, 0.1, 0.0], None),
    "the reward does not rise": ([0.5] * 5, [0.0, 0.2, 0.4, 0.2, 0.1], None),
}


@pytest.mark.parametrize("rewards, figures, expected", CASES.values(), ids=CASES)
def test_the_rule(rewards: list[float], figures: list[float], expected: object) -> None:
    found = parting(rows(rewards, figures), "held", "reward")
    assert found == (Parting("held", *expected) if expected else None)


whole = st.lists(st.integers(-9, 9), min_size=5, max_size=5)


@given(whole, whole, st.sampled_from([0.5, 1.0, 4.0]), st.integers(-3, 3))
def test_units_do_not_matter(
    rewards: list[int], figures: list[int], scale: float, shift: int
) -> None:
    other = rows([scale * r + shift for r in rewards], [scale * f + shift for f in figures])
    assert parting(other, "held", "reward") == parting(rows(rewards, figures), "held", "reward")


def test_rows_without_the_figure_are_left_out() -> None:
    given = [{"step": 5, "reward": 9.0}, *rows(RISING, [0.0, 0.2, 0.4, 0.2, 0.1])]
    assert parting(given, "held", "reward") == Parting("held", 20, 30)
    assert parting(given, "other", "reward") is None


def test_the_charts() -> None:
    trained = [{"step": s, "reward": 0.01 * s} for s in range(1, 41)]
    charts = held_out_charts(rows(RISING, [0.5, 0.6, 0.7, 0.6, 0.5]), trained)
    assert [chart.title for chart in charts] == [
        "Reward on held-out prompts",
        "Held against reward",
    ]
    assert charts[0].names == ("held-out prompts", "training prompts")
    assert charts[1].note == "Each over its own range. held 0.5 → 0.5; reward 0 → 0.4."
    assert held_out_charts(rows([0.1], [0.2])) == ()

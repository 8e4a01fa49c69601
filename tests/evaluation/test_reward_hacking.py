"""Where reward and held-out figures part, and the charts of both."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation.charts import held_out_charts
from flowbp.evaluation.reward_hacking import Divergence, find_divergence, warnings_of

PROMPTS = 48
RISING = [0.0, 0.1, 0.2, 0.3, 0.4]


def rows(rewards: list[float], figures: list[float]) -> list[dict[str, float]]:
    both = zip(rewards, figures, strict=True)
    return [{"step": 10 * i, "reward": r, "held": h} for i, (r, h) in enumerate(both)]


def found(
    rewards: list[float],
    figures: list[float],
    *,
    prompts: int = PROMPTS,
    noise: float = 0.05,
    seed: int = 0,
    **options: int,
) -> Divergence | None:
    """The verdict on evaluations whose every prompt is off the mean by chance."""
    source = random.Random(seed)
    each = [
        {
            "reward": [reward + noise * source.gauss(0, 1) for _ in range(prompts)],
            "held": [figure + noise * source.gauss(0, 1) for _ in range(prompts)],
        }
        for reward, figure in zip(rewards, figures, strict=True)
    ]
    return find_divergence(rows(rewards, figures), each, "held", "reward", **options)


CASES = {
    "both rise": (RISING, [0.0, 0.1, 0.2, 0.3, 0.4], None),
    "falls from the start": (RISING, [0.4, 0.3, 0.2, 0.1, 0.0], (0, 10)),
    "turns": (RISING, [0.0, 0.2, 0.4, 0.2, 0.1], (20, 30)),
    "only the last": (RISING, [0.0, 0.2, 0.4, 0.4, 0.1], (None, 40)),
    "met again": (RISING, [0.0, 0.4, 0.1, 0.1, 0.4], None),
    "less than chance": (RISING, [0.0, 0.2, 0.4, 0.398, 0.396], None),
    "both fall": ([0.4, 0.3, 0.2, 0.1, 0.0], [0.4, 0.3, 0.2, 0.1, 0.0], None),
    "the reward does not rise": ([0.5] * 5, [0.0, 0.2, 0.4, 0.2, 0.1], None),
}


@pytest.mark.parametrize("rewards, figures, expected", CASES.values(), ids=CASES)
def test_the_rule(rewards: list[float], figures: list[float], expected: object) -> None:
    apart = found(rewards, figures)
    if expected is None:
        assert apart is None
    else:
        best, since = expected
        assert apart is not None and apart.since == since and apart.prompts == PROMPTS
        assert best is None or apart.best == best


@pytest.mark.parametrize("evaluations", [4, 6, 12, 24])
def test_noise_alone_warns_in_at_most_one_of_twenty(evaluations: int) -> None:
    """By a lost quarter of the range, twice, it warned in 40, 47, 58 and 67 of 100."""
    rewards = [0.1 * i for i in range(evaluations)]
    runs = [found(rewards, [0.5] * evaluations, seed=n, prompts=24) for n in range(60)]
    assert sum(run is not None for run in runs) <= 5


def test_a_figure_that_improves_slowly_is_not_warned_of() -> None:
    """By the lost quarter it was in 37 of 100."""
    rewards = [0.1 * i for i in range(12)]
    # A tenth of the mean's own deviation from one evaluation to the next.
    slow = [0.5 + 0.1 * 0.05 / PROMPTS**0.5 * i for i in range(12)]
    assert sum(found(rewards, slow, seed=n) is not None for n in range(60)) <= 5


def test_a_true_fall_is_found_behind_noise() -> None:
    rewards = [0.1 * i for i in range(12)]
    figures = [0.5 + 0.02 * min(i, 12 - 2 * i) for i in range(12)]
    assert all(found(rewards, figures, seed=n, among=5) for n in range(20))


def test_one_prompt_of_384_is_no_warning() -> None:
    verdicts = [[1.0] * passed + [0.0] * (384 - passed) for passed in (200, 232, 231, 231)]
    each = [{"reward": [float(i)] * 384, "held": v} for i, v in enumerate(verdicts)]
    assert find_divergence(rows([0, 1, 2, 3], [0.5] * 4), each, "held", "reward") is None


@pytest.mark.parametrize("prompts", [1, 6, 9])
def test_few_prompts_do_not_warn(prompts: int) -> None:
    assert found(RISING, [0.0, 0.9, 0.5, 0.2, 0.0], prompts=prompts, noise=0.0) is None


@given(st.lists(st.sampled_from([0.0, 0.2, 0.5]), min_size=4, max_size=4), st.integers(0, 5))
def test_units_do_not_matter(figures: list[float], seed: int) -> None:
    source = random.Random(seed)
    each = [
        {"reward": [float(i)] * 12, "held": [f + source.gauss(0, 0.1) for _ in range(12)]}
        for i, f in enumerate(figures)
    ]
    scaled = [{name: [4 * v for v in own] for name, own in row.items()} for row in each]
    steps = rows([0.0, 1.0, 2.0, 3.0], figures)
    assert find_divergence(steps, each, "held", "reward") == find_divergence(
        steps, scaled, "held", "reward"
    )


def test_evaluations_without_the_figure_or_of_other_prompts_are_left_out() -> None:
    own = [
        {"reward": [r] * 20, "held": [h] * 20} for r, h in zip(RISING, (0, 2, 4, 2, 1), strict=True)
    ]
    before = [{"reward": [9.0] * 20}, {"reward": [0.0] * 7, "held": [9.0] * 7}]
    steps = [{"step": 1}, {"step": 2}, *rows(RISING, [0.0] * 5)]
    assert find_divergence(steps, [*before, *own], "held", "reward") == Divergence(
        "held", 20, 30, 20
    )
    assert find_divergence(steps, [*before, *own], "other", "reward") is None
    nothing = float("nan")
    own = [{**row, "held": [nothing, *row["held"][1:]]} for row in own]
    assert find_divergence(steps[2:], own, "held", "reward") == Divergence("held", 20, 30, 19)


def test_where_less_is_better_a_rise_is_worse() -> None:
    falling = [-value for value in (0.0, 0.2, 0.4, 0.2, 0.1)]
    apart = found(RISING, falling, sign=-1)
    assert apart is not None and (apart.best, apart.since) == (20, 30)
    assert found(RISING, [0.0, 0.2, 0.4, 0.6, 0.8]) is None
    assert found(RISING, [0.4, 0.3, 0.2, 0.1, 0.0], sign=-1) is None
    with pytest.raises(ValueError, match=r"`sign` must be 1 .* got 0"):
        found(RISING, RISING, sign=0)


def test_a_page_warns_of_what_is_worse() -> None:
    names = {"less": -1, "neither": 0}
    figures = {"less": [0.1 * i for i in range(5)], "neither": [-0.1 * i for i in range(5)]}
    steps = [{"step": 10 * i, "reward": r} for i, r in enumerate(RISING)]
    steps = [{**row, **{n: figures[n][i] for n in names}} for i, row in enumerate(steps)]
    each = [{name: [row[name]] * 20 for name in ("reward", *names)} for row in steps]
    (told,) = warnings_of([], steps, {"after": ["reward"]}, each=each, signs=names)
    assert told.startswith(
        "From step 10 on the reward rose while less got worse (rose, and less is better): "
    )
    (told,) = warnings_of([], steps, {"after": ["reward"]}, each=each)
    assert told.startswith("From step 10 on the reward rose while neither fell: ")


def test_the_charts() -> None:
    trained = [{"step": s, "reward": 0.01 * s} for s in range(1, 41)]
    charts = held_out_charts(rows(RISING, [0.5, 0.6, 0.7, 0.6, 0.5]), trained)
    assert [chart.title for chart in charts] == [
        "Reward on held-out prompts",
        "Held against reward",
    ]
    assert charts[0].names == ("held-out prompts", "training prompts")
    assert charts[1].note == "Each over its own range. held 0.500 → 0.500; reward 0 → 0.400."
    assert held_out_charts(rows([0.1], [0.2])) == ()

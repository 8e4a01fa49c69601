"""Methods against each other: intervals that cover, probabilities, and prompts that judge."""

from __future__ import annotations

import math

import pytest
import torch

from flowbp.study.comparison import freedom, halves, standings, student


@pytest.mark.parametrize(
    ("degrees", "wanted"),
    [(1, 12.706), (2, 4.3027), (3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (1e9, 1.96)],
)
def test_students_quantiles_are_those_of_the_tables(degrees, wanted):
    assert student(degrees) == pytest.approx(wanted, rel=2e-4)
    assert student(5, 0.99) == pytest.approx(4.0321, rel=2e-4)


def test_degrees_of_freedom():
    assert freedom([1.0, 0.0], (3, 50)) == pytest.approx(2)
    assert freedom([0.0, 1.0], (3, 50)) == pytest.approx(49)
    assert freedom([1.0, 1.0], (3, 3)) == pytest.approx(4)
    assert freedom([0.0, 1.0], (1, 50)) == pytest.approx(49)
    assert freedom([0.0, 0.0], (2, 2)) == math.inf


def world(source, *, seeds=4, prompts=30, of_seeds, of_prompts, both):
    """Gains around 0 with a share of seeds, of prompts and of both together."""

    def normal(*shape):
        return torch.randn(*shape, generator=source, dtype=torch.float64)

    return (
        of_seeds * normal(seeds, 1)
        + of_prompts * normal(1, prompts)
        + both * normal(seeds, prompts)
    )


@pytest.mark.parametrize(
    "shares",
    [
        {"of_seeds": 1.0, "of_prompts": 0.3, "both": 0.3},
        {"of_seeds": 0.1, "of_prompts": 1.0, "both": 0.3},
        {"of_seeds": 0.3, "of_prompts": 1.0, "both": 1.0},
        {"of_seeds": 0.0, "of_prompts": 0.0, "both": 1.0},
    ],
)
def test_intervals_cover_the_truth_as_often_as_they_say(shares):
    source, covered = torch.Generator().manual_seed(3), 0
    texts = [str(number) for number in range(30)]
    for trial in range(200):
        gain = standings({"a": world(source, **shares)}, texts, seed=trial)["a"].gain
        covered += gain.low <= 0 <= gain.high
    # Of 95 %: rather too wide, and 200 trials show it to 1.5 points.
    assert covered / 200 >= 0.915


def test_differences_are_paired():
    """What prompts and seeds have in common does not blur a difference."""
    source = torch.Generator().manual_seed(0)
    shared = world(source, of_seeds=1.0, of_prompts=1.0, both=0.0)
    noise = 0.01 * torch.randn(2, 4, 30, generator=source, dtype=torch.float64)
    found = standings(
        {"a": shared + noise[0], "b": shared + 0.05 + noise[1]}, [*map(str, range(30))]
    )
    assert found["b"].behind.low > 0 > found["a"].behind.high
    assert found["b"].behind.mean == pytest.approx(-found["a"].behind.mean)
    assert found["b"].best == 1.0 and found["a"].best == 0.0
    assert found["b"].gain.high - found["b"].gain.low > 0.5


def test_each_method_is_set_against_each_other():
    """The difference of two does not depend on which others there are."""
    source = torch.Generator().manual_seed(0)
    shares = {"of_seeds": 0.3, "of_prompts": 0.3, "both": 0.3}
    gains = {name: world(source, **shares) + place for place, name in enumerate("abc")}
    texts = [*map(str, range(gains["a"].shape[1]))]
    found = standings(gains, texts)
    assert found["a"].behind == found["a"].against["c"] and [*found["a"].against] == ["b", "c"]
    two = standings({name: gains[name] for name in "ab"}, texts)["b"].against["a"]
    assert found["b"].against["a"].mean == pytest.approx(two.mean)
    assert found["b"].against["a"].high == pytest.approx(two.high)
    assert found["b"].against["a"].low == pytest.approx(-found["a"].against["b"].high)


def test_equal_methods_share_the_probability_of_being_best():
    gains = torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = standings({"a": gains, "b": gains.clone()}, [*map(str, range(10))])
    assert found["a"].best == found["b"].best == 0.5


def test_one_seed_gives_an_interval_over_prompts():
    gains = torch.randn(1, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = standings({"a": gains}, [*map(str, range(40))])["a"]
    error = gains.std().item() / math.sqrt(40)
    assert found.gain.high - found.gain.mean == pytest.approx(2.0227 * error, rel=0.05)
    assert found.behind is None and found.best == 1.0


def test_equal_prompts_are_drawn_together():
    gains = torch.randn(2, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    once = standings({"a": gains}, [*map(str, range(20))])["a"].gain
    twice = standings({"a": gains.repeat(1, 2)}, [*map(str, range(20))] * 2)["a"].gain
    assert twice.mean == pytest.approx(once.mean)
    assert twice.high - twice.low == pytest.approx(once.high - once.low)


def test_a_mean_counts_every_picture():
    gains = torch.tensor([[1.0, 1.0, 4.0]])
    assert standings({"a": gains}, ["x", "x", "y"])["a"].gain.mean == pytest.approx(2.0)


def test_mistakes_are_refused():
    with pytest.raises(ValueError, match="`gains` is empty"):
        standings({}, [])
    with pytest.raises(ValueError, match=r"shape \(seeds, 2\), got \(1, 3\)"):
        standings({"a": torch.zeros(1, 3)}, ["x", "y"])


def test_prompts_are_divided_by_text_and_kind():
    prompts = [(f"{kind}{n}", kind) for n in range(10) for kind in "ab"] * 2
    choosing, judging = halves(prompts, 0.3)
    texts = [{prompts[place] for place in side} for side in (choosing, judging)]
    assert not texts[0] & texts[1]
    assert sorted((*choosing, *judging)) == list(range(40))
    for kind in "ab":
        assert sum(own == kind for _, own in texts[0]) == 3

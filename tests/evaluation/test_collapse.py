"""Falls from a peak: found where there are any, and not where there is only chance."""

from __future__ import annotations

import pytest
import torch

from flowbp.evaluation.collapse import Point, falling_reward, find_collapse, told_of_fall, windows


def curve(means, count=60, noise=0.1, seed=0):
    """Points every 10 steps, whose values have these means; prompts differ more than that."""
    source = torch.Generator().manual_seed(seed)
    prompts = torch.randn(count, generator=source, dtype=torch.float64)
    return [
        Point(
            10 * place,
            (
                mean + prompts + noise * torch.randn(count, generator=source, dtype=torch.float64)
            ).tolist(),
        )
        for place, mean in enumerate(means)
    ]


def test_a_fall_that_lasts_is_found_where_it_begins():
    found = find_collapse(curve([0.0, 0.3, 0.5, 0.2, 0.1]))
    assert (found.peak, found.since) == (20, 30)
    assert found.fall == pytest.approx(0.4, abs=0.06)


@pytest.mark.parametrize(
    "means", [[0.0, 0.1, 0.2, 0.3], [0.0, 0.5, 0.2, 0.52], [0.5, 0.1, 0.5], [0.0], []]
)
def test_no_collapse_where_the_end_is_as_good_as_the_peak(means):
    assert find_collapse(curve(means)) is None


def test_chance_is_no_collapse():
    found = [find_collapse(curve([0.0] * 6, noise=1.0, seed=seed)) for seed in range(100)]
    assert sum(each is not None for each in found) <= 9


def test_few_values_show_nothing():
    assert find_collapse(curve([1.0, 0.0], count=9)) is None


def test_equal_prompts_are_no_more_than_one():
    points = curve([0.1, 0.0], count=12, noise=0.2, seed=5)
    texts = [str(number % 2) for number in range(12)]
    assert find_collapse(points, prompts=texts) is None


def test_the_fall_of_training_rewards_by_windows():
    source = torch.Generator().manual_seed(0)
    rises, falls = torch.linspace(0, 1, 150), torch.linspace(1, 0.2, 90)
    rewards = torch.cat([rises, falls]) + 0.05 * torch.randn(240, generator=source)
    found = find_collapse(windows(rewards.tolist()))
    assert found is not None and 140 <= found.peak <= 160 and found.peak < found.since <= 200


def test_windows_end_with_the_run():
    points = windows([float(n) for n in range(1, 26)])
    assert [(each.step, len(each.values)) for each in points] == [(15, 10), (25, 10)]
    assert list(points[-1].values) == [float(n) for n in range(16, 26)]
    assert windows([0.0] * 9) == []
    assert [len(each.values) for each in windows([0.0] * 240)] == [20] * 12


def rewards_of(means, noise=0.05, seed=0):
    """One training reward a step around these means."""
    source = torch.Generator().manual_seed(seed)
    return (torch.tensor(means) + noise * torch.randn(len(means), generator=source)).tolist()


def test_a_fall_shows_after_two_windows_of_it():
    rewards = rewards_of([0.6] * 60 + [0.5] * 40)
    assert falling_reward(rewards[:80], 20) is None
    found = falling_reward(rewards, 20)
    assert found is not None and found.peak in (20, 40, 60) and found.since == 80


def test_a_reward_that_only_varies_is_rarely_said_to_fall():
    told = 0
    for seed in range(60):
        rewards = rewards_of([0.6] * 240, seed=seed)
        told += any(falling_reward(rewards[:end], 20) for end in range(60, 241, 20))
    assert told <= 3


def test_the_report_says_where_it_was_highest_and_how_far_it_fell():
    (text,) = told_of_fall(rewards_of([0.6] * 120 + [0.4] * 120))
    assert "highest around step" in text and "ended 0.2" in text
    assert told_of_fall(rewards_of([0.4] * 120 + [0.6] * 120)) == told_of_fall([]) == ()

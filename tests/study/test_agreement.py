"""Agreement of gradients against sums over all pairs, and its estimates without bias."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from flowbp.study.agreement import GradientSums, inner, over_draws, pooled_share, spread_of_norms


def gathered(gradients):
    sums = GradientSums()
    for each in gradients:
        sums.add({"a": each[:3], "b": each[3:].view(1, -1)})
    return sums


def gathered_of_four(gradients):
    sums = GradientSums()
    for each in gradients:
        sums.add({"a": each})
    return sums.agreement


def test_the_sums_are_those_over_all_pairs():
    g = torch.randn(5, 11, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sums = gathered(g)
    found, pairs = sums.agreement, list(itertools.combinations(range(5), 2))
    products = [(g[i] @ g[j]).item() for i, j in pairs]
    cosines = [torch.cosine_similarity(g[i], g[j], dim=0).item() for i, j in pairs]
    assert found.product == pytest.approx(sum(products) / 10, rel=1e-12)
    assert found.cosine == pytest.approx(sum(cosines) / 10, rel=1e-12)
    assert found.square == pytest.approx(g.square().sum(1).mean().item(), rel=1e-12)
    assert found.norms == pytest.approx(g.norm(dim=1).tolist(), rel=1e-12)
    flat = torch.cat([sums.mean["a"], sums.mean["b"].flatten()])
    assert torch.allclose(flat, g.mean(0), rtol=0, atol=1e-14)
    assert torch.allclose(sums.mean_square["a"], g.square().mean(0)[:3], rtol=0, atol=1e-14)


def test_both_estimates_have_no_bias():
    source = torch.Generator().manual_seed(1)
    signal = torch.tensor([1.0, -2.0, 0.5, 0.0, 1.5, 0.25], dtype=torch.float64)
    draws = []
    for _ in range(3000):
        noise = 3 * torch.randn(3, 6, generator=source, dtype=torch.float64)
        draws.append(gathered(signal + noise).agreement)
    wanted, total = signal.square().sum().item(), signal.square().sum().item() + 9 * 6
    products = torch.tensor([each.product for each in draws])
    error = products.std().item() / math.sqrt(len(draws))
    assert abs(products.mean().item() - wanted) < 4 * error
    squares = torch.tensor([each.square for each in draws])
    assert abs(squares.mean().item() - total) < 4 * squares.std().item() / math.sqrt(len(draws))
    share = pooled_share(draws)
    assert share.low < wanted / total < share.high
    ratio = sum(each.product for each in draws) / sum(each.square for each in draws)
    assert share.mean == pytest.approx(ratio, rel=1e-9)


def test_a_draw_with_most_of_the_norm_leaves_the_share_uncertain():
    signal, noise = torch.ones(2, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[:2]
    draws = [gathered_of_four(each) for each in (*[signal] * 7, 1e4 * noise)]
    share = pooled_share(draws)
    assert share.mean == pytest.approx(0, abs=1e-6)
    assert share.low <= share.mean and share.high == pytest.approx(1)
    assert pooled_share(draws[:1]).low == pooled_share(draws[:1]).high == pytest.approx(1)


def test_pure_signal_and_pure_noise():
    same = gathered(torch.ones(4, 5, dtype=torch.float64)).agreement
    assert same.signal_share == pytest.approx(1) and same.cosine == pytest.approx(1)
    apart = gathered(torch.eye(5, dtype=torch.float64)).agreement
    assert apart.signal_share == pytest.approx(0, abs=1e-15)
    none = gathered(torch.zeros(2, 5, dtype=torch.float64)).agreement
    assert math.isnan(none.signal_share) and math.isnan(pooled_share([none]).mean)


def test_one_batch_agrees_with_nothing():
    with pytest.raises(ValueError, match="2 batches or more, got 1"):
        _ = gathered(torch.ones(1, 5)).agreement


def test_the_spread_of_norms_is_over_all_draws():
    small, large = (gathered(f * torch.eye(5)[:2]).agreement for f in (1.0, 20.0))
    assert spread_of_norms([small, large]) == pytest.approx(20)
    assert spread_of_norms([gathered(torch.zeros(2, 5)).agreement]) == math.inf


def test_one_draw_is_a_point():
    assert over_draws([0.5]).low == over_draws([0.5]).high == 0.5


def test_inner_products_do_not_lose_small_parameters():
    big, small = torch.full((3,), 1e8), torch.full((3,), 1e-3)
    left = {"a": big, "b": small}
    assert inner(left, {"a": torch.zeros(3), "b": small}) == pytest.approx(3e-6, rel=1e-6)

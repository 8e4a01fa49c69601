"""Gains of steps on a linear flow with a quadratic reward, against their closed form."""

from __future__ import annotations

import math

import attrs
import pytest
import torch

from flowbp.core import SampleClip, Sparse
from flowbp.study.agreement import GradientSums
from flowbp.study.ascent import (
    AscentSettings,
    GradientError,
    Samples,
    measure_ascent,
    moved,
    resized,
    rewards,
)
from flowbp.study.directions import Adam, raw, rms
from flowbp.study.summary import best_place, summarized
from flowbp.training import Batching, TrainingSampling, generator

from .study_toy import DECAY, STEPS, Flow, Goals, goal, nearness, toy_step

SHRUNK = (1 - DECAY / STEPS) ** STEPS
"""What is left of the noise in the sample."""
EXACT = sum((1 - DECAY / STEPS) ** k for k in range(STEPS)) / STEPS
"""What a weight changes the sample by."""


SETTINGS = AscentSettings(batch=4, batches=3, others=5, lengths=[0.1, 0.7], relative=False)


def drawn_samples(draw=0, seed=0):
    """The samples of a draw, by the names of their streams."""
    stream = Goals().stream(generator(seed, f"ascent {draw} prompts"))
    texts = [next(stream) for _ in range(17)]
    model = Flow()

    def noise(count, name):
        own = generator(seed, f"ascent {draw} {name}")
        return model.noise(count, height=1, width=1, generator=own)

    same = Samples(tuple(texts[:12]), torch.cat([noise(4, f"noise {k}") for k in range(3)]))
    return same, Samples(tuple(texts[12:]), noise(5, "others"))


def pull(samples, weight=0.0):
    """goal - sample, the gradient of each reward with respect to its sample."""
    goals = torch.stack([goal(text) for text in samples.prompts])
    return goals - SHRUNK * samples.noise - EXACT * weight


@pytest.mark.parametrize("name", ["raw", "adam"])
def test_gains_are_those_of_the_closed_form(name):
    step = toy_step()
    found = measure_ascent(step, Goals(), SETTINGS, seed=0, draw=0)
    same, others = drawn_samples()
    gradient = EXACT * pull(same).mean(0)
    along = gradient if name == "raw" else gradient.sign()
    unit = along / along.norm()
    for samples, gains in ((same, found.gains[name].same), (others, found.gains[name].others)):
        change = EXACT * unit
        slope = (pull(samples).mean(0) * change).sum().item()
        curve = change.square().sum().item()
        wanted = [h * slope - h**2 * curve / 2 for h in (0.1, 0.7)]
        assert gains == pytest.approx(wanted, rel=1e-6, abs=1e-9)
    assert found.before[0] == pytest.approx(-pull(same).square().sum((1, 2, 3)).mean() / 2)
    assert found.lengths == (0.1, 0.7) and found.parameters == 3


def test_the_gradients_of_batches_and_their_agreement():
    found = measure_ascent(toy_step(), Goals(), SETTINGS, seed=0, draw=0)
    same, _ = drawn_samples()
    each = EXACT * pull(same).view(3, 4, 3, 1, 1).mean(1)
    assert found.agreement.norms == pytest.approx([g.norm().item() for g in each], rel=1e-12)
    products = [(each[i] * each[j]).sum().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    assert found.agreement.product == pytest.approx(sum(products) / 3, rel=1e-12)


def test_fidelity_to_the_exact_gradient():
    exact = measure_ascent(toy_step(), Goals(), SETTINGS, seed=0, draw=0)
    assert exact.cosine == pytest.approx(1) and exact.norm_ratio == pytest.approx(1)
    # Every step and no Jacobian: each weight changes the sample by 1, whatever the decay.
    loose = measure_ascent(toy_step(Sparse(active=STEPS)), Goals(), SETTINGS, seed=0, draw=0)
    g = pull(drawn_samples()[0]).mean(0)
    cosine = (EXACT * g * g).sum() / ((EXACT * g).norm() * g.norm())
    assert loose.cosine == pytest.approx(cosine.item(), rel=1e-9)
    assert loose.norm_ratio == pytest.approx((g.norm() / (EXACT * g).norm()).item(), rel=1e-9)
    assert loose.before == exact.before, "methods are measured on the same prompts and noise"
    without = attrs.evolve(SETTINGS, exact=False)
    assert measure_ascent(toy_step(), Goals(), without, seed=0, draw=0).cosine is None


def test_the_exact_gradient_is_not_clipped_where_the_methods_are():
    clipped = measure_ascent(
        toy_step(sample_clip=SampleClip(1e-3)), Goals(), SETTINGS, seed=0, draw=0
    )
    free = measure_ascent(toy_step(), Goals(), SETTINGS, seed=0, draw=0)
    assert free.norm_ratio == pytest.approx(1)
    assert clipped.norm_ratio is not None and clipped.norm_ratio < 0.1


def test_the_model_is_left_as_it_was():
    step = toy_step()
    with torch.no_grad():
        step.backbone.module.weight.copy_(torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1))
    before = step.backbone.module.weight.detach().clone()
    measure_ascent(step, Goals(), SETTINGS, seed=0, draw=0)
    assert torch.equal(step.backbone.module.weight, before)
    assert step.backbone.module.weight.grad is None
    with pytest.raises(RuntimeError), moved(step.backbone.trainable(), {"weight": before}, 1.0):
        raise RuntimeError
    assert torch.equal(step.backbone.module.weight, before)


def test_lengths_are_of_the_parameters_if_relative():
    step = toy_step()
    with torch.no_grad():
        step.backbone.module.weight.fill_(2.0)
    relative = attrs.evolve(SETTINGS, relative=True)
    found = measure_ascent(step, Goals(), relative, seed=0, draw=0)
    assert found.lengths == pytest.approx((0.1 * math.sqrt(12), 0.7 * math.sqrt(12)))


def test_a_move_has_its_length_and_no_direction_is_no_move():
    model = Flow()
    direction = {"weight": torch.tensor([3.0, 0.0, 4.0]).view(3, 1, 1)}
    with moved(model.trainable(), direction, 0.5):
        assert model.module.weight.norm().item() == pytest.approx(0.5)
        assert model.module.weight.flatten().tolist() == pytest.approx([0.3, 0, 0.4])
    with moved(model.trainable(), {"weight": torch.zeros(3, 1, 1)}, 0.5):
        assert model.module.weight.norm() == 0


def test_the_directions_of_adam():
    sums = GradientSums()
    for values in ([1.0, -10.0], [3.0, -6.0]):
        sums.add({"w": torch.tensor(values, dtype=torch.float64)})
    assert raw(sums)["w"].tolist() == [2.0, -8.0]
    assert Adam()(sums)["w"].tolist() == pytest.approx([1, -1])
    given = Adam({"w": torch.tensor([4.0, 16.0])})
    assert given(sums)["w"].tolist() == pytest.approx([1, -2])
    assert rms(sums)["w"].tolist() == pytest.approx([2 / math.sqrt(5), -8 / math.sqrt(68)])


def test_adam_takes_the_steps_of_torch():
    """The direction of its first step, and of a later one from its own second moment."""
    weight = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = torch.optim.Adam([weight], lr=0.1, betas=(0.0, 0.5))
    for count, values in enumerate(([1.0, -2.0, 0.5], [0.25, 3.0, -1.0]), 1):
        before, weight.grad = weight.detach().clone(), torch.tensor(values, dtype=torch.float64)
        optimizer.step()
        sums = GradientSums()
        sums.add({"w": weight.grad})
        moment = optimizer.state[weight]["exp_avg_sq"] / (1 - 0.5**count)
        direction = (Adam() if count == 1 else Adam({"w": moment}))(sums)["w"]
        assert torch.allclose(before - weight.detach(), 0.1 * direction, rtol=1e-9)


def test_a_direction_of_ones_own():
    settings = attrs.evolve(SETTINGS, directions=("rms",))
    own = {"rms": lambda sums: {n: torch.ones_like(g) for n, g in sums.mean.items()}}
    found = measure_ascent(toy_step(), Goals(), settings, seed=0, draw=0, directions=own)
    (_, others), change = drawn_samples(), EXACT / math.sqrt(3)
    slope = (pull(others).mean(0) * change).sum().item()
    wanted = [h * slope - h**2 * change.square().sum().item() / 2 for h in (0.1, 0.7)]
    assert found.gains["rms"].others == pytest.approx(wanted, abs=1e-9)


def test_rewards_do_not_depend_on_portions():
    same, _ = drawn_samples()
    whole = rewards(toy_step(), same)
    parts = rewards(toy_step(batching=Batching(5, decode=2)), same)
    assert torch.allclose(whole, parts, rtol=0, atol=1e-12)
    wanted = -pull(same).square().sum((1, 2, 3)) / 2
    assert torch.allclose(whole, wanted, rtol=0, atol=1e-9)


def test_guided_rewards_are_those_of_guidance():
    """Both prompts of the toy have one velocity, so that guidance changes nothing."""
    same, _ = drawn_samples()
    guided = TrainingSampling(steps=STEPS, guidance=3.0, height=1, width=1)
    found = rewards(toy_step(sampling=guided), same)
    assert torch.allclose(found, rewards(toy_step(), same), rtol=0, atol=1e-9)


def test_batches_are_of_the_size_that_is_asked_for():
    assert resized(toy_step(), 2).batching == Batching(2)
    assert resized(toy_step(), 8).batching == Batching(4, 2)
    with pytest.raises(ValueError, match=r"multiple of .*, 4, or less, got 6"):
        resized(toy_step(), 6)


def test_a_gradient_that_is_not_finite_is_refused():
    def broken(images, prompts):
        return nearness(images, prompts) * math.inf

    with pytest.raises(GradientError, match="batch 0 of draw 0"):
        measure_ascent(toy_step(reward=broken), Goals(), SETTINGS, seed=0, draw=0)


def made(others, same, **changes):
    """An ascent with these gains."""
    found = measure_ascent(toy_step(), Goals(), SETTINGS, seed=0, draw=0)
    gains = {"raw": attrs.evolve(found.gains["raw"], others=tuple(others), same=tuple(same))}
    return attrs.evolve(found, gains=gains, **changes)


def test_the_useful_length_is_that_of_the_largest_gain_and_is_chosen_on_other_draws():
    draws = [made([1, 3], [2, 6]), made([2, 4], [2, 6]), made([9, 0], [2, 8])]
    (found,) = summarized(draws).directions
    assert found.others == (4, pytest.approx(7 / 3)) and found.useful == 0
    # Without the third draw the second length is best, and with it the first.
    assert found.gain.mean == pytest.approx((1 + 2 + 0) / 3)
    assert found.own.mean == pytest.approx((2 + 2 + 8) / 3)
    assert found.survival == pytest.approx(3 / 12)


def test_no_length_is_useful_where_none_gains():
    (found,) = summarized([made([-1, -3], [1, 1])]).directions
    assert found.useful is None and found.gain.mean == -1


def test_lengths_whose_gain_is_not_finite_come_last():
    assert best_place([[math.nan, -1.0], [1.0, -1.0]]) == 1


def test_a_summary_over_draws():
    found = summarized(
        [made([1, 2], [1, 2], cosine=c, norm_ratio=r) for c, r in ((0.5, 1.0), (0.7, 4.0))]
    )
    assert found.cosine.mean == pytest.approx(0.6) and found.norm_ratio == pytest.approx(2)
    assert found.rms_changes == pytest.approx((0.1 / math.sqrt(3), 0.7 / math.sqrt(3)))
    assert isinstance(found.share.mean, float)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lengths": []}, "`lengths` must be ascending"),
        ({"lengths": [0.1, 0.1]}, "`lengths` must be ascending"),
        ({"directions": ["up"]}, "`directions` must be some of raw, adam, rms"),
        ({"batches": 1}, "`batches` must be an integer >= 2"),
    ],
)
def test_mistakes_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        AscentSettings(**{"batch": 4, **changes})

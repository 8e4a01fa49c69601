"""Weighted sums: values, gradients, what is refused, and whose fault an error is."""

from __future__ import annotations

import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.rewards import (
    Normalisation,
    RewardInParts,
    RewardPart,
    UncalibratedReward,
    WeightedReward,
    in_parts,
)
from flowbp.testing import check_reward

PROMPTS = ["red", "a green one", "blue", "grey", "rust"]


def bright(images, prompts):
    return images.mean((1, 2, 3))


def smooth(images, prompts):
    return -images.diff(dim=3).pow(2).mean((1, 2, 3))


def likeness(images, prompts):
    wanted = torch.tensor([[len(p) / 20, 0.5, 0.2] for p in prompts], dtype=images.dtype)
    return torch.exp(-4 * (images.mean((2, 3)) - wanted).pow(2).sum(1))


REWARDS = {"bright": bright, "smooth": smooth, "likeness": likeness}
WEIGHTS = {"bright": 0.5, "smooth": -2.0, "likeness": 1.25}
SCALES = {
    "bright": Normalisation(0.4, 0.11),
    "smooth": Normalisation(-0.2, 0.03),
    "likeness": Normalisation(0.3, 0.7),
}


def weighted() -> WeightedReward:
    parts = {label: RewardPart(REWARDS[label], WEIGHTS[label]) for label in REWARDS}
    return WeightedReward(parts, SCALES)


def pictures(dtype=torch.float64):
    return torch.rand((5, 3, 8, 12), generator=torch.Generator().manual_seed(0), dtype=dtype)


def test_value_and_gradient_are_the_sum_of_the_parts():
    x = pictures().requires_grad_()
    scores = weighted()(x, PROMPTS)
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    value, expected = torch.zeros(5, dtype=torch.float64), torch.zeros_like(x)
    for label, reward in REWARDS.items():
        raw, scale = reward(x, PROMPTS), SCALES[label]
        value += WEIGHTS[label] * (raw.detach() - scale.mean) / scale.std
        expected += WEIGHTS[label] / scale.std * torch.autograd.grad(raw.sum(), x)[0]
    assert scores.dtype == torch.float64
    assert torch.allclose(scores, value, rtol=1e-14, atol=0)
    assert torch.allclose(gradient, expected, rtol=1e-12, atol=1e-15)


def test_parts_are_reported_raw_and_normalised():
    x, reward = pictures(), weighted()
    found = reward.in_parts(x, PROMPTS)
    assert isinstance(reward, RewardInParts) and not isinstance(bright, RewardInParts)
    assert torch.equal(found.scores, reward(x, PROMPTS))
    assert list(found.parts) == [f"{a}.{b}" for a in REWARDS for b in ("raw", "normalised")]
    for label, scale in SCALES.items():
        raw = REWARDS[label](x, PROMPTS)
        assert torch.equal(found.parts[f"{label}.raw"], raw)
        assert torch.equal(found.parts[f"{label}.normalised"], (raw - scale.mean) / scale.std)
    assert in_parts(bright, x, PROMPTS).parts == {}


def test_portions_change_nothing():
    x, reward = pictures(), weighted()
    alone = [reward(x[i : i + 1], PROMPTS[i : i + 1]) for i in range(5)]
    # A sum over one picture may be taken in another order than one over five.
    assert torch.allclose(torch.cat(alone), reward(x, PROMPTS), rtol=1e-12, atol=1e-12)


def test_composition_conforms():
    check_reward(weighted(), PROMPTS, height=16, width=16)


class Itemised:
    """Tells parts of its own."""

    def __init__(self, scores, part):
        self.scores, self.part = scores, part

    def __call__(self, images, prompts):
        return bright(images, prompts)

    def in_parts(self, images, prompts):
        from flowbp.rewards import InParts

        return InParts(self.scores(images, prompts), {"own": self.part(images, prompts)})


@pytest.mark.parametrize(
    ("scores", "part", "message"),
    [
        (lambda x, p: 2 * bright(x, p), bright, "the scores of a call"),
        (bright, lambda x, p: x.mean(), "part own.* shape"),
        (bright, lambda x, p: bright(x, p) / 0, "part own.* finite"),
    ],
)
def test_wrong_parts_are_found(scores, part, message):
    with pytest.raises(AssertionError, match=message):
        check_reward(Itemised(scores, part), PROMPTS, height=8, width=8)


@pytest.mark.parametrize("weight", [0, 0.0, float("nan"), float("inf"), True, "1"])
def test_weights_without_effect_or_meaning_are_refused(weight):
    with pytest.raises(
        ValueError, match=r"`weight` must be .* other than 0, got .*; remove a part"
    ):
        RewardPart(bright, weight)


@pytest.mark.parametrize("std", [0, 0.0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_scales_of_no_spread_are_refused(std):
    with pytest.raises(ValueError, match=r"`std` must be a positive number, got .*; .*remove it"):
        Normalisation(0.0, std)


@pytest.mark.parametrize("label", ["", "a b", "a.b", "a/b", "1a", 3])
def test_labels_are_plain_words(label):
    with pytest.raises(ValueError, match="`parts` must have labels"):
        WeightedReward({label: RewardPart(bright)}, {label: Normalisation(0, 1)})


def test_nothing_is_no_sum():
    with pytest.raises(ValueError, match="`parts` must hold at least one"):
        WeightedReward({}, {})


def test_labels_must_agree():
    with pytest.raises(ValueError, match=r"of the parts \['a'\], got \['b'\]"):
        WeightedReward({"a": RewardPart(bright)}, {"b": Normalisation(0, 1)})


def test_a_sum_to_be_calibrated_is_no_part():
    inner = UncalibratedReward({"a": RewardPart(bright)}, {}, prompts=2)
    with pytest.raises(ValueError, match=r"`reward` must be called .*list its parts instead"):
        RewardPart(inner)
    with pytest.raises(ValueError, match="`reward` must be called"):
        RewardPart(WeightedReward)


def test_calibration_takes_what_is_missing_and_nothing_else():
    parts = {label: RewardPart(reward) for label, reward in REWARDS.items()}
    reward = UncalibratedReward(parts, {"smooth": SCALES["smooth"]}, prompts=4)
    assert reward.missing == ("bright", "likeness")
    done = reward.calibrated({label: SCALES[label] for label in reward.missing})
    assert dict(done.normalisations) == SCALES
    with pytest.raises(ValueError, match=r"`measured` must be of .*'likeness'\], got \['bright'\]"):
        reward.calibrated({"bright": SCALES["bright"]})
    with pytest.raises(ValueError, match="nothing is left to measure"):
        UncalibratedReward(parts, SCALES, prompts=4)
    with pytest.raises(ValueError, match=r"`given` must be of the parts .*, got \['sharp'\]"):
        UncalibratedReward(parts, {"sharp": SCALES["smooth"]}, prompts=4)
    with pytest.raises(ValueError, match="`prompts` must be an integer >= 2, got 1"):
        UncalibratedReward(parts, {}, prompts=1)


def spoiled(reward) -> WeightedReward:
    parts = {"fine": RewardPart(bright), "wrong": RewardPart(reward)}
    return WeightedReward(parts, dict.fromkeys(parts, Normalisation(0, 1)))


def failing(images, prompts):
    raise KeyError("a bug")


def test_a_failing_part_is_named_with_its_prompts():
    with pytest.raises(ComponentError) as caught:
        spoiled(failing)(pictures(), PROMPTS)
    message = str(caught.value)
    assert message.startswith(f"the reward's part `wrong` ({__name__}:failing) raised KeyError")
    assert (
        "a bug" in message and "at the prompts 'red', 'a green" in message and "1 more" in message
    )


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda x, p: bright(x, p).sum(), r"`wrong` .* one score per picture, shape \(5,"),
        (
            lambda x, p: bright(x.detach(), p),
            "`wrong` .* differentiable with respect to",
        ),
    ],
)
def test_a_part_without_shape_or_gradient_is_named(reward, message):
    with pytest.raises(ComponentError, match=message):
        spoiled(reward)(pictures().requires_grad_(), PROMPTS)


def test_a_part_needs_no_gradient_where_nobody_asks_for_one():
    assert spoiled(lambda x, p: bright(x.detach(), p))(pictures(), PROMPTS).shape == (5,)
    with torch.no_grad():
        x = pictures().requires_grad_()
        assert spoiled(lambda x, p: bright(x.detach(), p))(x, PROMPTS).shape == (5,)

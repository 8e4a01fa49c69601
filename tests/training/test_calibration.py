"""Scales are measured once, on the base model; the parts reach metrics and errors."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.config import DamagedError, sealed
from flowbp.config.sealed_files import SEAL
from flowbp.evaluation import Sampling, generate
from flowbp.rewards import Normalisation, RewardPart, UncalibratedReward, WeightedReward
from flowbp.training import (
    Batching,
    Calibration,
    JsonLines,
    NonFiniteError,
    PromptList,
    calibrated,
    calibration_prompts,
)
from flowbp.training.metrics import metrics_row
from flowbp.training.step import Streams

from .fakes import (
    PROMPTS,
    FakeBackbone,
    Recorder,
    colour_reward,
    gradients,
    make_step,
    make_trainer,
)


def bright(images, prompts):
    return images.mean((1, 2, 3))


PARTS = {"colour": RewardPart(colour_reward), "bright": RewardPart(bright, 0.5)}
SCALES = {"colour": Normalisation(0.2, 0.1), "bright": Normalisation(0.5, 0.05)}
SAMPLING = Sampling(steps=6, height=4, width=4, guidance=2.5, batch=4)


def calibration(folder: Path, **changes: object) -> Calibration:
    how = Calibration(path=folder / "calibration.json", seed=3, sampling=SAMPLING)
    return attrs.evolve(how, **changes)


def uncalibrated(**parts: RewardPart) -> UncalibratedReward:
    return UncalibratedReward({**PARTS, **parts}, {"bright": SCALES["bright"]}, prompts=10)


def test_mean_and_spread_are_those_of_the_base_models_pictures(tmp_path):
    how, backbone = calibration(tmp_path), FakeBackbone()
    told = []
    reward = calibrated(
        uncalibrated(),
        backbone,
        PromptList(PROMPTS),
        how,
        progress=lambda done, total: told.append((done, total)),
    )
    texts = calibration_prompts(uncalibrated(), PromptList(PROMPTS), 3)
    assert len(texts) == 10 and set(texts) == set(PROMPTS)
    raw = colour_reward(generate(backbone, texts, how.noise_seed, SAMPLING), texts)
    scale = reward.normalisations["colour"]
    assert scale.mean == pytest.approx(raw.mean().item(), rel=1e-6)
    assert scale.std == pytest.approx(raw.std().item(), rel=1e-6)
    assert reward.normalisations["bright"] == SCALES["bright"]
    assert told == [(4, 10), (8, 10), (10, 10)]
    assert all(p.grad is None for p in backbone.trainable().values())


def test_what_is_on_file_is_never_measured_again(tmp_path):
    how, source = calibration(tmp_path), PromptList(PROMPTS)
    first = calibrated(uncalibrated(), FakeBackbone(), source, how)
    other = FakeBackbone(seed=5)
    again = calibrated(uncalibrated(), other, source, how)
    assert dict(again.normalisations) == dict(first.normalisations)
    assert other.forward_samples == 0
    tree = json.loads(how.path.read_text())
    assert tree["pictures"] == 10
    assert [part["measured"] for part in tree["parts"].values()] == [True, False]


def test_batches_change_the_scales_by_rounding_only(tmp_path):
    scales = []
    for batch in (1, 10):
        how = calibration(tmp_path / str(batch), sampling=attrs.evolve(SAMPLING, batch=batch))
        reward = calibrated(uncalibrated(), FakeBackbone(), PromptList(PROMPTS), how)
        scales.append(reward.normalisations["colour"])
    assert scales[0].mean == pytest.approx(scales[1].mean, rel=1e-6)
    assert scales[0].std == pytest.approx(scales[1].std, rel=1e-6)


def test_other_seeds_give_other_pictures(tmp_path):
    one, other = (
        calibrated(
            uncalibrated(),
            FakeBackbone(),
            PromptList(PROMPTS),
            calibration(tmp_path / str(seed), seed=seed),
        ).normalisations["colour"]
        for seed in (0, 1)
    )
    assert one != other


def test_a_reward_with_its_scales_is_left_alone(tmp_path):
    done = WeightedReward(PARTS, SCALES)
    for reward in (colour_reward, done):
        how = calibration(tmp_path)
        assert calibrated(reward, FakeBackbone(), PromptList(PROMPTS), how) is reward
        assert calibration_prompts(reward, PromptList(PROMPTS), 0) == ()
        assert not how.path.exists()


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (lambda x, p: 0 * bright(x, p) + 0.3, "`odd`.* must not give all 10 pictures the same"),
        (
            lambda x, p: torch.where(
                torch.tensor([t == "rust" for t in p]), torch.inf, bright(x, p)
            ),
            "`odd`.* must return finite scores, got inf.* at the prompt 'rust'",
        ),
    ],
)
def test_a_part_that_cannot_be_measured_is_named(tmp_path, reward, message):
    how = calibration(tmp_path)
    with pytest.raises((ValueError, ComponentError), match=message):
        calibrated(uncalibrated(odd=RewardPart(reward)), FakeBackbone(), PromptList(PROMPTS), how)
    assert not how.path.exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tree: "{", "is damaged.*; restore it"),
        (lambda tree: "[]", "must hold an object"),
        (lambda tree: json.dumps({**tree, "format": 1}), "it has changed since it was written"),
        (lambda tree: sealed({**tree, "format": 9}), "of format 9, and this version reads 1"),
        (lambda tree: sealed({**tree, "parts": {}}), r"of the parts \[\]"),
        (
            lambda tree: sealed(
                {
                    **tree,
                    "parts": {name: {**part, "std": 0} for name, part in tree["parts"].items()},
                }
            ),
            "`std` must be a positive number, got 0",
        ),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, spoil, message):
    how = calibration(tmp_path)
    calibrated(uncalibrated(), FakeBackbone(), PromptList(PROMPTS), how)
    tree = json.loads(how.path.read_text())
    how.path.write_text(spoil({key: value for key, value in tree.items() if key != SEAL}))
    with pytest.raises(DamagedError, match=message):
        calibrated(uncalibrated(), FakeBackbone(), PromptList(PROMPTS), how)


def test_the_step_has_the_gradient_of_the_sum():
    def total(images, prompts):
        return (colour_reward(images, prompts) - 0.2) / 0.1 + 0.5 * (
            bright(images, prompts) - 0.5
        ) / 0.05

    found = []
    composed = WeightedReward(PARTS, SCALES)
    for reward, decode in ((total, 3), (composed, 3), (composed, 1)):
        step = make_step(reward=reward, batching=Batching(3, decode=decode))
        step(PROMPTS[:3], Streams.of(0))
        found.append(gradients(step))
    for other in found[1:]:
        for name, gradient in found[0].items():
            assert torch.allclose(other[name], gradient, rtol=1e-10, atol=1e-14)


def test_each_step_tells_the_mean_of_every_part(tmp_path):
    recorder, lines = Recorder(), JsonLines(tmp_path / "metrics.jsonl")
    step = make_step(reward=WeightedReward(PARTS, SCALES))
    make_trainer(step, observers=[recorder, lines]).run()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for row, line in zip(recorder.rows, written, strict=True):
        assert list(row.parts) == [
            f"{label}.{kind}" for label in PARTS for kind in ("raw", "normalised")
        ]
        total = 0.0
        for label, scale in SCALES.items():
            normalised = (row.parts[f"{label}.raw"] - scale.mean) / scale.std
            assert row.parts[f"{label}.normalised"] == pytest.approx(normalised, rel=1e-4)
            total += PARTS[label].weight * row.parts[f"{label}.normalised"]
        assert row.reward == pytest.approx(total, rel=1e-4)
        assert line["parts.colour.raw"] == row.parts["colour.raw"]
        assert list(line) == list(metrics_row(row))


def broken_at(value: float):
    def reward(images, prompts):
        bad = torch.tensor([prompt == "blue" for prompt in prompts])
        return torch.where(bad, value, bright(images, prompts))

    return reward


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_part_that_is_not_finite_is_named(value):
    parts = {**PARTS, "odd": RewardPart(broken_at(value))}
    reward = WeightedReward(parts, {**SCALES, "odd": Normalisation(0, 2)})
    with pytest.raises(NonFiniteError) as caught:
        make_trainer(make_step(reward=reward, batching=Batching(5))).run()
    assert caught.value.quantity == "rewards"
    assert (
        f"the rewards of 1 of 5 samples are not finite, with the values {value}, not finite among "
        f"its parts: `odd.raw` {value}, `odd.normalised` {value}, at the prompts 'blue'"
    ) in str(caught.value)


def test_a_sum_that_overflows_is_told_from_its_parts():
    huge = {
        label: RewardPart(lambda x, p: bright(x, p).float() * 3e38, 1.5) for label in ("a", "b")
    }
    reward = WeightedReward(huge, dict.fromkeys(huge, Normalisation(0, 1)))
    with pytest.raises(NonFiniteError, match="which their sum makes while every part is finite"):
        make_trainer(make_step(reward=reward)).run()

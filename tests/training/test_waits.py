"""The host does not wait for the device during a step, but for copies to it at the start."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from benchmarks.device_waits import host_waits
from benchmarks.random_backbone import SMALL, SMALL_VAES, random_backbone
from flowbp.core import Bridge, DRaFTLV, Linear
from flowbp.rewards import ClipReward
from flowbp.training import (
    AdamW,
    Averaging,
    Batching,
    PromptList,
    Trainer,
    TrainingSampling,
    TrainingStep,
)
from flowbp.training.randomness import Streams

from .fakes import Recorder

PROMPTS = ("one", "two")
NOISE = {"flowbp/adapters/diffusers_backbone.py": 1}
"""Noise is drawn on the CPU, so that it is the same on any device."""
FAMILIES = {"sd3.5 medium": 2, "flux1 dev": 2, "flux2 klein 9B": 1, "z_image": 1, "qwen_image": 1}
"""How many tensors the conditioning has on the device."""


@pytest.fixture(autouse=True)
def no_autocast(monkeypatch):
    """torch has none for tensors without data."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())


def tiny_step(name, **changes):
    """A step of a model of a published shape, tiny, without data."""
    parts = dict(
        backbone=random_backbone(
            name,
            device="meta",
            text_tokens=3,
            transformer=SMALL[name.split()[0]],
            vae=SMALL_VAES[name.split()[0]],
        ),
        reward=lambda images, prompts: images.mean((1, 2, 3)),
        method=Bridge(active=2),
        shape=Linear(),
        sampling=TrainingSampling(steps=2, guidance=3.5, height=32, width=32),
        batching=Batching(samples=2, pull=1),
    )
    return TrainingStep(**{**parts, **changes})


def by_file(waits):
    """The waits without their lines."""
    files = Counter()
    for place, count in waits.items():
        files[place.rpartition(":")[0]] += count
    return files


@pytest.mark.parametrize("name", FAMILIES)
def test_a_step_waits_for_its_inputs_alone(name):
    """Conditioning and noise, once for the batch; nothing in diffusers, nothing for each step."""
    step = tiny_step(name)
    # Some networks move their tables of positions once.
    step(PROMPTS, Streams.of(0))
    with host_waits("meta") as waits:
        step(PROMPTS, Streams.of(0))
    assert by_file(waits) == {"flowbp/adapters/backbone.py": FAMILIES[name]} | NOISE


def test_each_renoised_copy_is_one_more():
    step = tiny_step("sd3.5 medium", method=DRaFTLV(noised=2))
    with host_waits("meta") as waits:
        step(PROMPTS, Streams.of(0))
    assert by_file(waits)["flowbp/core/reading.py"] == 2


def test_a_clip_reward_waits_for_new_prompts_alone():
    sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    config = CLIPConfig(
        text_config=dict(vocab_size=3, eos_token_id=1, **sizes),
        vision_config=dict(image_size=8, patch_size=4, **sizes),
    )
    with torch.device("meta"):
        model = CLIPModel(config)
    reward = ClipReward(model=model, tokenizer=CLIPTokenizer(), device="meta")
    images = torch.zeros(2, 3, 16, 12, device="meta", requires_grad=True)
    counts = []
    for _ in range(2):
        with host_waits("meta") as waits:
            reward(images, PROMPTS).sum().backward()
        counts.append(by_file(waits))
    first, again = counts
    assert set(first) == {"flowbp/rewards/clip.py"} and not again


def test_a_reward_that_asks_is_found():
    step = tiny_step(
        "sd3.5 medium", reward=lambda images, prompts: images.mean((1, 2, 3)) / images.max().item()
    )
    with host_waits("meta") as waits:
        step(PROMPTS, Streams.of(0))
    assert waits.total() == 4


def test_an_optimizer_step_fetches_its_figures_once():
    seen = []
    trainer = Trainer(
        step=tiny_step("sd3.5 medium"),
        prompts=PromptList(PROMPTS),
        optimizer=AdamW(),
        steps=3,
        averaging=Averaging(),
        observers=[Recorder(act=lambda step: seen.append(waits.copy()))],
    )
    with host_waits("meta") as waits:
        trainer.run()
    inputs = {"flowbp/adapters/backbone.py": 2} | NOISE
    fetched = {"flowbp/training/metrics.py": 1}
    for earlier, later in zip([Counter(), *seen], seen[:-1], strict=False):
        assert by_file(later - earlier) == inputs | fetched
    # The parameters are checked once, at the end of the run.
    checked = {"flowbp/training/failures.py": 1}
    assert by_file(seen[-1] - seen[-2]) == inputs | fetched | checked

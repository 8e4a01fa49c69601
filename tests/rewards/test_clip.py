"""The CLIP reward: values, gradients, independence of the batch, refusals."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F

from flowbp.adapters import DtypePolicy
from flowbp.rewards import ClipReward, stretch
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD

from ..adapters.crossings import crossings

PROMPTS = ["red", "two dots", "a box"]
FLOAT64 = DtypePolicy(torch.float64, torch.float64)
BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)


@pytest.fixture
def reward(model, tokenizer):
    return ClipReward(model=model, tokenizer=tokenizer)


@pytest.mark.parametrize("logit_scale", [False, True])
def test_the_score_is_what_the_whole_model_gives(model, tokenizer, images, logit_scale):
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    batch = tokenizer(PROMPTS, padding="max_length", max_length=12, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch, pixel_values=(images - mean) / std).logits_per_image.diagonal()
        scale = 1 if logit_scale else model.logit_scale.exp()
        reward = ClipReward(model=model, tokenizer=tokenizer, logit_scale=logit_scale)
        scores = reward(images, PROMPTS)
    assert scores.shape == (3,) and scores.dtype == torch.float32
    assert torch.allclose(scores, logits / scale, rtol=1e-5, atol=1e-6)
    assert scores.std() > 1e-3


def test_the_gradient_is_that_of_finite_differences(model, tokenizer, images):
    reward = ClipReward(model=deepcopy(model), tokenizer=tokenizer, policy=FLOAT64, resize=stretch)
    images = F.interpolate(images.double(), (20, 28)).requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    step = 1e-5
    with torch.no_grad():
        ahead = reward(images + step * direction, PROMPTS).sum()
        behind = reward(images - step * direction, PROMPTS).sum()
    expected = (ahead - behind) / (2 * step)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-7)


def test_scores_depend_on_neither_batch_nor_order(model, tokenizer, images):
    def fresh():
        return ClipReward(model=model, tokenizer=tokenizer)

    whole = fresh()(images, PROMPTS)
    alone = [fresh()(images[i : i + 1], PROMPTS[i : i + 1]) for i in range(3)]
    order = [2, 0, 1]
    turned = fresh()(images[order], [PROMPTS[i] for i in order])
    assert torch.allclose(torch.cat(alone), whole, rtol=0, atol=1e-6)
    assert torch.allclose(turned, whole[order], rtol=0, atol=1e-6)


def test_each_prompt_is_read_once(reward, images, monkeypatch):
    read = []
    features = reward.model.get_text_features

    def counted(input_ids):
        read.append(len(input_ids))
        return features(input_ids=input_ids)

    monkeypatch.setattr(reward.model, "get_text_features", counted)
    first = reward(images, ["red", "red", "box"])
    again = reward(images, ["red", "red", "box"])
    reward(images, ["dot", "red", "box"])
    assert read == [1, 1, 1]
    assert torch.equal(first, again)
    assert not reward.embed_prompts(["red"]).requires_grad


@pytest.mark.parametrize("as_tensor", [True, False])
def test_both_output_styles_of_transformers_are_read(reward, images, monkeypatch, as_tensor):
    expected = reward(images, PROMPTS)
    with torch.no_grad():
        output = reward.model.get_image_features(pixel_values=images)
    features = output if isinstance(output, torch.Tensor) else output.pooler_output

    class Output:
        pooler_output = features

    monkeypatch.setattr(
        reward.model,
        "get_image_features",
        lambda pixel_values: features if as_tensor else Output(),
    )
    unnormalised = reward.embed_images(images)
    assert torch.allclose(unnormalised, F.normalize(features, dim=-1))
    assert expected.shape == (3,)


def test_the_model_is_frozen_and_the_pictures_get_the_gradient(reward, images):
    reward(images.requires_grad_(True), PROMPTS).sum().backward()
    assert not reward.model.training
    assert all(p.grad is None and not p.requires_grad for p in reward.model.parameters())
    assert (images.grad != 0).all()


def test_the_dot_product_stays_in_float32_under_bfloat16(model, tokenizer, images):
    reward = ClipReward(model=deepcopy(model), tokenizer=tokenizer, policy=BFLOAT16)
    exact = ClipReward(model=model, tokenizer=tokenizer)(images, PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = reward(images, PROMPTS)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())
    assert (scores - exact).abs().max() < 0.05


def test_scoring_known_prompts_moves_nothing_to_the_device(model, tokenizer, monkeypatch):
    # The meta device has no autocast.
    monkeypatch.setattr(torch, "autocast", lambda *args, **kwargs: nullcontext())
    reward = ClipReward(model=deepcopy(model), tokenizer=tokenizer, device="meta")
    images = torch.empty(3, 3, 16, 16, device="meta")
    reward.embed_prompts(PROMPTS)
    with crossings() as found:
        assert reward(images, PROMPTS).device.type == "meta"
    assert found == []


def test_pictures_of_another_size_are_resized(reward):
    assert reward(torch.rand(1, 3, 40, 24), ["red"]).shape == (1,)


def test_the_cleaning_is_applied_before_the_tokenizer(model, tokenizer, images):
    reward = ClipReward(model=model, tokenizer=tokenizer, clean=lambda text: text[::-1])
    plain = ClipReward(model=model, tokenizer=tokenizer)
    assert torch.equal(reward(images, ["der"] * 3), plain(images, ["red"] * 3))


def test_an_end_mark_written_in_a_prompt_does_not_end_it(reward):
    short, long = reward.embed_prompts(["a <|endoftext|>", "a"])
    assert not torch.allclose(short, long, atol=1e-4)


@pytest.mark.parametrize("prompts", [["red"], "red", []])
def test_one_prompt_per_picture_is_needed(reward, images, prompts):
    with pytest.raises(ValueError, match="`prompts` must be a sequence of 3 strings"):
        reward(images, prompts)


def test_pictures_need_three_channels(reward):
    with pytest.raises(ValueError, match=r"`images` must be \(B, 3, H, W\), got \(1, 1, 16, 16\)"):
        reward(torch.rand(1, 1, 16, 16), ["red"])


@pytest.mark.parametrize("changed", [{"mean": (0.5,)}, {"std": (0.5, 0.0, 0.5)}])
def test_senseless_channel_statistics_are_refused(model, tokenizer, changed):
    with pytest.raises(ValueError, match="`mean` and `std` must be three numbers"):
        ClipReward(model=model, tokenizer=tokenizer, **changed)

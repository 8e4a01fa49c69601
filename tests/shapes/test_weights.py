"""The shipped weights are what `figures.json` says, and good enough to align."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

import flowbp.shapes
from tools.shapes import measure as building
from tools.shapes.corruption import ATTRIBUTES

WEIGHTS = Path(flowbp.shapes.__file__).parent / "weights"
FIGURES = json.loads((WEIGHTS / "figures.json").read_text())


def test_all_of_them_take_at_most_12_mib():
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert len(files) > 20 and sum(path.stat().st_size for path in files) <= 12 * 2**20


def test_the_recorded_figures_are_over_many_pictures_and_good_enough():
    assert FIGURES["pictures"] >= 960
    assert FIGURES["checker"]["rendered"] >= 0.995
    assert FIGURES["checker"]["after_autoencoder"] >= 0.98
    plain = [each for each in FIGURES["base"] if each["guidance"] == 1]
    assert len(plain) == 3 and all(0.4 <= each["accuracy"] <= 0.65 for each in plain)
    assert FIGURES["reward"]["prefers_right_picture"] >= 0.95
    assert min(FIGURES["reward"]["prefers_right_picture_by_wrong_attribute"].values()) >= 0.95
    assert FIGURES["reward"]["ranks_passed_above_failed_samples"] >= 0.9


@pytest.fixture(scope="module")
def measured():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "SAMPLERS", ((10, 1.0, 1),))
        return building.measure(WEIGHTS, torch.device("cpu"), 192)


def test_a_small_measurement_agrees_with_the_recorded_one(measured):
    assert measured["checker"] == {"rendered": 1.0, "after_autoencoder": 1.0}
    assert measured["base"][0]["accuracy"] == pytest.approx(FIGURES["base"][0]["accuracy"], abs=0.1)
    for name in ("prefers_right_picture", "score_of_right_pictures", "score_of_wrong_pictures"):
        assert measured["reward"][name] == pytest.approx(FIGURES["reward"][name], abs=0.05)
    preferred = measured["reward"]["prefers_right_picture_by_wrong_attribute"]
    assert set(preferred) == set(ATTRIBUTES) and min(preferred.values()) >= 0.9


def test_plain_diffusers_draws_other_pictures_of_other_captions():
    pipeline = StableDiffusion3Pipeline.from_pretrained(WEIGHTS / "base")
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(
        ["a red circle", "a blue square"],
        num_inference_steps=8,
        guidance_scale=3.0,
        height=64,
        width=64,
        output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).images
    red, _, blue = images.amax(dim=(2, 3)).unbind(1)
    assert red[0] > 0.8 > blue[0] and blue[1] > 0.8 > red[1]

"""Sharing: the same files are loaded once, and nothing outlives its last user."""

from __future__ import annotations

import gc
import os

import pytest
import torch
from torch import nn

from flowbp.adapters import DtypePolicy
from flowbp.rewards import AestheticScore, ClipReward, CLIPScore, Towers

from .published_rewards import build, hpsv2, save_head, save_hps


def test_rewards_on_the_same_folder_share_the_model(folder, tmp_path):
    towers = Towers()
    clip = CLIPScore(source=folder, towers=towers)
    head = save_head(tmp_path / "head.pth", 8)
    aesthetic = AestheticScore(source=head, clip=str(folder), towers=towers)
    generic = ClipReward.from_pretrained(folder / ".." / folder.name, towers=towers)
    assert clip.clip.model is aesthetic.tower.model is generic.model
    assert len(towers) == 1


def test_rewards_on_the_same_file_share_the_model(folder, tmp_path):
    path, towers = save_hps(tmp_path / "hps.pt"), Towers()
    first, second = (hpsv2(path, folder, towers=towers) for _ in range(2))
    assert first.clip.model is second.clip.model


def test_another_dtype_or_file_is_another_model(folder, tmp_path):
    path, towers = save_hps(tmp_path / "hps.pt"), Towers()
    half = DtypePolicy(torch.bfloat16, torch.bfloat16)
    rewards = [
        hpsv2(path, folder, towers=towers),
        hpsv2(path, folder, towers=towers, policy=half),
        build("clipscore", folder, tmp_path, towers=towers),
    ]
    assert len({id(reward.clip.model) for reward in rewards}) == len(towers) == 3
    os.utime(path, ns=(1, 1))
    assert hpsv2(path, folder, towers=towers).clip.model is not rewards[0].clip.model


@pytest.mark.parametrize("name", ["hpsv2", "clipscore"])
def test_nothing_stays_loaded(folder, tmp_path, name):
    towers = Towers()
    reward = build(name, folder, tmp_path, towers=towers)
    assert len(towers) == 1
    del reward
    gc.collect()
    assert len(towers) == 0


def test_verification_is_not_skipped_for_a_model_that_is_shared(folder, tmp_path):
    path, towers = save_hps(tmp_path / "hps.pt"), Towers()
    known = save_hps(tmp_path / "other.pt", {"logit_scale": torch.ones(())})
    from .published_rewards import published

    loose = hpsv2(path, folder, towers=towers, published=published(known), verify=False)
    with pytest.raises(ValueError, match="verify=false"):
        hpsv2(path, folder, towers=towers, published=published(known))
    assert len(towers) == 1 and loose.clip.model is not None


def test_what_is_held_stays_until_another_place_is_held():
    towers = Towers()
    model = towers.get("a/b", dtype=torch.float32, device="cpu", load=lambda: nn.Linear(1, 1))
    towers.hold(["a/b"])
    del model
    gc.collect()
    assert len(towers) == 1
    towers.hold([])
    gc.collect()
    assert len(towers) == 0

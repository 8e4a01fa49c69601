"""Loading a CLIP reward: what a folder must hold, and what a wrong one says."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from flowbp.adapters import DtypePolicy
from flowbp.rewards import ClipReward
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD


@pytest.fixture
def copy(folder, tmp_path):
    target = tmp_path / "copy"
    shutil.copytree(folder, target)
    return target


def test_a_loaded_reward_scores_like_the_model_it_was_saved_from(folder, model, tokenizer, images):
    loaded = ClipReward.from_pretrained(str(folder))
    prompts = ["red", "two dots", "a box"]
    expected = ClipReward(model=model, tokenizer=tokenizer)(images, prompts)
    assert torch.allclose(loaded(images, prompts), expected, rtol=0, atol=1e-6)
    assert (loaded.mean, loaded.std) == (CLIP_MEAN, CLIP_STD)


def test_channel_statistics_come_from_the_folder(copy):
    content = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25]}
    (copy / "preprocessor_config.json").write_text(json.dumps(content))
    loaded = ClipReward.from_pretrained(copy)
    assert (loaded.mean, loaded.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_the_policy_decides_what_is_loaded(folder):
    policy = DtypePolicy(torch.bfloat16, torch.bfloat16)
    loaded = ClipReward.from_pretrained(folder, policy=policy)
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="`source` must be a folder or a hub id"):
        ClipReward.from_pretrained(tmp_path / "nothing")


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"CLIPModel layout.*has no config\.json"):
        ClipReward.from_pretrained(tmp_path)


def test_a_model_of_another_type(copy):
    (copy / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="must hold a CLIPModel, got model_type 'siglip'"):
        ClipReward.from_pretrained(copy)


def test_a_folder_without_a_tokenizer(copy):
    for name in ("tokenizer.json", "vocab.json"):
        (copy / name).unlink(missing_ok=True)
    with pytest.raises(
        FileNotFoundError, match=r"`source` .* neither tokenizer\.json nor vocab\.json"
    ):
        ClipReward.from_pretrained(copy)


def test_a_folder_without_weights(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        ClipReward.from_pretrained(copy)


def test_incomplete_weights_are_not_made_up(copy):
    weights = load_file(copy / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 parameters.*visual_projection\.weight.*random"):
        ClipReward.from_pretrained(copy)


def test_weights_of_another_shape_are_refused(copy):
    weights = load_file(copy / "model.safetensors")
    name = "visual_projection.weight"
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 parameters.*visual_projection\.weight.*random"):
        ClipReward.from_pretrained(copy)


def test_a_damaged_file_is_named(copy):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged.*download it again"):
        ClipReward.from_pretrained(copy)


def test_a_home_folder_is_expanded(copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    assert ClipReward.from_pretrained("~/copy").mean == CLIP_MEAN


def test_a_hub_id_that_cannot_be_read(monkeypatch):
    def unreachable(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", unreachable)
    monkeypatch.setattr(CLIPTokenizer, "from_pretrained", unreachable)
    with pytest.raises(FileNotFoundError, match="'owner/name' could not be read: no connection"):
        ClipReward.from_pretrained("owner/name")

"""Prompts as open_clip reads them: text and ids of its own tokenizer, see make_awkward_prompts."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from flowbp.rewards import ClipReward, repaired

CONTENT = json.loads(Path(__file__).with_name("awkward_prompts.json").read_text(encoding="utf-8"))
ROWS = CONTENT["prompts"]


@pytest.fixture(scope="module")
def reward():
    """Reads as HPSv2 does, through the part of CLIP's vocabulary that these prompts use."""
    merges = [tuple(merge.split()) for merge in CONTENT["merges"]]
    tokenizer = CLIPTokenizer(vocab=CONTENT["vocabulary"], merges=merges, model_max_length=77)
    sizes = dict(hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    text = dict(vocab_size=49408, bos_token_id=49406, eos_token_id=49407, **sizes)
    vision = dict(image_size=8, patch_size=4, **sizes)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=4))
    return ClipReward(model=model, tokenizer=tokenizer, clean=repaired)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ascii(row["prompt"][:12]))
def test_the_cleaned_text_is_open_clips(row):
    assert repaired(row["prompt"]) == row["cleaned"]


def test_the_ids_are_open_clips(reward, monkeypatch):
    read = []
    monkeypatch.setattr(
        reward.model,
        "get_text_features",
        lambda input_ids: read.append(input_ids) or torch.ones(len(input_ids), 4),
    )
    reward.embed_prompts([row["prompt"] for row in ROWS])
    ids = torch.cat(read)
    assert ids.shape == (len(ROWS), 77)
    for found, row in zip(ids.tolist(), ROWS, strict=True):
        assert found[: len(row["ids"])] == row["ids"]
        # Behind the end mark nothing is read.
        assert found.index(49407) == len(row["ids"]) - 1
    assert max(len(row["ids"]) for row in ROWS) == 77


def test_what_follows_the_end_mark_changes_nothing(model, tokenizer):
    # open_clip fills up with zeros, the tokenizer of transformers with end marks.
    ids = tokenizer(["red"], padding="max_length", max_length=12, return_tensors="pt").input_ids
    end = int((ids[0] == tokenizer.eos_token_id).int().argmax())
    zeros = ids.clone()
    zeros[0, end + 1 :] = 0
    with torch.no_grad():
        outputs = [deepcopy(model).get_text_features(input_ids=each) for each in (ids, zeros)]
    one, other = (o if torch.is_tensor(o) else o.pooler_output for o in outputs)
    assert torch.equal(one, other)


def test_a_missing_ftfy_is_reported_with_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ftfy", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "flowbp-align\[rewards\]"'):
        repaired("a cat")

"""Finding weights that are spread over several files."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from flowbp.rewards.shards import find_shards


def test_shards_come_from_the_index(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(ValueError, match="2 safetensors files without an index"):
        find_shards(tmp_path, name="x.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = find_shards(tmp_path, name="x.safetensors")
    assert [path.name for path in found] == ["one.safetensors", "two.safetensors"]
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks two\.safetensors"):
        find_shards(tmp_path, name="x.safetensors")


def test_an_index_without_a_map(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json must hold `weight_map`"):
        find_shards(tmp_path, name="x.safetensors")


def test_an_empty_folder_holds_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"lacks x\.safetensors"):
        find_shards(tmp_path, name="x.safetensors")

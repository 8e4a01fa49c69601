"""Files of weights: what is wrong with one is reported before anything is built from it."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flowbp.rewards import check_layout, read_weights
from flowbp.rewards.weight_files import Float32Head, assign, find_shards, read_shapes, unfilled

from .published_rewards import published


class Intruder:
    """Unpickling one would run what it says."""

    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_files_of_torch_save_are_read_in_either_format(tmp_path, zipped, wrapped):
    path, weights = tmp_path / "w.pth", {"a": torch.arange(3.0)}
    content = {"state_dict": weights, "epoch": 3} if wrapped else weights
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_weights(path)["a"], weights["a"])


def test_nothing_of_a_file_is_run(tmp_path, capsys):
    path = tmp_path / "w.pt"
    torch.save({"state_dict": Intruder()}, path)
    with pytest.raises(ValueError, match=r"w\.pt cannot be read as weights alone.*safetensors"):
        read_weights(path)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", [0, 1, 100, -200])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_was_cut_off_is_named(tmp_path, kept, suffix):
    path, weights = tmp_path / f"w{suffix}", {"a": torch.rand(300), "b": torch.rand(300)}
    (torch.save if suffix == ".pt" else save_file)(weights, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=rf"w\{suffix} (is damaged|cannot be read)"):
        read_weights(path)


def test_other_content_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.save([torch.ones(1)], path)
    with pytest.raises(ValueError, match="must hold tensors by name, got a list"):
        read_weights(path)
    torch.save({"a": "text"}, path)
    with pytest.raises(ValueError, match="must hold tensors, got a str at 'a'"):
        read_weights(path)


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({"b": None}, r"lacks b, the first of 1 missing keys; it holds a, c"),
        ({"b": (3,)}, r"its b has shape \(3,\) in place of \(2, 2\)"),
        ({"z": (1,), "y": (1,)}, r"also holds z, the first of 2 unknown keys"),
    ],
)
def test_the_first_key_that_does_not_fit_is_named(tmp_path, changed, fault):
    layout = {"a": (1,), "b": (2, 2), "c": ()}
    shapes = {key: shape for key, shape in (layout | changed).items() if shape is not None}
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match=fault):
        check_layout(weights, layout, path=tmp_path / "w.pt", what="three letters")


def test_a_published_file_is_known_by_size_and_hash(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(b"abc")
    known = published(path)
    known.check(path)
    path.write_bytes(b"abd")
    with pytest.raises(ValueError, match=rf"has sha256 a52d.* has {known.sha256}.*verify=false"):
        known.check(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"has 2 bytes and the published w\.pt has 3: it was cut"):
        known.check(path)


def test_assigned_tensors_take_the_modules_dtype(tmp_path):
    linear = nn.Linear(1, 2, dtype=torch.bfloat16)
    tensors = {"weight": torch.ones(2, 1), "bias": torch.ones(2)}
    assign(linear, tensors, path=tmp_path, what="a head")
    assert linear.weight.dtype == torch.bfloat16
    assert linear.weight.sum() == 2


def test_only_parameters_are_left_unfilled():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((2,), 3.0))
            nn.init.zeros_(self.weight)
            self.weight.requires_grad_(False)
            self.register_buffer("counts", torch.zeros(2).add_(1))

    with unfilled(torch.float64):
        module = Buffered()
    assert module.weight.tolist() == [3.0, 3.0]
    assert module.weight.dtype == torch.float64
    assert not module.weight.requires_grad
    assert module.counts.tolist() == [1.0, 1.0]
    assert torch.get_default_dtype() == torch.float32


def test_a_head_stays_in_float32():
    network = nn.ModuleDict(dict(body=nn.Linear(1, 1), head=Float32Head(nn.Linear(1, 1))))
    dtypes = [weight.dtype for weight in network.to(torch.bfloat16).parameters()]
    assert dtypes == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert next(network.to(torch.float64)["head"].parameters()).dtype == torch.float64


def test_shapes_are_read_without_values(tmp_path):
    save_file({"a": torch.zeros(2, 3)}, tmp_path / "w.safetensors")
    found = read_shapes(tmp_path / "w.safetensors")
    assert {key: (value.shape, value.device.type) for key, value in found.items()} == {
        "a": ((2, 3), "meta")
    }


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

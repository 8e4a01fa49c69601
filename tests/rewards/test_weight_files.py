"""Single files of weights: what is wrong with one is said before anything is built from it."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from flowbp.rewards import check_layout, read_weights
from flowbp.rewards.clip_tokenizer import reading
from flowbp.rewards.weight_files import from_hub

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
    known.check_size(path)
    with pytest.raises(ValueError, match=rf"has sha256 a52d.* has {known.sha256}.*verify=false"):
        known.check(path)
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"has 2 bytes and the published w\.pt has 3: it was cut"):
        known.check_size(path)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (
            errors.LocalEntryNotFoundError("no connection"),
            r"it is not in the cache .*run `hf download o/n f\.pt`.*resolve/main/f\.pt elsewhere",
        ),
        (
            errors.EntryNotFoundError("no such file"),
            r"o/n does not have it \(no such file\); check",
        ),
        (errors.GatedRepoError.__new__(errors.GatedRepoError), "it is gated; accept its licence"),
        (OSError("no space left"), "no space left; try"),
    ],
)
def test_what_the_hub_does_not_give_is_told_with_the_cure(monkeypatch, error, cure):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=rf"`source` 'o/n' could .*its f\.pt: .*{cure}"):
        from_hub("o/n", "f.pt")


@pytest.mark.parametrize(
    ("cause", "cure"),
    [
        (errors.GatedRepoError.__new__(errors.GatedRepoError), "it is gated; accept its licence"),
        (errors.LocalEntryNotFoundError("no"), r"`hf download o/n` where there is a network"),
    ],
)
def test_what_a_loader_says_in_its_own_words_is_told_by_its_cause(cause, cure):
    told = rf"`clip` 'o/n' could not be read: .*{cure}"
    with pytest.raises(FileNotFoundError, match=told), reading("clip", "o/n"):
        raise OSError("We couldn't connect to the hub to load this file") from cause

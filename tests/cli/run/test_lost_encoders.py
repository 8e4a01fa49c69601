"""A run whose text encoders are gone loses nothing of what it trained, or of what it has saved."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file

from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.run import execution
from flowbp.run import main
from flowbp.settings import REHEARSAL
from flowbp.training import model_damage

from ...tiny_run import save_models, write_configuration

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
SAVING = ["training.steps=6", "checkpoints={every: 3, keep: 2}"]

FAILING = """
class Failing:
    def __init__(self, folder, steps):
        pass
    def row(self, metrics):
        if metrics.step == 4:
            raise OSError("the observer's disk is gone")
    def pictures(self, step, images, prompts):
        pass
    def close(self):
        pass
"""


@pytest.fixture
def lost(tmp_path, monkeypatch):
    """The configuration of a run, one of whose encoders vanishes once prompts are encoded.

    With what the rehearsal has saved of it, from which checkpoints would take it.
    """
    return losing(tmp_path, monkeypatch, saved=True)


@pytest.fixture
def lost_at_its_source(tmp_path, monkeypatch):
    """The same without a loss of what was saved."""
    return losing(tmp_path, monkeypatch, saved=False)


def losing(tmp_path, monkeypatch, *, saved):
    save_models(tmp_path)

    def gone(*given, **_):
        encode_prompts(*given)
        (tmp_path / "base" / "text_encoder_2").rename(tmp_path / "aside")
        if saved:
            shutil.rmtree(tmp_path / "run" / REHEARSAL / "text_encoder_2")

    monkeypatch.setattr(execution, "encode_prompts", gone)
    return str(write_configuration(tmp_path, tmp_path))


def back(tmp_path):
    (tmp_path / "aside").rename(tmp_path / "base" / "text_encoder_2")


def whole(yaml, tmp_path, monkeypatch):
    """The weights of the same run without a loss."""
    monkeypatch.setattr(execution, "encode_prompts", encode_prompts)
    assert main([yaml, *SAVING, f"run.folder={tmp_path / 'whole'}"]) == 0
    return load_file(tmp_path / "whole" / "checkpoints" / "final" / WEIGHTS)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_checkpoints_have_it_where_it_was_saved_before(lost_at_its_source, tmp_path):
    assert main([lost_at_its_source, *SAVING]) == 0
    name = "text_encoder_2/model.safetensors"
    for checkpoint in ("step-000003", "final"):
        place = tmp_path / "run" / "checkpoints" / checkpoint
        assert same(load_file(place / name), load_file(tmp_path / "aside" / "model.safetensors"))
        assert model_damage(place, state=True) is None


def test_every_checkpoint_is_written_and_resumed_exactly(lost, tmp_path, monkeypatch, capsys):
    checkpoints = tmp_path / "run" / "checkpoints"
    with pytest.warns(UserWarning, match="text_encoder_2 could not be read again"):
        assert main([lost, *SAVING]) == 0
    assert "text_encoder_2=...)" in capsys.readouterr().out
    assert {path.name for path in checkpoints.iterdir()} == {"step-000003", "final"}
    back(tmp_path)
    trained = load_file(checkpoints / "final" / WEIGHTS)
    assert same(whole(lost, tmp_path, monkeypatch), trained)
    shutil.rmtree(checkpoints / "final")
    (tmp_path / "run" / "finished.json").unlink()
    assert main([lost, *SAVING, "--resume"]) == 0
    assert same(load_file(checkpoints / "final" / WEIGHTS), trained)
    assert (checkpoints / "final" / "text_encoder_2" / "model.safetensors").is_file()


def test_a_whole_checkpoint_is_replaced_by_one_without(lost, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(execution, "encode_prompts", encode_prompts)
        assert main([lost]) == 0
    with pytest.warns(UserWarning, match="text_encoder_2 could not be read again"):
        assert main([lost, "training.steps=3", "--resume"]) == 0
    final = tmp_path / "run" / "checkpoints" / "final"
    assert [path.name for path in (final / "text_encoder_2").iterdir()] == ["left_out.txt"]


def test_what_is_saved_after_a_failure_is_resumed_exactly(lost, tmp_path, monkeypatch, capsys):
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(UserWarning, match="text_encoder_2 could not be read again"):
        assert main([lost, *SAVING, "observers.others=[{name: 'failing:Failing'}]"]) == 1
    stopped = tmp_path / "run" / "checkpoints" / "stopped-000004"
    assert f"are saved in {stopped}" in capsys.readouterr().err
    back(tmp_path)
    expected = whole(lost, tmp_path, monkeypatch)
    assert main([lost, *SAVING, "--resume"]) == 0
    assert same(load_file(stopped.parent / "final" / WEIGHTS), expected)

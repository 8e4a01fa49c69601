"""What training does not change is on the disk once, and each checkpoint is whole for itself."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from diffusers import StableDiffusion3Pipeline

from flowbp.run import main
from flowbp.training import model_damage

FROZEN = "vae/diffusion_pytorch_model.safetensors"
TRAINED = "transformer/diffusion_pytorch_model.safetensors"
# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

TYPED = ["training.steps=3", "checkpoints.every=1"]


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


def checkpoints_of(folder):
    found = sorted((folder / "checkpoints").iterdir())
    assert all(model_damage(each, state=True) is None for each in found)
    return found


def content(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    # The state has seconds in it.
    own = ("manifest.json", "state.json", "README.md")
    return {p.relative_to(folder): p.read_bytes() for p in paths if p.name not in own}


def test_frozen_parts_are_links_and_outlive_each_other(yaml, run):
    assert main([yaml, *TYPED]) == 0
    found = checkpoints_of(run)
    assert [each.name for each in found] == ["final", "step-000001", "step-000002"]
    # The rehearsal's is gone, of which they are links.
    assert all((each / FROZEN).stat().st_nlink == 3 for each in found)
    assert all((each / TRAINED).stat().st_nlink == 1 for each in found)
    for each in found[1:]:
        shutil.rmtree(each)
    StableDiffusion3Pipeline.from_pretrained(found[0], text_encoder_3=None, tokenizer_3=None)
    assert main([yaml, "training.steps=4", "checkpoints={every: 1, keep: 1}", "--resume"]) == 0
    assert [each.name for each in checkpoints_of(run)] == ["final"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EMLINK])
def test_a_disk_without_links_has_copies(yaml, run, tmp_path, monkeypatch, number):
    assert main([yaml, *TYPED]) == 0

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert main([yaml, *TYPED, f"run.folder={tmp_path / 'copied'}"]) == 0
    linked, copied = checkpoints_of(run), checkpoints_of(tmp_path / "copied")
    assert all((each / FROZEN).stat().st_nlink == 1 for each in copied)
    assert [content(each) for each in linked] == [content(each) for each in copied]

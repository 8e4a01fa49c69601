"""A released text encoder whose source is gone is left out of what is saved, and nothing else."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy

import pytest
import torch

from flowbp.adapters.saving import LEFT_OUT

from .adapted import PROMPTS, images_of, noise_of
from .families import FAMILIES

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


@pytest.mark.parametrize("name", FAMILIES)
def test_all_else_is_saved_and_loads_with_an_encoder_that_is_given(name, tmp_path):
    family, source, saved = FAMILIES[name], tmp_path / "source", tmp_path / "saved"
    family.pipeline().save_pretrained(source)
    options = {"text_length": family.text_length, **family.options}
    backbone = family.kind.from_pretrained(source, **options)
    expected = images_of(backbone, steps=2)
    lost = list(backbone.text_encoders.towers)[-1]
    backbone.text_encoders.release()
    shutil.rmtree(source / lost)
    said = rf"component {lost} could not be read again from '{source}' .*{lost}=\.\.\.\)"
    with pytest.warns(UserWarning, match=said) as told:
        backbone.save(saved)
    assert len(told) == 1
    assert json.loads((saved / "model_index.json").read_text())[lost] == [None, None]
    assert [path.name for path in (saved / lost).iterdir()] == [LEFT_OUT]
    assert str(source) in (saved / lost / LEFT_OUT).read_text()
    assert f"{lost}=..." in backbone.loading(saved)
    kind = type(family.pipeline())
    given = {lost: getattr(family.pipeline(), lost)}
    pipeline = kind.from_pretrained(saved, **given, **family.reload)
    pipeline.set_progress_bar_config(disable=True)
    call = dict(height=16, width=16, num_inference_steps=2, output_type="pt")
    theirs = family.sample(pipeline, PROMPTS, scale=1.0, latents=noise_of(backbone), **call)
    assert torch.allclose(theirs, expected, rtol=0, atol=1e-5)


def test_whatever_keeps_an_encoder_from_being_read_is_told(tmp_path):
    def memory():
        raise MemoryError("no room for 9 GiB")

    backbone = FAMILIES["sd3"].backbone(deepcopy(FAMILIES["sd3"].pipeline()))
    held = backbone.text_encoders.towers["text_encoder_2"].held
    held.reload_with(memory, "somewhere")
    held.release()
    with pytest.warns(UserWarning, match=r"from 'somewhere' \(MemoryError: no room for 9 GiB\)"):
        backbone.save(tmp_path)
    assert (tmp_path / "text_encoder" / "model.safetensors").is_file()

"""An offloaded text encoder whose source is gone is left out of what is saved, and nothing else."""

from __future__ import annotations

import json
import shutil
from copy import deepcopy

import pytest
import torch

from flowbp.adapters import CutPrompt
from flowbp.adapters.pipeline_files import LEFT_OUT
from flowbp.adapters.text_encoders import longer_text

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
    backbone.text_encoders.offload()
    shutil.rmtree(source / lost)
    said = rf"component {lost} could not be read again from '{source}' .*{lost}=\.\.\.\)"
    with pytest.warns(UserWarning, match=said) as shown:
        backbone.save(saved)
    assert len(shown) == 1
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


def test_whatever_keeps_an_encoder_from_being_read_is_reported(tmp_path):
    def memory():
        raise MemoryError("no room for 9 GiB")

    backbone = FAMILIES["sd3"].backbone(deepcopy(FAMILIES["sd3"].pipeline()))
    held = backbone.text_encoders.towers["text_encoder_2"].held
    held.reload_with(memory, "somewhere")
    held.offload()
    with pytest.warns(UserWarning, match=r"from 'somewhere' \(MemoryError: no room for 9 GiB\)"):
        backbone.save(tmp_path)
    assert (tmp_path / "text_encoder" / "model.safetensors").is_file()


def test_cut_prompts_are_shown_with_their_cure():
    cut = CutPrompt("a circle beside a square", tokens=7, read=4)
    assert str(cut) == "'a circle beside a square' (7 tokens, 4 read)"
    assert "raise backbone.text_length, up to 512" in longer_text(256, 512)
    assert "at its largest, 512" in longer_text(512, 512)


def test_an_encoder_is_given_its_options_where_it_is():
    def scaled(input_ids, scale, plain):
        return input_ids * scale, plain

    ids, two = torch.tensor([[1, 2]]), torch.tensor(2)
    found, plain = FAMILIES["sd3"].backbone().text.run(scaled, ids, scale=two, plain=1)
    assert found.tolist() == [[2, 4]] and plain == 1

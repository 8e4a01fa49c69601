"""Loading and saving: the diffusers layout both ways, and what a wrong source says."""

from __future__ import annotations

import json
import shutil
import warnings

import pytest
import torch
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file, save_file

from flowbp.adapters import DtypePolicy, SD3Backbone
from flowbp.adapters.pipeline_files import pipeline_class

BFLOAT16 = torch.bfloat16


@pytest.fixture(scope="module")
def saved(pipelines, tmp_path_factory):
    """Folders written by the adapter, by whether they hold a T5."""
    folders = {}
    for t5 in (False, True):
        folders[t5] = tmp_path_factory.mktemp("sd3") / "model"
        SD3Backbone.from_pipeline(pipelines(t5)).save(folders[t5])
    return folders


@pytest.fixture
def copy(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved[True], folder)
    return folder


def velocity(backbone):
    generator = torch.Generator().manual_seed(0)
    latents = backbone.noise(1, height=16, width=16, generator=generator)
    with torch.no_grad():
        return backbone.velocity(backbone.encode(["red"]))(latents, torch.tensor(0.5))


@pytest.mark.parametrize("t5", [False, True])
def test_plain_diffusers_loads_and_runs_what_was_saved(pipelines, saved, t5):
    call = dict(height=16, width=16, num_inference_steps=2, output_type="pt")
    pictures = []
    without = {} if t5 else {"text_encoder_3": None, "tokenizer_3": None}
    loaded = StableDiffusion3Pipeline.from_pretrained(saved[t5], **without)
    for pipeline in (pipelines(t5), loaded):
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(0)
        pictures.append(pipeline("red", generator=generator, **call).images)
    assert torch.allclose(*pictures, rtol=0, atol=1e-5)


@pytest.mark.parametrize("t5", [False, True])
def test_what_was_saved_is_loaded_again(pipelines, saved, t5):
    loaded = SD3Backbone.from_pretrained(str(saved[t5]), use_t5=t5)
    assert (loaded.text.t5 is not None) is t5
    original = SD3Backbone.from_pipeline(pipelines(t5))
    assert torch.allclose(velocity(loaded), velocity(original), rtol=0, atol=1e-5)
    for name, parameter in original.trainable().items():
        assert torch.equal(parameter, loaded.trainable()[name])
    assert all(p.requires_grad for p in loaded.module.parameters())


def test_a_t5_that_is_not_wanted_is_left_out(saved):
    assert SD3Backbone.from_pretrained(saved[True], use_t5=False).text.t5 is None


@pytest.mark.parametrize("part", ["text_encoder_3", "tokenizer_3"])
@pytest.mark.parametrize("how", ["folder", "index"])
def test_a_t5_that_is_missing_is_left_out_only_where_that_is_said(copy, part, how):
    if how == "folder":
        shutil.rmtree(copy / part)
    else:
        change_index(copy, **{part: [None, None]})
    for wanted in (None, True):
        with pytest.raises(FileNotFoundError, match=rf"lacks {part}, .*write use_t5=false"):
            SD3Backbone.from_pretrained(copy, use_t5=wanted)
    assert SD3Backbone.from_pretrained(copy, use_t5=False).text.t5 is None


def test_a_model_without_a_t5_says_so(saved):
    with pytest.warns(UserWarning, match="without text_encoder_3, tokenizer_3, .* use_t5=false"):
        SD3Backbone.from_pretrained(saved[False])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SD3Backbone.from_pretrained(saved[False], use_t5=False)


def test_the_policies_decide_what_is_loaded(saved):
    policy = DtypePolicy(torch.float32, BFLOAT16)
    loaded = SD3Backbone.from_pretrained(saved[True], policy=policy, decode_batch=2)
    assert {p.dtype for p in loaded.transformer.parameters()} == {torch.float32}
    assert {p.dtype for p in loaded.decoder.vae.parameters()} == {BFLOAT16}
    assert {p.dtype for p in loaded.text.t5.encoder.parameters()} == {BFLOAT16}
    assert loaded.decoder.decode_batch == 2


def test_a_home_folder_is_expanded(copy, monkeypatch):
    monkeypatch.setenv("HOME", str(copy.parent))
    assert SD3Backbone.from_pretrained("~/copy", use_t5=False).text.t5 is None


def test_saving_writes_no_path_of_this_machine(saved, tmp_path):
    SD3Backbone.from_pretrained(saved[True]).save(tmp_path / "again")
    texts = {path: path.read_text() for path in (tmp_path / "again").rglob("*.json")}
    assert not [path for path, text in texts.items() if str(saved[True]) in text]
    assert not [path for path, text in texts.items() if "_name_or_path" in text]
    for part in ("transformer", "vae"):
        name = f"{part}/config.json"
        assert texts[tmp_path / "again" / name] == (saved[True] / name).read_text()


PARTS = ["transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3"]


def weights_of(folder, part):
    (path,) = (folder / part).glob("*.safetensors")
    return path


@pytest.mark.parametrize("part", PARTS)
def test_incomplete_weights_are_not_made_up(copy, part):
    path = weights_of(copy, part)
    weights = load_file(path)
    for name in sorted(weights)[:2]:
        del weights[name]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"2 parameters of its {part}, the first being .* random"):
        SD3Backbone.from_pretrained(copy)


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_another_shape_are_refused(copy, part):
    path = weights_of(copy, part)
    weights = load_file(path)
    name = next(name for name in sorted(weights) if weights[name].ndim == 2)
    weights[name] = weights[name][:, :-1].contiguous()
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"{part}\b.*{name}"):
        SD3Backbone.from_pretrained(copy)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="`source` must be a folder or a hub id"):
        SD3Backbone.from_pretrained(tmp_path / "nothing")


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"diffusers layout.*has no model_index\.json"):
        SD3Backbone.from_pretrained(tmp_path)


def test_an_index_that_is_not_json(copy):
    (copy / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json is not valid JSON"):
        SD3Backbone.from_pretrained(copy)


def test_an_index_that_is_no_object(copy):
    (copy / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        SD3Backbone.from_pretrained(copy)


def change_index(folder, **changed):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def test_another_pipeline(copy):
    change_index(copy, _class_name="FluxPipeline")
    with pytest.raises(ValueError, match="must hold a StableDiffusion3Pipeline, got FluxPipeline"):
        SD3Backbone.from_pretrained(copy)


def test_an_index_without_a_component(copy):
    change_index(copy, vae=[None, None])
    with pytest.raises(ValueError, match=r"model_index\.json lacks vae"):
        SD3Backbone.from_pretrained(copy)


def test_a_missing_component_folder(copy):
    shutil.rmtree(copy / "vae")
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(FileNotFoundError, match="lacks the folders vae, tokenizer that"):
        SD3Backbone.from_pretrained(copy)


def test_a_wanted_t5_that_the_source_does_not_have(saved):
    with pytest.raises(FileNotFoundError, match="lacks text_encoder_3, tokenizer_3"):
        SD3Backbone.from_pretrained(saved[False], use_t5=True)


def test_a_diffusers_without_the_pipeline_is_reported():
    with pytest.raises(ImportError, match=r"NoPipeline is needed here and diffusers .*pip install"):
        pipeline_class("NoPipeline")

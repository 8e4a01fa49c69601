"""The command with `tuning: {name: lora}`: what is counted, trained, saved and resumed."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowbp.adapters.lora_files import WEIGHTS
from flowbp.cli.run.check import division_of, tuned_sketch
from flowbp.cli.run.execution import execute
from flowbp.run import main
from flowbp.settings import RunContainer, load
from flowbp.training.packing import unpack

from ...adapters.adapted import TUNED, images_of, noise_of

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

BACKBONES = {
    "sd3": "sd3, text_length: 16",
    "flux1 dev": "flux1, text_length: 16, embedded_guidance: 4.0",
    "flux2 klein-base": "flux2, text_length: 64",
    "z_image": "z_image, text_length: 64",
    "qwen_image": "qwen_image, text_length: 64",
}
LORA = "tuning={name: lora, rank: 2, alpha: 4}"
FINAL = f"checkpoints/final/{WEIGHTS}"


@pytest.fixture(params=BACKBONES)
def name(request):
    return request.param


@pytest.fixture
def typed(name, yaml, tmp_path):
    """The arguments of a run on a family's tiny model."""
    TUNED[name].pipeline().save_pretrained(tmp_path / "model")
    return [yaml, f"backbone={{name: {BACKBONES[name]}, source: {tmp_path / 'model'}}}"]


def container(*typed: str) -> RunContainer:
    return RunContainer(settings=load(typed).settings)


def trained_last(checkpoint):
    """The parameters as the optimizer left them."""
    tree = json.loads((checkpoint / "training" / "state.json").read_text())
    tensors = load_file(checkpoint / "training" / "tensors.safetensors")
    return unpack(tree["state"], tensors)["parameters"]


def test_a_run_trains_an_adapter_that_plain_diffusers_loads(name, typed, tmp_path, capsys):
    parts = container(*typed, LORA, "training.averaging={decay: 0.5}", "training.clip=null")
    assert execute(parts) is None
    count = sum(p.numel() for p in parts.tuned().trainable().values())
    assert f"{count:,} parameters, lora (rank 2, alpha 4" in capsys.readouterr().out
    final = tmp_path / "run" / "checkpoints" / "final"
    assert {path.name for path in final.iterdir()} == {
        WEIGHTS,
        "training",
        "manifest.json",
        "README.md",
    }
    # Training ends with the averages in the parameters.
    saved = load_file(final / WEIGHTS)
    for each, parameter in parts.tuned().trainable().items():
        scale = 2 if ".lora_B." in each else 1
        assert torch.equal(saved["transformer." + each.replace(".default", "")], scale * parameter)
    last = trained_last(final)
    assert len(last) == len(saved)
    equal = [torch.equal(last[each], p) for each, p in parts.tuned().trainable().items()]
    # SD3 reads nothing of its last block's text queries, and Qwen-Image nothing of its text.
    assert sum(equal) <= 3
    pipeline = type(TUNED[name].pipeline()).from_pretrained(
        tmp_path / "model", **TUNED[name].reload
    )
    pipeline.set_progress_bar_config(disable=True)
    call = dict(scale=1.0, height=16, width=16, num_inference_steps=2, output_type="pt")
    call["latents"] = noise_of(parts.tuned())
    base = TUNED[name].sample(pipeline, ["a red box", "two dots"], **call)
    pipeline.load_lora_weights(final)
    theirs = TUNED[name].sample(pipeline, ["a red box", "two dots"], **call)
    assert torch.allclose(images_of(parts.tuned(), steps=2), theirs, rtol=0, atol=1e-5)
    assert not torch.equal(theirs, base)


def test_a_check_counts_the_adapter_without_its_model(typed, tmp_path, capsys, monkeypatch):
    parts = container(*typed, LORA)
    parts.tuned().save(tmp_path / "lora")
    count = sum(p.numel() for p in parts.tuned().trainable().values())

    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("flowbp.adapters.pipeline_files.load_model", refuse)
    for tuning in (LORA, f"tuning={{name: lora, start: {tmp_path / 'lora'}}}"):
        assert main(["--check", *typed, tuning]) == 0
        assert f"{count:,} parameters, lora (" in capsys.readouterr().out
    assert main(["--check", *typed]) == 0
    assert f"{count:,}" not in capsys.readouterr().out


def test_a_run_on_a_base_of_few_bits_saves_the_adapter_of_a_plain_one(yaml, tmp_path, capsys):
    memory, saved = {}, {}
    anchored = [yaml, LORA, "anchor={strength: 0.1}", "backbone.gradient_checkpointing=true"]
    for name, more in {"plain": [], "few": ["backbone.quantization=int8"]}.items():
        typed = [*anchored, *more, f"run.folder={tmp_path / name}"]
        parts = container(*typed)
        sketch = tuned_sketch(parts.settings().backbone, parts.tuning())
        memory[name] = division_of(parts.settings(), sketch, parts.optimizer())[1].weights
        assert main(typed) == 0
        saved[name] = load_file(tmp_path / name / FINAL)
        assert "load_lora_weights" in capsys.readouterr().out
    assert memory["few"] < memory["plain"] / 2
    sizes = [{key: each.shape for key, each in found.items()} for found in saved.values()]
    assert sizes[0] == sizes[1]
    # What it learns is nearly the same, and not quite.
    change = {n: (each - saved["plain"][n]).abs().max() for n, each in saved["few"].items()}
    assert 0 < max(change.values()) < 0.1
    # Another base.
    assert main([*anchored, f"run.folder={tmp_path / 'few'}", "training.steps=3", "--resume"]) == 2
    assert "backbone.quantization" in capsys.readouterr().err


def test_all_that_a_base_of_few_bits_forbids_is_said_before_it_is_loaded(yaml, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    typed = [yaml, "backbone.quantization=nf4", "distributed.shard=2", "--check"]
    assert main(typed) == 2
    said = capsys.readouterr().err
    assert "3 problems" in said
    assert "tuning: full cannot train weights that are frozen in nf4" in said
    assert "distributed.shard: is 2, and a backbone in nf4 cannot be divided" in said
    assert 'pip install "flowbp-align[quantization]"' in said


def test_without_packages_all_that_is_missing_is_said_all_the_same(yaml, capsys, monkeypatch):
    for name in ("bitsandbytes", "peft"):
        monkeypatch.setitem(sys.modules, name, None)
    typed = ["backbone.quantization=nf4", LORA, "backbone.source=no-such/model"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main([yaml, *typed, "--check"]) == 2
    said = capsys.readouterr().err
    assert 'pip install "flowbp-align[quantization]"' in said
    assert 'pip install "flowbp-align[lora]"' in said
    assert "backbone.source: 'no-such/model'" in said


def rows(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{**json.loads(line), "seconds": None} for line in lines]


@pytest.mark.parametrize("start", [False, True], ids=["fresh", "start"])
def test_a_resumed_run_equals_a_whole_one(yaml, tmp_path, start):
    tuning = ["tuning={name: lora, rank: 2, dropout: 0.3}", "training.averaging={decay: 0.5}"]
    if start:
        container(yaml, LORA).tuned().save(tmp_path / "lora")
        tuning[0] = f"tuning={{name: lora, start: {tmp_path / 'lora'}, dropout: 0.3}}"
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert main([yaml, *tuning]) == 0
    assert main([yaml, *tuning, "training.steps=4", "--resume"]) == 0
    assert main([yaml, *tuning, "training.steps=4", f"run.folder={whole}"]) == 0
    one, two = load_file(run / FINAL), load_file(whole / FINAL)
    assert rows(run) == rows(whole) and len(rows(run)) == 4
    assert all(torch.equal(one[key], two[key]) for key in one | two)
    assert main([yaml, "tuning={name: lora, rank: 3}", "training.steps=9", "--resume"]) == 2


def test_the_seed_decides_the_first_adapter(yaml):
    first, again, other = (
        container(yaml, LORA, f"run.seed={seed}").tuned().trainable() for seed in (0, 0, 1)
    )
    down = [each for each in first if ".lora_A." in each]
    assert all(torch.equal(first[each], again[each]) for each in down)
    assert not any(torch.equal(first[each], other[each]) for each in down)


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ("{name: lora, rank: 0}", "tuning.rank: must be an integer >= 1, got 0"),
        ("{name: lora, start: /no/lora}", "tuning: must be a folder or file|there is no /no/lora"),
        ("{name: lora, targets: [to_qq]}", "tuning.targets: must name linear layers"),
        ("{name: lorra}", "tuning.name: no tuning is called 'lorra'. Did you mean `lora`?"),
        ("{name: lora, ranks: 3}", "tuning.ranks: is an unknown key. Did you mean `rank`?"),
    ],
)
def test_mistakes_are_told_with_their_key(yaml, capsys, tuning, message):
    for option in (["--check"], []):
        assert main([yaml, f"tuning={tuning}", *option]) == 2
        told = capsys.readouterr().err
        assert any(each in told for each in message.split("|")) and "Traceback" not in told


OTHERS = """
import attrs

@attrs.frozen
class OnlyTheEnd:
    layer: str = "proj_out"

    def __call__(self, backbone, *, generator):
        for name, parameter in backbone.module.named_parameters():
            parameter.requires_grad_(name.startswith(self.layer))
        return backbone
"""


def test_a_tuning_of_someone_else_is_named_by_its_path(yaml, tmp_path, capsys, monkeypatch):
    (tmp_path / "others.py").write_text(OTHERS)
    monkeypatch.syspath_prepend(tmp_path)
    tuning = "tuning={name: 'others:OnlyTheEnd', layer: proj_out}"
    assert main(["--check", yaml, tuning]) == 0
    assert "272 parameters, others:OnlyTheEnd (layer proj_out)" in capsys.readouterr().out
    assert list(container(yaml, tuning).model().trainable()) == ["proj_out.weight", "proj_out.bias"]


def replace_weights(file):
    """One weight of a base's transformer becomes another, as a new version of it might have."""
    tensors = load_file(file)
    name = next(each for each in tensors if each.endswith("to_q.weight"))
    save_file(tensors | {name: tensors[name] + 0.001}, file, {"format": "pt"})


@pytest.mark.parametrize("tuning", [LORA, "tuning={name: full}"])
def test_a_run_does_not_go_on_upon_another_base(typed, tmp_path, capsys, tuning):
    assert main([*typed, tuning]) == 0
    weights = next((tmp_path / "model" / "transformer").glob("*.safetensors"))
    kept, again = weights.read_bytes(), [*typed, tuning, "training.steps=3", "--resume"]
    replace_weights(weights)
    assert main(again) == 2
    told = capsys.readouterr().err
    assert "backbone.source" in told and f"transformer/{weights.name} is not what" in told
    assert "Traceback" not in told
    weights.write_bytes(kept)
    (tmp_path / "model" / "README.md").write_text("A note is no part of a model.")
    assert main(again) == 0

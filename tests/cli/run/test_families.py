"""The command with the model families that are not the embedded one."""

from __future__ import annotations

import diffusers
import pytest
import torch

from flowbp.run import main

from ...adapters.families import FAMILIES
from ...adapters.tiny_flux import flux2_pipeline

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

BACKBONES = {
    "flux1 dev": ("flux1", "text_length: 16, embedded_guidance: 4.0", "FluxPipeline"),
    "flux1 schnell": ("flux1", "text_length: 16", "FluxPipeline"),
    "flux2 klein-base": ("flux2", "text_length: 64", "Flux2KleinPipeline"),
    "z_image": ("z_image", "text_length: 64", "ZImagePipeline"),
    "qwen_image": ("qwen_image", "text_length: 64", "QwenImagePipeline"),
}


def saved(name, folder):
    FAMILIES[name].pipeline().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_run_trains_a_family_that_plain_diffusers_loads(name, guidance, yaml, tmp_path, capsys):
    source = saved(name, tmp_path / "model")
    backbone, options, kind = BACKBONES[name]
    typed = [
        yaml,
        f"backbone={{name: {backbone}, source: {source}, {options}}}",
        f"sampling.guidance={guidance}",
    ]
    assert main(["--check", *typed]) == 0
    count = sum(p.numel() for p in FAMILIES[name].pipeline().transformer.parameters())
    assert f"{count:,}" in capsys.readouterr().out
    assert main(typed) == 0
    final = getattr(diffusers, kind).from_pretrained(tmp_path / "run" / "checkpoints" / "final")
    before, after = (
        torch.cat([p.flatten() for p in each.transformer.parameters()])
        for each in (FAMILIES[name].pipeline(), final)
    )
    assert 1e-4 < (before - after).abs().max() < 0.1


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("{{name: flux2, source: {}}}", "must hold a Flux2KleinPipeline, got FluxPipeline"),
        ("{{name: flux1, source: {}/nothing}}", "must be a folder or a hub id"),
        ("{{name: flux1, source: {}, text_lenght: 3}}", "text_length"),
    ],
)
def test_a_mistaken_source_is_found_before_anything_is_loaded(
    typed, message, yaml, tmp_path, capsys
):
    source = saved("flux1 dev", tmp_path / "model")
    assert main(["--check", yaml, f"backbone={typed.format(source)}"]) != 0
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told


@pytest.mark.parametrize("guidance, told", [(1.0, 0), (3.0, 1)])
def test_guidance_of_a_distilled_model_is_warned_of(guidance, told, yaml, tmp_path, recwarn):
    flux2_pipeline(is_distilled=True).save_pretrained(tmp_path / "model")
    backbone = f"backbone={{name: flux2, source: {tmp_path / 'model'}, text_length: 64}}"
    evaluated = "evaluation={prompts: {name: shapes, count: 2}, guidance: 2}"
    assert main([yaml, backbone, f"sampling.guidance={guidance}", evaluated]) == 0
    messages = [str(each.message) for each in recwarn]
    found = [each for each in messages if each.startswith("sampling.guidance is 3, and the")]
    assert len(found) == told and all("write 1, or name a base" in each for each in found)
    assert any(each.startswith("evaluation.guidance is 2, and the") for each in messages)


@pytest.mark.parametrize("check", [True, False])
def test_a_hub_out_of_reach_is_asked_once(check, yaml, monkeypatch, capsys):
    asked = []

    def download(hub_id, name):
        asked.append((hub_id, name))
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    typed = [yaml, "backbone={name: flux1, source: owner/model}", "sampling.height=63"]
    assert main(["--check", *typed] if check else typed) == 2
    assert asked == [("owner/model", "transformer/config.json")]
    told = capsys.readouterr().err
    assert told.count("'owner/model' is no local folder") == 1


@pytest.mark.parametrize(
    "name, options, scales, warned",
    [
        ("flux1 dev", "", "sampling.guidance=3", ["sampling.guidance is 3", "guidance of 3.5"]),
        ("flux1 dev", ", embedded_guidance: 4", "sampling.guidance=2", ["guidance of 4"]),
        ("flux1 dev", ", embedded_guidance: 1", "sampling.guidance=2", []),
        ("flux1 dev", ", embedded_guidance: 4", "sampling.guidance=1", []),
        ("flux1 schnell", "", "sampling.guidance=3", ["sampling.guidance is 3", "as schnell"]),
        (
            "flux1 dev",
            "",
            "evaluation={prompts: {name: shapes, count: 2}, guidance: 2}",
            ["evaluation.guidance is 2", "backbone.embedded_guidance=1"],
        ),
    ],
)
def test_guidance_on_top_of_guidance_is_warned_of_by_the_check(
    name, options, scales, warned, yaml, tmp_path, recwarn
):
    source = saved(name, tmp_path / "model")
    backbone = f"backbone={{name: flux1, source: {source}, text_length: 16{options}}}"
    assert main(["--check", yaml, backbone, scales]) == 0
    found = [str(each.message) for each in recwarn if "guidance is" in str(each.message)]
    assert len(found) == bool(warned) and all(part in found[0] for part in warned)


def test_an_evaluation_warns_of_guidance_too(tmp_path, recwarn):
    from flowbp.evaluate import main as evaluate

    source = saved("flux1 dev", tmp_path / "model")
    typed = [
        f"evaluation={{folder: {tmp_path / 'out'}, device: cpu}}",
        f"backbone={{name: flux1, source: {source}, text_length: 16}}",
        "prompts={name: shapes, count: 2}",
        "sampling={steps: 2, height: 16, width: 16, guidance: 2}",
    ]
    assert evaluate([*typed, "--check"]) == 0
    assert len([each for each in recwarn if "sampling.guidance is 2" in str(each.message)]) == 1

"""The presets: each backbone with each method, in any order, holds what was published."""

from __future__ import annotations

import itertools
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from flowbp.adapters import (
    DtypePolicy,
    EvenGrid,
    Flux1Backbone,
    Flux2Backbone,
    Flux2Text,
    ModelGrid,
    SD3Backbone,
)
from flowbp.config import ConfigurationError, plain, read_arguments
from flowbp.core import Bridge, DRaFT, Hinge, Linear
from flowbp.rewards import HPSv2
from flowbp.run import main
from flowbp.settings import load, preset_or_file, presets
from flowbp.training import AdamW, Averaging, Batching, Constant, TrainingSampling

from ..presets import BACKBONES, COMBINATIONS, GPUS, METHODS, OURS, PUBLISHED, ROOT, SAMPLES, named

EXAMPLE = "my.yaml"


@pytest.fixture(autouse=True)
def beside_ones_own_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path(EXAMPLE).write_text(
        "run: {folder: mine}\nreward: pickscore\nloss: linear\nprompts: shapes\n"
    )


def settings(*names, last=()):
    return load([*named(*names), EXAMPLE, *last]).settings


@cache
def tree(*names):
    return values(named(*names))


def values(files):
    return plain(read_arguments(files, find=preset_or_file).tree)


@pytest.mark.parametrize("backbone, method", COMBINATIONS)
def test_every_combination_holds_the_published_method(backbone, method):
    wanted = PUBLISHED[method][BACKBONES.index(backbone)]
    guidance = {"sd35_medium": 3.5, "flux1_dev": 1.0, "flux2_klein": 4.0}[backbone]
    for names in itertools.permutations((backbone, method)):
        found = settings(*names)
        assert found.method == wanted
        exception = (backbone, method) == ("sd35_medium", "leap_align")
        assert found.sampling == TrainingSampling(
            steps=25,
            guidance=guidance,
            height=512,
            width=512,
            detach_negative=not exception,
            grid=EvenGrid(shift=3.0) if backbone == "sd35_medium" else ModelGrid(),
        )
        # What the method draws fits the published grid, whatever the draw.
        for seed in range(20):
            wanted.draw(torch.linspace(1, 0, 26), torch.Generator().manual_seed(seed))


def test_lagrange_on_sd35_keeps_the_joint_among_the_last_steps():
    pair = settings("sd35_medium", "lagrange").method.pair
    generator = torch.Generator().manual_seed(0)
    assert min(pair.draw(range(25), generator)[1] for _ in range(500)) == 25 - 10


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_a_backbone_preset_holds_besides(backbone):
    found = settings(backbone, "refl")
    assert found.optimizer == AdamW(1e-5, betas=(0.9, 0.999), weight_decay=1e-4)
    assert found.training.steps == 300 and found.training.clip == 1.0
    assert found.training.averaging == Averaging(0.995)
    assert found.batching.pull == found.batching.decode == "auto"
    assert found.schedule == Constant() and found.training.averaging.warmup is False


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_published_hinge_is_of_the_reward_that_it_was_published_for(backbone):
    """Its target is below every PickScore: nothing would be trained."""
    typed = ["run.folder=new", "prompts.name=shapes"]
    for files in itertools.permutations([*named("refl", backbone), "presets/hpsv2.yaml"]):
        found = load([*files, *typed]).settings
        assert found.loss == Hinge(0.55) and found.reward.target == HPSv2
    assert load([*files, *typed, "loss={name: linear}"]).settings.loss == Linear()
    with pytest.raises(ConfigurationError) as caught:
        load([*named("refl", backbone), *typed, "reward.name=pickscore"])
    (problem,) = caught.value.problems
    assert problem.path == "loss" and "is missing" in problem.message


def test_a_missing_reward_is_reported_as_such():
    with pytest.raises(ConfigurationError) as caught:
        load([*named("sd35_medium", "bridge"), "run.folder=new", "prompts.name=shapes"])
    assert {problem.path for problem in caught.value.problems} == {"reward", "loss"}
    assert all("is missing" in problem.message for problem in caught.value.problems)


def test_the_models_that_the_presets_name():
    sd3, flux1, flux2 = (settings(name, "refl").backbone for name in BACKBONES)
    low = DtypePolicy(torch.bfloat16, torch.bfloat16)
    assert (sd3.target, flux1.target, flux2.target) == (
        SD3Backbone.from_pretrained,
        Flux1Backbone.from_pretrained,
        Flux2Backbone.from_pretrained,
    )
    assert sd3.arguments == {
        "source": "stabilityai/stable-diffusion-3.5-medium",
        "text_length": 512,
        "policy": DtypePolicy(torch.float32, torch.bfloat16),
    }
    shared = {"text_length": 512, "policy": low}
    assert flux1.arguments == {
        "source": "black-forest-labs/FLUX.1-dev",
        "embedded_guidance": 4.0,
        **shared,
    }
    assert flux2.arguments == {"source": "black-forest-labs/FLUX.2-klein-base-9B", **shared}
    assert [tree(name, "refl")["tuning"] for name in BACKBONES] == [
        {"name": "full"},
        {"name": "lora", "rank": 64, "alpha": 128},
        {"name": "lora", "rank": 64, "alpha": 128},
    ]


def test_the_exact_method_has_a_preset_too():
    assert settings("flux1_dev", "draft").method == DRaFT(last=1)
    assert settings("flux1_dev", "draft", last=["method.last=3"]).method == DRaFT(last=3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_another_method_named_later_leaves_nothing_of_the_first(backbone):
    for first, second in itertools.permutations((*METHODS, "draft"), 2):
        alone = tree(backbone, second)
        assert tree(backbone, first, second) == tree(first, second, backbone) == alone
        assert tree(first, backbone, second) == alone


def test_another_backbone_named_later_leaves_nothing_of_the_first():
    for first, second in itertools.permutations(BACKBONES, 2):
        for method in METHODS:
            together = [*named(first, method), *named(second, method)]
            assert values(together) == tree(second, method)


def test_ones_own_file_and_typed_keys_win(tmp_path):
    mine = tmp_path / "over.yaml"
    mine.write_text("method: {late_bias: 1}\nsampling: {steps: 10}")
    typed = [*named("sd35_medium", "bridge"), EXAMPLE, str(mine), "method.alpha=0.3"]
    found = load(typed).settings
    assert found.method == Bridge(active=5, late_bias=1.0, rescale=0.0, alpha=0.3)
    assert found.sampling.steps == 10 and found.sampling.guidance == 3.5


def test_a_value_of_a_preset_is_reported_with_its_line():
    with pytest.raises(ConfigurationError) as caught:
        settings("sd35_medium", "bridge", last=["sampling.steps=4"])
    (problem,) = caught.value.problems
    assert problem.path == "method.active"
    assert problem.origin.endswith("presets/sd35_medium/bridge.yaml:3")


def test_presets_are_found_from_anywhere_and_local_files_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, other = named("sd35_medium", "bridge")[1], "presets/hpsv2.yaml"
    shipped = preset_or_file(name)
    assert shipped == presets()[name] and shipped.is_file()
    local = tmp_path / name
    local.parent.mkdir(parents=True)
    local.write_text("method: {name: bridge}")
    assert preset_or_file(name).resolve() == local
    assert preset_or_file(other) == presets()[other]


@pytest.mark.parametrize("wrong", ["sd35_medium/brigde", "bridge"])
def test_a_wrong_name_lists_the_presets(wrong, capsys):
    assert main([f"presets/{wrong}.yaml", EXAMPLE]) == 2
    told = capsys.readouterr().err
    assert f"presets/{wrong}.yaml: is no file from here, and no preset" in told
    assert "Did you mean `presets/" in told and "/bridge.yaml`" in told
    assert all(f"`{name}`" in told for name in presets())


def test_the_command_lists_the_presets(capsys):
    assert main(["--presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [*presets()]
    wanted = [name for each in BACKBONES for name in named(each, *METHODS, "draft")]
    wanted += [f"presets/{each}.yaml" for each in OURS]
    assert sorted(presets()) == sorted([*wanted, "presets/hpsv2.yaml"])
    assert all(len(line.split()) > 4 and "#" not in line for line in lines)
    for others in (["a.yaml"], ["--check"]):
        with pytest.raises(SystemExit) as left:
            main(["--presets", *others])
        assert left.value.code == 2


def test_a_hub_out_of_reach_is_told_with_the_line_of_the_preset(monkeypatch, capsys, tmp_path):
    import huggingface_hub

    def download(*_):
        raise huggingface_hub.errors.LocalEntryNotFoundError("out of reach")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    typed = [*named("sd35_medium", "bridge"), EXAMPLE, f"run.folder={tmp_path / 'run'}"]
    assert main([*typed, "--check"]) == 2
    told = capsys.readouterr().err
    assert "presets/sd35_medium.yaml:9: backbone.source: 'stabilityai/" in told
    assert "could not be reached; run `hf download stabilityai/" in told and "Traceback" not in told


@pytest.mark.parametrize("backbone, method", COMBINATIONS)
def test_portions_make_the_published_batch(backbone, method):
    samples, portions = SAMPLES[backbone].get(method, SAMPLES[backbone][None])
    for names in itertools.permutations((backbone, method)):
        assert settings(*names).batching == Batching(samples, global_=samples * portions * GPUS)
    published = {"sd35_medium": 64, "flux1_dev": 32, "flux2_klein": 32}
    if method == "refl":
        assert settings(backbone, method).batching.total() == GPUS * 8 * published[backbone] // 64


def test_the_grid_of_sd35_medium_gives_the_last_step_its_published_weight():
    found = settings("sd35_medium", "draft_lv")
    sigmas = found.sampling.grid.known(found.sampling.steps)
    surrogate = found.method.draw(sigmas, torch.Generator())
    assert surrogate.segments[-1].weights[24] == pytest.approx(-1 / 9, abs=1e-6)


def test_what_is_ours_is_said_in_the_preset_and_in_the_docs():
    """Each line that departs from what was published, or adds to it, follows such a comment."""
    ours = {
        "sd35_medium": ("batching:", "run:", "samples:"),
        "flux1_dev": ("  policy:", "tuning:", "batching:", "run:", "samples:"),
        "flux2_klein": ("  policy:", "tuning:", "batching:", "run:", "samples:"),
    }
    for backbone, keys in ours.items():
        lines = presets()[f"presets/{backbone}.yaml"].read_text().splitlines()
        for key in keys:
            (at,) = (number for number, line in enumerate(lines) if line.startswith(key))
            first = at
            while lines[first - 1].lstrip().startswith("#"):
                first -= 1
            assert "ours" in " ".join(lines[first : at + 1]).lower(), (backbone, key)
    assert "Ours: the published" in presets()["presets/flux2_klein/lagrange.yaml"].read_text()
    table = (ROOT / "docs/presets.md").read_text().split("which is ours:")[1].split("\n## ")[0]
    for said in (
        "LoRA",
        "rank 64",
        "bfloat16",
        "batching.global",
        "guidance scale",
        "run.compile",
    ):
        assert said in table


def test_the_tables_of_the_docs_hold_what_the_presets_do():
    """The numbers of every method, as the page writes them."""
    page = (ROOT / "docs/presets.md").read_text()
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| ")}
    cells = {name: [cell.strip() for cell in line.split("|")[3:6]] for name, line in rows.items()}
    for index, backbone in enumerate(BACKBONES):
        sparse, bridge = (settings(backbone, name).method for name in ("sparse", "bridge"))
        numbers = [float(each) for each in re.findall(r"[\d.]+", cells["Sparse"][index])]
        assert numbers == [sparse.active, sparse.late_bias, sparse.rescale]
        numbers = [float(each) for each in re.findall(r"[\d.]+", cells["Bridge"][index])]
        assert numbers == [bridge.active, bridge.late_bias, bridge.rescale, bridge.alpha]
        lagrange = settings(backbone, "lagrange").method
        numbers = [float(each) for each in re.findall(r"[\d.]+", cells["Lagrange"][index])]
        assert numbers[:2] == [lagrange.tau, lagrange.rescale]


def test_the_layers_of_the_text_encoder_are_the_published_ones():
    assert Flux2Text.__attrs_attrs__.layers.default == (9, 18, 27)


def test_the_numbers_for_another_model_are_refused(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    mixed = ["presets/flux1_dev.yaml", "presets/sd35_medium/bridge.yaml", "run.folder=out"]
    with pytest.raises(ConfigurationError) as caught:
        load([*mixed, "training.stepz=3"])
    said = str(caught.value)
    assert "presets/sd35_medium/bridge.yaml: " in said
    assert "take presets/flux1_dev/bridge.yaml" in said and "training.stepz" in said


@pytest.mark.parametrize("model", OURS)
def test_a_model_without_published_settings_says_so_and_has_its_own_method(model):
    page, preset = (ROOT / "docs/presets.md").read_text(), presets()[f"presets/{model}.yaml"]
    assert "# All of it is ours: nothing was published for this model" in preset.read_text()
    assert f"`{model}`" in page.split("## Models without published settings")[1]
    found = load([f"presets/{model}.yaml", EXAMPLE]).settings
    for seed in range(20):
        sigmas = torch.linspace(1, 0, found.sampling.steps + 1)
        found.method.draw(sigmas, torch.Generator().manual_seed(seed))
    with pytest.raises(ConfigurationError, match=rf"the model is {model}; write method={{name: b"):
        load([f"presets/{model}.yaml", "presets/flux2_klein/bridge.yaml", EXAMPLE])


def test_a_student_of_few_steps_keeps_to_them(capsys):
    typed = ["presets/flux1_schnell.yaml", EXAMPLE]
    found = load(typed).settings
    assert found.sampling.steps == 4 and found.sampling.guidance == 1 and found.method.last == 4
    with pytest.raises(ConfigurationError, match=r"method.active: must be in \[2, 4\], got 5"):
        load([*typed, "method={name: bridge}"])

"""A metric that could not be loaded is told before any picture is made."""

from __future__ import annotations

import json
import shutil

import pytest

from flowbp.adapters import EvenGrid, SD3Backbone
from flowbp.cli.evaluate.preflight import load
from flowbp.config import ConfigurationError
from flowbp.evaluate import main
from flowbp.rewards import PickScore

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


@pytest.fixture
def cut_off(models, tmp_path):
    """A reward's folder whose weights were cut off."""
    folder = shutil.copytree(models / "reward", tmp_path / "reward")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return folder


@pytest.mark.parametrize("check", [[], ["--check"]])
def test_every_bad_file_is_told_at_once_with_its_line(
    evaluation_yaml, cut_off, tmp_path, capsys, check
):
    with open(evaluation_yaml, "a") as stream:
        stream.write("# a comment\nmodels: {base: {}}\n")
    typed = [
        f"metrics.broken={{name: clip, source: {cut_off}}}",
        f"metrics.nested={{name: diversity, embedding: {{name: clip, source: {cut_off}}}}}",
    ]
    assert main([evaluation_yaml, *typed, *check]) == 2
    told = capsys.readouterr().err
    assert told.startswith("2 problems in the configuration:")
    for place in ("metrics.broken: ", "metrics.nested.embedding: "):
        assert f"command line: {place}{cut_off}/model.safetensors is damaged" in told
    assert "copy or download it again" in told
    assert not (tmp_path / "out").exists()


def test_a_metric_without_a_key_hides_no_other_s_files(evaluation_yaml, cut_off, capsys):
    typed = [f"metrics.broken={{name: clip, source: {cut_off}}}", "metrics.asked=unified_reward"]
    assert main([evaluation_yaml, *typed, "--check"]) == 2
    told = capsys.readouterr().err
    assert f"metrics.broken: {cut_off}/model.safetensors is damaged" in told
    assert "metrics.asked.question: must be what UnifiedReward is asked" in told


def test_prompts_that_cannot_be_read_hide_no_metric_s_files(
    evaluation_yaml, cut_off, tmp_path, capsys
):
    typed = [
        f"metrics.broken={{name: clip, source: {cut_off}}}",
        f"prompts={{name: text, path: {tmp_path / 'none.txt'}}}",
    ]
    assert main([evaluation_yaml, *typed, "--check"]) == 2
    told = capsys.readouterr().err
    assert f"metrics.broken: {cut_off}/model.safetensors is damaged" in told
    assert "none.txt" in told


def test_where_failures_are_reported_so_is_this(evaluation_yaml, cut_off, tmp_path, capsys):
    typed = [
        f"metrics.broken={{name: clip, source: {cut_off}}}",
        "evaluation.on_failure=report",
        "prompts.count=1",
    ]
    assert main([evaluation_yaml, *typed, "--check"]) == 0
    assert "is damaged" in capsys.readouterr().err
    assert main([evaluation_yaml, *typed]) == 3
    assert "is damaged" in capsys.readouterr().err.splitlines()[0]
    failures = json.loads((tmp_path / "out" / "scores.json").read_text())["failures"]
    assert [failure["metric"] for failure in failures] == ["broken"]


@pytest.mark.parametrize("check", [[], ["--check"]])
@pytest.mark.parametrize("failure", ["stop", "report"])
def test_a_size_is_refused_before_the_model_is_loaded(
    evaluation_yaml, models, tmp_path, capsys, check, failure
):
    base = shutil.copytree(models / "base", tmp_path / "base")
    for weights in base.rglob("*.safetensors"):
        weights.unlink()
    typed = [f"backbone.source={base}", "sampling.height=15", f"evaluation.on_failure={failure}"]
    assert main([evaluation_yaml, *typed, *check]) == 2
    told = capsys.readouterr().err
    wanted = "sampling.height: must be a positive multiple of 4, got 15; the nearest are 12 and 16"
    assert f"command line: {wanted}" in told
    assert not (tmp_path / "out").exists()


MINE = """
evaluation: {folder: out}
prompts: shapes
metrics: {taste: pickscore}
sampling: {guidance: 2}
"""


def test_of_a_preset_an_evaluation_takes_the_model_and_how_it_samples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    found = load(["presets/sd35_medium.yaml", "mine.yaml"]).settings
    assert found.backbone.target == SD3Backbone.from_pretrained and found.evaluation.compile
    assert (found.sampling.steps, found.sampling.guidance) == (25, 2)
    assert found.sampling.grid == EvenGrid(shift=3.0)
    assert found.metrics["taste"].target == PickScore
    (tmp_path / "over.yaml").write_text(f"files: presets/sd35_medium.yaml\n{MINE}")
    assert load(["over.yaml"]).settings == found


def test_a_preset_of_which_nothing_would_be_read_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text(MINE)
    names = ["presets/sd35_medium.yaml", "presets/sd35_medium/bridge.yaml", "presets/hpsv2.yaml"]
    with pytest.raises(ConfigurationError) as caught:
        load([*names, "mine.yaml", "presets/sd35.yaml"])
    bridge, hpsv2, unknown = map(str, caught.value.problems)
    for problem, name in ((bridge, names[1]), (hpsv2, names[2])):
        assert f"{name}: holds nothing that an evaluation reads" in problem
    assert "presets/sd35.yaml: is no file from here, and no preset" in unknown

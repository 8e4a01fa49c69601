"""A metric that could not be loaded is told before any picture is made."""

from __future__ import annotations

import json
import shutil

import pytest

from flowbp.evaluate import main

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

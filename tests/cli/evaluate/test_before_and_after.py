"""What a user is told before anything is made, and of what was not made."""

from __future__ import annotations

import json
import sys

import pytest

from flowbp.evaluate import main

from .test_models_as_metrics import TASKS

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

HERE = "tests.cli.evaluate.metrics_of_ours"


def test_the_folder_of_a_run_is_no_checkpoint(evaluation_yaml, checkpoints, capsys):
    final = checkpoints["lora"]
    run = final.parents[1]
    assert main([evaluation_yaml, f"models.b.checkpoint={run}", "--check"]) == 2
    told = capsys.readouterr().err
    assert f"is {str(run)!r}, the folder of a run; name one of its checkpoints" in told
    assert f"Did you mean {str(final)!r}?" in told


def test_a_lora_needs_peft(evaluation_yaml, checkpoints, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert main([evaluation_yaml, f"models.b.checkpoint={checkpoints['lora']}", "--check"]) == 2
    told = capsys.readouterr().err
    assert "models.b.checkpoint: is " in told and "`peft` is needed here" in told


def test_metrics_that_could_judge_nothing(evaluation_yaml, models, tmp_path, capsys):
    metadata = tmp_path / "evaluation_metadata.jsonl"
    metadata.write_text("\n".join(map(json.dumps, TASKS)))
    clip = f"{{name: clip, source: {models}/reward}}"
    typed = [
        f"metrics.spread={{name: diversity, embedding: {clip}}}",
        "evaluation.seeds=[0]",
        f"metrics.objects={{name: geneval, metadata: {metadata}, clip: {models}/reward}}",
        "--check",
    ]
    assert main([evaluation_yaml, *typed]) == 2
    told = capsys.readouterr().err
    assert "metrics.spread: needs several pictures of a prompt, and there is one of each" in told
    assert f"metrics.objects: judges prompts of {metadata}, and of the 6 here none" in told
    assert f"take prompts={{name: geneval, metadata: {metadata}}}" in told


def test_an_evaluation_of_one_model_says_that_it_has_no_report(evaluation_yaml, tmp_path, capsys):
    assert main([evaluation_yaml, "prompts.count=1"]) == 0
    told = capsys.readouterr().out
    assert "no report.html, because `base` is the only model; add another to compare" in told
    assert not (tmp_path / "out" / "report.html").exists()


def test_null_takes_a_metric_or_a_model_away(evaluation_yaml, tmp_path, capsys):
    with open(evaluation_yaml, "a") as stream:
        stream.write("models: {base: {}, other: {}}\n")
    typed = [f"metrics.light.name={HERE}:brightness"]
    away = ["metrics.likeness=null", "models.other=null", "prompts.count=1"]
    assert main([evaluation_yaml, *typed, *away]) == 0
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert {row["model"] for row in found["rows"]} == {"base"}
    assert all("likeness" not in row["values"] for row in found["rows"])


def test_pictures_that_are_not_used_any_more_are_told(evaluation_yaml, capsys):
    with open(evaluation_yaml, "a") as stream:
        stream.write("models: {base: {}, other: {}}\n")
    typed = [evaluation_yaml]
    assert main(typed) == 0
    capsys.readouterr()
    fewer = ["evaluation.seeds=[3]", "models.other=null", "--resume"]
    assert main([*typed, *fewer]) == 0
    told = capsys.readouterr().out
    assert "18 pictures of seeds 4 and models other stay in " in told
    assert "and are in no score" in told


def test_the_time_left_is_told_of_whole_batches(evaluation_yaml, monkeypatch):
    from contextlib import contextmanager

    calls = []

    @contextmanager
    def told(what, total, *, unit):
        yield lambda done, of: calls.append((what, done, of))

    monkeypatch.setattr("flowbp.cli.evaluate.generation.report_progress", told)
    monkeypatch.setattr("flowbp.cli.evaluate.measurement.report_progress", told)
    assert main([evaluation_yaml]) == 0
    assert [done for what, done, _ in calls if what == "generating"] == [4, 6, 10, 12]
    assert [done for what, done, _ in calls if what != "generating"] == [4, 6, 10, 12]


def test_what_metrics_read_is_listed_with_whether_it_is_here(
    evaluation_yaml, models, capsys, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert main([evaluation_yaml, "metrics.hps.name=hpsv2", "--check"]) == 2
    told = capsys.readouterr()
    assert f"likeness reads {models}/reward (here, " in told.out
    weights = "xswu/HPSv2/resolve/main/HPS_v2.1_compressed.pt (not here, 1.97 GB)"
    assert f"hps reads https://huggingface.co/{weights}" in told.out
    assert "hps reads https://huggingface.co/openai/clip-vit-large-patch14 (not here)" in told.out
    assert "metrics.hps" in told.err and "HF_HUB_OFFLINE is set" in told.err
    assert "checked" not in told.out

"""`python -m flowbp.evaluate` from end to end: models, noise, metrics, what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.preflight import load
from flowbp.evaluate import main
from flowbp.evaluation import generate, read_png, scores_from_json

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

HERE = "tests.cli.evaluate.metrics_of_ours"


def pictures(folder: Path, label: str) -> torch.Tensor:
    paths = sorted((folder / "images" / label).iterdir())
    return torch.stack([read_png(path.read_bytes())[0] for path in paths])


def scores(folder: Path):
    return scores_from_json((folder / "scores.json").read_text())


def test_models_are_what_they_are_called(evaluation_yaml, checkpoints, tmp_path):
    out, full, lora = tmp_path / "out", checkpoints["full"], checkpoints["lora"]
    typed = {
        "base": "{}",
        "full": f"{{checkpoint: {full}}}",
        "last": f"{{checkpoint: {full}, averaged: false}}",
        "lora": f"{{checkpoint: {lora}}}",
        "lora-last": f"{{checkpoint: {lora}, averaged: false}}",
        "none": f"{{checkpoint: {lora}, scale: 0.0}}",
        "half": f"{{checkpoint: {lora}, scale: 0.5}}",
        "again": "{}",
    }
    assert main([evaluation_yaml, *(f"models.{k}={v}" for k, v in typed.items())]) == 0
    found = {label: pictures(out, label) for label in typed}
    assert torch.equal(found["base"], found["again"])
    assert torch.equal(found["base"], found["none"])
    different = ["base", "full", "last", "lora", "lora-last", "half"]
    for i, one in enumerate(different):
        for other in different[:i]:
            assert not torch.equal(found[one], found[other]), (one, other)
    # The averaged weights are those that the checkpoint's own folder loads with.
    settings = load([evaluation_yaml, f"backbone.source={full}", f"evaluation.folder={out}-b"])
    container = EvaluationContainer(settings=settings.settings)
    texts = [prompt.text for prompt in container.prompts()]
    images = generate(container.model(), texts, 4, container.settings().sampling)
    theirs = found["full"].view(6, 2, 3, 16, 16)[:, 1]
    assert (images - theirs).abs().max() <= 0.5 / 255 + 1e-6


def test_what_is_written(evaluation_yaml, checkpoints, tmp_path, capsys):
    out = tmp_path / "out"
    typed = ["models.base={}", f"models.b.checkpoint={checkpoints['full']}"]
    assert main([evaluation_yaml, *typed]) == 0
    told = capsys.readouterr()
    assert "the values that each metric returned, for --resume" in told.out
    assert "likeness  base " in told.out and "12 pictures of each model" in told.out
    assert "generating: 24 pictures" in told.err
    found = scores(out)
    assert found.models == ("base", "b") and found.columns == ("likeness",)
    assert [(r.number, r.seed) for r in found.rows[:7]] == [*((i, 3) for i in range(6)), (0, 4)]
    for row in found.rows:
        with Image.open(out / "images" / row.model / f"{row.number:05}-{row.seed}.png") as picture:
            picture.load()
            assert picture.text["prompt"] == row.prompt and picture.text["seed"] == str(row.seed)
    lines = list(csv.DictReader((out / "scores.csv").read_text().splitlines()))
    assert [float(line["likeness"]) for line in lines] == [r.values["likeness"] for r in found.rows]
    summary = json.loads((out / "scores.json").read_text())["summary"]["b"]["likeness"]
    assert summary["gain"]["low"] <= summary["gain"]["mean"] <= summary["gain"]["high"]
    assert (out / "report.html").read_text().startswith("<!doctype html>")
    # What is kept loads again, as it was.
    again = load([str(out / "configuration.yaml")], resume=True).settings
    assert again == load([evaluation_yaml, *typed], resume=True).settings


def test_metrics_by_name(evaluation_yaml, tmp_path):
    out, scale = tmp_path / "out", "mean: 0, std: 2"
    metrics = {
        "light": f"{{name: '{HERE}:brightness'}}",
        "dark": f"{{name: reward, reward: {{name: '{HERE}:reward'}}}}",
        "far": f"{{name: '{HERE}:Distance'}}",
        "sum": f"{{name: weighted, parts: {{a: {{reward: {{name: '{HERE}:reward'}}, {scale}}}}}}}",
    }
    assert main([evaluation_yaml, *(f"metrics.{k}={v}" for k, v in metrics.items())]) == 0
    found = scores(out)
    assert set(found.columns) == {
        "likeness",
        "light.brightness",
        "light.of short prompts",
        "dark",
        "far.distance",
        "sum",
        "sum.a.raw",
        "sum.a.normalised",
    } | {c for c in found.columns if c.startswith("sum.a.")}
    for row, image in zip(
        sorted(found.rows, key=lambda row: (row.number, row.seed)),
        pictures(out, "base"),
        strict=True,
    ):
        assert row.values["light.brightness"] == pytest.approx(float(image.mean()), abs=1e-6)
        assert row.values["dark"] == pytest.approx(-float(image.mean()), abs=1e-6)
        assert row.values["sum"] == pytest.approx(-float(image.mean()) / 2, abs=1e-6)
        assert row.values["far.distance"] == 0
        assert (row.values["light.of short prompts"] == row.values["light.brightness"]) == (
            len(row.prompt) < 12
        )


@pytest.mark.parametrize("name", ["no_crosses", "infinite", "no_tensor", "Unbuildable"])
def test_a_metric_that_fails_stops_and_says_at_what(evaluation_yaml, tmp_path, capsys, name):
    assert main([evaluation_yaml, f"metrics.mine.name={HERE}:{name}"]) == 1
    told = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("the metric"))
    assert told.startswith("the metric `mine` ") and "evaluation.on_failure=report" in told
    assert {
        "no_crosses": "failed at the picture of 'an image of a circle and a cross', seed 3, of the "
        f"model `base`: the metric `mine` ({HERE}:no_crosses) raised RuntimeError: crosses are too",
        "infinite": "must return finite numbers in `mine.infinite`, got inf",
        "no_tensor": "must return one number per picture as a tensor, or such columns by name, got",
        "Unbuildable": "cannot be built: FileNotFoundError: no weights here",
    }[name] in told
    # What is done is kept, and goes on with the failure reported.
    assert main([evaluation_yaml, f"metrics.mine.name={HERE}:{name}", "--resume"]) == 1
    assert "12 of 12 pictures are there" in capsys.readouterr().out


def test_failures_are_reported_where_that_is_wished(evaluation_yaml, tmp_path, capsys):
    typed = [
        f"metrics.hard.name={HERE}:no_crosses",
        f"metrics.gone.name={HERE}:Unbuildable",
        f"metrics.sets.name={HERE}:BrokenDistance",
        f"metrics.tight.name={HERE}:no_batches",
        "evaluation.on_failure=report",
    ]
    assert main([evaluation_yaml, *typed]) == 3
    told, found = capsys.readouterr().out, scores(tmp_path / "out")
    crosses = [row for row in found.rows if "cross" in row.prompt]
    assert crosses and len(crosses) < len(found.rows)
    assert all(("hard.no_crosses" in row.values) == (row not in crosses) for row in found.rows)
    assert all("tight.no_batches" in row.values for row in found.rows)
    by_metric = {name: [f for f in found.failures if f.metric == name] for name in ("hard", "gone")}
    assert [(f.prompt, f.seed) for f in by_metric["hard"]] == [(r.prompt, r.seed) for r in crosses]
    tight = [f.message for f in found.failures if f.metric == "tight"]
    assert len(tight) == 4 and tight[0].startswith("4 pictures together, the first of")
    assert by_metric["gone"][0].message == "FileNotFoundError: no weights here"
    assert f"FAILED: hard at {len(crosses)} pictures of base, the first of" in told
    assert f"FAILED: sets of base: the metric `sets` ({HERE}:BrokenDistance) raised Runtime" in told


def test_the_default_evaluation(tmp_path, capsys):
    yaml = Path(__file__).parents[3] / "evaluation.yaml"
    assert main([str(yaml), f"evaluation.folder={tmp_path / 'out'}", "embeddings.folder=null"]) == 0
    found = scores(tmp_path / "out")
    assert found.columns == ("likeness", "accuracy") and len(found.rows) == 96
    assert 0.4 < found.mean("base", "accuracy").mean < 0.75


def test_check_writes_nothing(evaluation_yaml, tmp_path, capsys):
    assert main([evaluation_yaml, "--check"]) == 0
    told = capsys.readouterr().out
    assert "6, each from 2 seeds: 3, 4" in told and "embeddings  in memory" in told
    assert main([evaluation_yaml, "evaluation.seeds=[3]", "--check"]) == 0
    assert "6, each from 1 seed: 3" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()

"""GenEval, the judge that answers, diversity and distance in an evaluation, on tiny models."""

from __future__ import annotations

import json
import math

import pytest

from flowbp.evaluate import main
from tests.evaluation.metrics.geneval.tiny import save as save_detector
from tests.evaluation.metrics.test_vision_chat import qwen25

from ...evaluation.metrics.test_vision_chat import save as save_judge

TASKS = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a red circle"},
    {
        "tag": "colors",
        "include": [{"class": "cat", "count": 1, "color": "red"}],
        "prompt": "two squares",
    },
]


def scores(folder):
    found = json.loads((folder / "scores.json").read_text())
    return found["rows"], found["failures"]


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(map(json.dumps, TASKS)))
    return path


def test_they_stand_beside_each_other(
    evaluation_yaml, checkpoints, metadata, models, tmp_path, monkeypatch
):
    monkeypatch.setattr("flowbp.evaluation.metrics.geneval.detector._LONGEST", 96)
    monkeypatch.setattr("flowbp.evaluation.metrics.geneval.detector._SHORTEST", 64)
    save_detector(tmp_path / "detector")
    clip = f"{models}/reward"
    embedding = f"{{name: clip, source: {clip}}}"
    metrics = {
        "objects": f"{{name: geneval, metadata: {metadata}, source: {tmp_path}/detector, "
        f"clip: {clip}}}",
        "spread": f"{{name: diversity, embedding: {embedding}}}",
        "far": f"{{name: distance, embedding: {embedding}}}",
        "pixels": "pixel_distance",
    }
    typed = [f"metrics.{label}={value}" for label, value in metrics.items() if label != "pixels"]
    typed += ["metrics.pixels.name=pixel_distance", f"models.mine.checkpoint={checkpoints['full']}"]
    prompts = f"prompts={{name: geneval, metadata: {metadata}}}"
    assert main([evaluation_yaml, prompts, "models.base={}", *typed]) == 0
    rows, failures = scores(tmp_path / "out")
    assert not failures and len(rows) == 2 * 2 * 2
    for row in rows:
        values = {k: math.nan if v is None else v for k, v in row["values"].items()}
        assert values["objects.all (HF detector)"] in (0, 1)
        other = "colors" if row["kind"] == "single_object" else "single_object"
        assert values[f"objects.{row['kind']} (HF detector)"] in (0, 1)
        assert math.isnan(values[f"objects.{other} (HF detector)"])
        assert math.isnan(values["spread"]) is (row["seed"] != 3)
        moved = row["model"] == "mine"
        assert (values["far"] > 0) is moved and (values["pixels"] > 0) is moved
    scales = json.loads((tmp_path / "out" / "scores.json").read_text())["scales"]
    assert {name for name, scale in scales.items() if not scale["sign"]} == {"far", "pixels"}
    verdicts = {name for name, scale in scales.items() if scale["verdict"]}
    assert verdicts == {name for name in scales if name.startswith("objects.")} and verdicts


def test_the_total_stands_beside_its_tasks(
    evaluation_yaml, checkpoints, models, tmp_path, monkeypatch, capsys
):
    from flowbp.evaluation.metrics.geneval.task import TASKS as KINDS

    monkeypatch.setattr("flowbp.evaluation.metrics.geneval.detector._LONGEST", 96)
    monkeypatch.setattr("flowbp.evaluation.metrics.geneval.detector._SHORTEST", 64)
    save_detector(tmp_path / "detector")
    extra = {
        "counting": {"exclude": [{"class": "dog", "count": 2}]},
        "colors": {"include": [{"class": "dog", "count": 1, "color": "red"}]},
        "color_attr": {"include": [{"class": "dog", "count": 1, "color": "red"}]},
        "position": {
            "include": [
                {"class": "dog", "count": 1},
                {"class": "cat", "count": 1, "position": ["left of", 0]},
            ]
        },
    }
    dog = {"include": [{"class": "dog", "count": 1}]}
    tasks = [
        {"tag": kind, "prompt": "a red circle" + " and a cross" * i, **dog, **extra.get(kind, {})}
        for i, kind in enumerate(KINDS)
    ]
    metadata = tmp_path / "evaluation_metadata.jsonl"
    metadata.write_text("\n".join(map(json.dumps, tasks)))
    typed = [
        evaluation_yaml,
        f"prompts={{name: geneval, metadata: {metadata}}}",
        f"metrics.objects={{name: geneval, metadata: {metadata}, source: {tmp_path}/detector, "
        f"clip: {models}/reward}}",
        "models.base={}",
        f"models.mine.checkpoint={checkpoints['full']}",
    ]
    assert main(typed) == 0
    name = "objects.overall (HF detector)"
    assert name in capsys.readouterr().out
    out = tmp_path / "out"
    summary = json.loads((out / "scores.json").read_text())["summary"]
    for model in ("base", "mine"):
        each = [summary[model][f"objects.{kind} (HF detector)"]["mean"] for kind in KINDS]
        assert summary[model][name]["mean"] == pytest.approx(sum(each) / 6)
    assert name in (out / "scores.csv").read_text().splitlines()[0]
    assert name in (out / "report.html").read_text()
    # Of what is kept, too.
    before = (out / "scores.json").read_bytes()
    assert main([*typed, "--resume"]) == 0
    assert (out / "scores.json").read_bytes() == before


def test_an_answer_without_a_score_is_a_failure_that_quotes_it(evaluation_yaml, tmp_path, capsys):
    judge = save_judge(tmp_path / "judge", qwen25)
    metric = (
        f"metrics.judge={{name: unified_reward, source: {judge}, tokens: 4, "
        "question: 'Rate {prompt}. Final Score:', policy: {weights: float32, compute: float32}}"
    )
    assert main([evaluation_yaml, metric, "prompts.count=1"]) == 1
    assert "says no `Final Score:`" in capsys.readouterr().err
    assert main([evaluation_yaml, metric, "prompts.count=1", "evaluation.on_failure=report",
                 f"evaluation.folder={tmp_path}/reported"]) == 3  # fmt: skip
    rows, failures = scores(tmp_path / "reported")
    assert all("the judge's answer for" in failure["message"] for failure in failures)
    assert len(failures) == len(rows) == 2

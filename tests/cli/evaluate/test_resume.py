"""An evaluation that was stopped goes on, and never with another evaluation's pictures."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flowbp.cli.evaluate.metric_values import ColumnInfo, StoredValues
from flowbp.cli.evaluate.pictures import Shot
from flowbp.cli.timings import TIMINGS, read_timings
from flowbp.config import sealed
from flowbp.evaluate import main
from flowbp.evaluation import HeldOutPrompt

from ...killing import Processes
from . import metrics_of_ours

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

HERE = "tests.cli.evaluate.metrics_of_ours"


def results(folder: Path) -> dict[str, bytes]:
    """All files of an evaluation but those that tell its own folder or time."""
    own = (".lock", "configuration.yaml", "report.html", "timings.json")
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in own)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def done(evaluation_yaml, tmp_path):
    """The folder of a finished evaluation."""
    assert main([evaluation_yaml]) == 0
    return tmp_path / "out"


def test_the_report_sums_the_time_of_all_sessions(evaluation_yaml, checkpoints, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([evaluation_yaml]) == 0
    (first,) = read_timings(out)
    first = {phase: 100 + seconds for phase, seconds in first.items()}
    (out / TIMINGS).write_text(sealed({"sessions": [first]}))
    capsys.readouterr()
    more = ["models.base={}", f"models.b.checkpoint={checkpoints['full']}", "--resume"]
    assert main([evaluation_yaml, *more]) == 0
    sessions = read_timings(out)
    assert (
        len(sessions) == 2
        and sessions[0] == first
        and set(sessions[1])
        == {
            "generate",
            "measure",
        }
    )
    page = (out / "report.html").read_text()
    assert "Sums over 2 sessions." in page and "<dt>generate</dt><dd>1 min 4" in page
    assert " s in 2 sessions: generate 10" in capsys.readouterr().out
    (out / TIMINGS).write_text("{")
    assert main([evaluation_yaml, *more]) == 2
    told = capsys.readouterr().err
    assert "evaluation.folder: " in told and TIMINGS in told and "Traceback" not in told


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (folder / "images/base").iterdir()}


def test_killed_at_any_moment_it_goes_on(evaluation_yaml, checkpoints, models, tmp_path):
    typed = [
        evaluation_yaml,
        "models.base={}",
        f"models.b.checkpoint={checkpoints['lora']}",
        f"metrics.far={{name: distance, embedding: {{name: clip, source: {models}/reward}}}}",
    ]
    assert main([*typed, f"evaluation.folder={tmp_path / 'whole'}"]) == 0
    whole = results(tmp_path / "whole")
    processes = Processes(tmp_path, "flowbp.evaluate")
    try:
        for calls in (2, 9, 71, 107, 111, 116):
            out = tmp_path / f"killed-{calls}"
            ended = processes.run(*typed, f"evaluation.folder={out}", disk_calls=calls)
            assert ended.code == -9, ended.told
            begun = (out / "configuration.yaml").is_file()
            again = [f"evaluation.folder={out}", *(["--resume"] if begun else [])]
            ended = processes.run(*typed, *again)
            assert ended.code == 0, ended.told
            assert results(out) == whole, calls
    finally:
        processes.close()


def test_what_is_there_is_not_made_again(evaluation_yaml, done, capsys):
    before, kept = results(done), times(done)
    capsys.readouterr()
    assert main([evaluation_yaml, "--resume"]) == 0
    assert "12 of 12 pictures are there" in capsys.readouterr().out
    assert results(done) == before and times(done) == kept


def test_a_damaged_picture_is_made_again(evaluation_yaml, done):
    before, kept = results(done), times(done)
    path = done / "images" / "base" / "00002-4.png"
    path.write_bytes(path.read_bytes()[:-20])
    (done / "images" / "base" / "00005-3.png").unlink()
    assert main([evaluation_yaml, "--resume"]) == 0
    assert results(done) == before
    same = {name for name, time in times(done).items() if time == kept[name]}
    assert set(kept) - same == {"00002-4.png", "00005-3.png"}


def test_seeds_models_and_metrics_may_be_added(evaluation_yaml, done, checkpoints, tmp_path):
    kept = times(done)
    more = [
        "models.base={}",
        f"models.b={{checkpoint: {checkpoints['lora']}, scale: 0.5}}",
        "evaluation.seeds=[3, 4, 5]",
        f"metrics.light.name={HERE}:brightness",
    ]
    assert main([evaluation_yaml, *more, "--resume"]) == 0
    assert times(done).items() >= kept.items()
    assert main([evaluation_yaml, *more, f"evaluation.folder={tmp_path / 'whole'}"]) == 0
    both = results(done), results(tmp_path / "whole")
    figures = "figures/likeness/base.jsonl"
    # In another order, as they were found.
    lines = [sorted(each.pop(figures).splitlines()) for each in both]
    assert lines[0] == lines[1] and both[0] == both[1]


def test_a_metric_that_is_configured_otherwise_judges_again(evaluation_yaml, done, models):
    before = results(done)
    other = shutil.copytree(models / "reward", done.parent / "reward")
    assert main([evaluation_yaml, f"metrics.likeness.source={other}", "--resume"]) == 0
    after = results(done)
    figures = "figures/likeness/base.jsonl"
    assert after[figures] != before[figures] and after["scores.json"] == before["scores.json"]


def test_another_evaluation_is_refused(evaluation_yaml, done, capsys, tmp_path):
    before = results(done)
    assert main([evaluation_yaml]) == 2
    assert "which is not empty" in capsys.readouterr().err
    changed = ["sampling.steps=3", "prompts.count=7", "backbone.text_length=5"]
    assert main([evaluation_yaml, *changed, "sampling.batch=3", "--resume"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("3 problems")
    assert "sampling.steps: was 2 when the pictures were made, and is now 3; give the" in told
    assert main([evaluation_yaml, f"evaluation.folder={tmp_path / 'none'}", "--resume"]) == 2
    assert "so there is nothing to resume" in capsys.readouterr().err
    assert results(done) == before


def test_a_checkpoint_that_changed_is_refused(evaluation_yaml, checkpoints, tmp_path, capsys):
    place = shutil.copytree(checkpoints["lora"], tmp_path / "lora")
    typed = [evaluation_yaml, f"models.b.checkpoint={place}"]
    assert main(typed) == 0
    assert main([*typed, "--resume"]) == 0
    (weights,) = place.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    capsys.readouterr()
    assert main([*typed, "--resume"]) == 2
    told = capsys.readouterr().err
    assert "models.b: is not the model that its pictures were made with" in told


def test_a_picture_of_another_prompt_is_refused(evaluation_yaml, done, capsys):
    images = done / "images" / "base"
    (images / "00001-3.png").write_bytes((images / "00000-3.png").read_bytes())
    assert main([evaluation_yaml, "--resume"]) == 1
    assert "it is of another evaluation" in capsys.readouterr().err


@pytest.mark.parametrize("other", ["sampling.guidance=2", "model"])
def test_pictures_of_another_evaluation_of_equal_labels_are_refused(
    evaluation_yaml, done, checkpoints, tmp_path, capsys, other
):
    elsewhere = f"evaluation.folder={tmp_path / 'other'}"
    changed = f"models={{base: {{checkpoint: {checkpoints['lora']}}}}}"
    assert main([evaluation_yaml, elsewhere, changed if other == "model" else other]) == 0
    name = "images/base/00002-4.png"
    shutil.copy(tmp_path / "other" / name, done / name)
    assert main([evaluation_yaml, "--resume"]) == 1
    told = capsys.readouterr().err
    assert str(done / name) in told and "it is of another evaluation" in told


def test_a_line_that_was_cut_off_is_judged_again(tmp_path):
    kept = StoredValues(tmp_path / "base.jsonl", {"name": "mine"}, "")
    assert kept.begin(ColumnInfo()) == {}
    shots = [Shot("base", i, 0, HeldOutPrompt("a circle")) for i in range(2)]
    kept.add((shot.key(b""), {"mine": 0.5}) for shot in shots)
    text = kept.path.read_text()
    for length in range(len(text)):
        kept.path.write_text(text[:length])
        assert len(kept.begin(ColumnInfo())) == max(0, text[:length].count("\n") - 1)
        assert kept.path.read_text().endswith("\n") and text.startswith(kept.path.read_text())


def columns(folder: Path) -> set[tuple[str, ...]]:
    rows = json.loads((folder / "scores.json").read_text())["rows"]
    return {tuple(sorted(row["values"].keys() - {"likeness"})) for row in rows}


def test_columns_may_come_in_another_order(evaluation_yaml, tmp_path, monkeypatch):
    typed = [evaluation_yaml, f"metrics.mine.name={HERE}:columns_as_they_come"]
    monkeypatch.setattr(metrics_of_ours, "CALLS_LEFT", [1])
    assert main(typed) == 1
    # As of a metric that makes them of a set, in another process.
    monkeypatch.setattr(metrics_of_ours, "COLUMNS", ["two", "one"])
    monkeypatch.setattr(metrics_of_ours, "CALLS_LEFT", [99])
    assert main([*typed, "--resume"]) == 0
    assert columns(tmp_path / "out") == {("mine.one", "mine.two")}


def test_kept_figures_of_other_columns_are_judged_again(evaluation_yaml, tmp_path, monkeypatch):
    out = tmp_path / "out"
    typed = [evaluation_yaml, f"metrics.mine.name={HERE}:columns_as_they_come"]
    monkeypatch.setattr(metrics_of_ours, "CALLS_LEFT", [99])
    assert main(typed) == 0
    path = out / "figures" / "mine" / "base.jsonl"
    heading, _, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([heading, *lines]))
    monkeypatch.setattr(metrics_of_ours, "COLUMNS", ["one", "three"])
    monkeypatch.setattr(metrics_of_ours, "CALLS_LEFT", [99])
    assert main([*typed, "--resume"]) == 0
    assert columns(out) == {("mine.one", "mine.three")}
    monkeypatch.setattr(metrics_of_ours, "CALLS_LEFT", [0])
    # Nothing is left to judge, and what was judged again is what was kept.
    assert main([*typed, "--resume"]) == 0
    assert columns(out) == {("mine.one", "mine.three")}


def flipped(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["full", "lora"])
@pytest.mark.parametrize("check", [["--check"], []])
def test_a_damaged_checkpoint_is_refused(
    evaluation_yaml, checkpoints, tmp_path, capsys, monkeypatch, name, check
):
    place = shutil.copytree(checkpoints[name], tmp_path / name)
    typed = [evaluation_yaml, f"models={{base: {{}}, b: {{checkpoint: {place}}}}}", *check]
    weights = next(p for p in place.rglob("*.safetensors") if p.parent.name != "training")
    kept = weights.read_bytes()
    weights.write_bytes(bytes(len(kept)))
    monkeypatch.setattr(
        "flowbp.cli.evaluate.execution._loaded", lambda _: pytest.fail("was loaded")
    )
    assert main(typed) == 2
    told = capsys.readouterr().err
    assert "models.b.checkpoint" in told and weights.name in told and "Traceback" not in told
    weights.write_bytes(kept)
    (place / "manifest.json").unlink()
    assert main(typed) == 2
    assert "manifest.json is missing" in capsys.readouterr().err


def test_a_model_without_its_state_of_training_is_taken(evaluation_yaml, checkpoints, tmp_path):
    place = shutil.copytree(checkpoints["lora"], tmp_path / "lora")
    shutil.rmtree(place / "training")
    typed = [evaluation_yaml, f"models={{base: {{}}, b: {{checkpoint: {place}}}}}", "--check"]
    assert main(typed) == 0


@pytest.mark.parametrize("name", ["figures/likeness/base.jsonl", "models/base.json"])
def test_damage_of_what_is_kept_is_reported(evaluation_yaml, done, capsys, name):
    path = done / name
    whole = path.read_bytes()
    # Without the last line break, a line is as a kill may leave it, and is judged again.
    for place in range(1, len(whole) - 1, len(whole) // 7):
        flipped(path, place)
        capsys.readouterr()
        assert main([evaluation_yaml, "--resume"]) in (1, 2)
        told = capsys.readouterr().err
        assert str(path) in told and "remove it" in told and "Traceback" not in told
        path.write_bytes(whole)
    path.write_bytes(b"\xff" + whole)
    assert main([evaluation_yaml, "--resume"]) in (1, 2)
    assert "byte 0 is not UTF-8" in capsys.readouterr().err


def test_a_damaged_memory_of_digests_is_not_believed(evaluation_yaml, checkpoints, tmp_path):
    typed = [evaluation_yaml, f"models={{base: {{}}, b: {{checkpoint: {checkpoints['full']}}}}}"]
    assert main(typed) == 0
    path = tmp_path / "out" / ".digests.json"
    if path.exists():
        flipped(path, len(path.read_bytes()) // 2)
    else:
        path.write_text("{")
    assert main([*typed, "--resume"]) == 0


def test_a_backbone_that_was_moved_is_known_by_its_files(evaluation_yaml, models, tmp_path, capsys):
    base = shutil.copytree(models / "base", tmp_path / "base")
    assert main([evaluation_yaml, f"backbone.source={base}"]) == 0
    before = results(tmp_path / "out")
    again = [evaluation_yaml, f"backbone.source={shutil.copytree(base, tmp_path / 'b')}"]
    assert main([*again, "--resume"]) == 0
    assert "12 of 12 pictures are there" in capsys.readouterr().out
    assert results(tmp_path / "out").keys() == before.keys()
    flipped(tmp_path / "b" / "vae/config.json", 3)
    assert main([*again, "--resume"]) == 2
    assert "vae/config.json changed" in capsys.readouterr().err


def test_pictures_of_unknown_origin_are_refused(evaluation_yaml, done, capsys):
    (done / "models/base.json").unlink()
    assert main([evaluation_yaml, "--resume"]) == 2
    told = capsys.readouterr().err
    assert "models.base" in told and str(done / "models/base.json") in told

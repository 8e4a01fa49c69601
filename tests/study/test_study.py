"""Whole studies of a toy: results, files, resuming, workers, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flowbp.config import ConfigurationError
from flowbp.core import Sparse
from flowbp.evaluation.sampling import noise_generator
from flowbp.study.__main__ import main
from flowbp.study.cells import CELLS
from flowbp.study.execution import execute
from flowbp.study.loader import load
from flowbp.study.workers import take_gpu

from .study_toy import DECAY, Goals, flow, goal

FILES = ("results.json", "methods.csv", "runs.csv", "report.html")


def contents(folder: Path) -> dict[str, str]:
    """What a study wrote; the page and the YAML name its folder."""
    return {name: (folder / name).read_text() for name in FILES[:3]}


def cells(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / CELLS).iterdir()}


def timeless(folder: Path) -> dict[str, dict]:
    """The cells without the seconds that they took."""
    found = {}
    for name, content in cells(folder).items():
        tree = json.loads(content)
        found[name.rpartition("-")[0]] = {
            key: value for key, value in tree.items() if key not in ("seconds", "sha256")
        }
    return found


def test_a_study_finds_the_method_that_is_better_by_construction(study_file, capsys):
    assert main([str(study_file)]) == 0
    shown = capsys.readouterr().out
    folder = study_file.parent / "study"
    results = {
        each["label"]: each for each in json.loads((folder / "results.json").read_text())["methods"]
    }
    # Four pulls a step against one, so four times the steps, each of about the rate's length.
    assert (results["exact"]["steps"], results["last"]["steps"]) == (5, 20)
    assert results["last"]["standings"]["reward"]["best"] == 1.0
    assert results["last"]["standings"]["reward"]["against"]["exact"]["low"] > 0
    assert [each["rates"][each["best"]]["rate"] for each in results.values()] == [1e-2, 1e-2]
    for name in FILES:
        assert (folder / name).is_file()
    assert "reward gained" in shown and "0.01!" in shown
    rows = list(csv.DictReader((folder / "runs.csv").open()))
    # Two methods, two rates, two seeds, an evaluation before and two after.
    assert len(rows) == 2 * 2 * 2 * 3
    ends = {row["method"]: float(row["cost"]) for row in rows}
    assert ends["exact"] == pytest.approx(ends["last"], rel=1e-4) == pytest.approx(80, rel=1e-4)


def test_a_first_step_of_training_gains_what_the_closed_form_says(study_file):
    """Adam's first step changes each weight by the rate, and the sample is linear in it."""
    typed = ["methods.last=null", "training.steps=1", "ascent=null", "training.rates=[0.01]"]
    assert main([str(study_file), *typed, "training.seeds=[0]"]) == 0
    study = load([str(study_file), *typed]).settings
    ((name, content),) = cells(study.settings.folder).items()
    evaluations = json.loads(content)["evaluations"]
    noise = torch.cat(
        [flow().noise(1, height=1, width=1, generator=noise_generator(0, i)) for i in range(24)]
    )
    shrunk, moved = (1 - DECAY / 4) ** 4, sum((1 - DECAY / 4) ** k for k in range(4)) / 4
    goals = torch.stack([goal(prompt.text) for prompt in Goals().prompts()])
    for weight, row in zip((0.0, 0.01), evaluations, strict=True):
        wanted = -(shrunk * noise + moved * weight - goals).square().sum((1, 2, 3)) / 2
        # All three coordinates of the gradient point towards the goals; the third away from 0.
        found = torch.tensor(row["each"]["reward"], dtype=torch.float64)
        if weight:
            signs = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64).view(3, 1, 1)
            wanted = -(shrunk * noise + moved * weight * signs - goals).square().sum((1, 2, 3)) / 2
        assert torch.allclose(found, wanted, rtol=0, atol=1e-6), name


def test_a_study_that_is_given_again_measures_nothing(study_file, capsys):
    assert main([str(study_file)]) == 0
    folder = study_file.parent / "study"
    before, first = cells(folder), contents(folder)
    capsys.readouterr()
    assert main([str(study_file)]) == 0
    assert "of which 0 are left" in capsys.readouterr().out
    assert cells(folder) == before and contents(folder) == first


def test_a_resumed_study_measures_only_what_is_missing(study_file):
    assert main([str(study_file)]) == 0
    folder = study_file.parent / "study"
    before, first = cells(folder), contents(folder)
    for name in sorted(before)[::3]:
        (folder / CELLS / name).unlink()
    assert main([str(study_file)]) == 0
    assert contents(folder) == first
    kept = sorted(set(before) - set(sorted(before)[::3]))
    assert {name: cells(folder)[name] for name in kept} == {name: before[name] for name in kept}


def test_methods_may_be_added_and_taken_away(study_file):
    assert main([str(study_file), "methods.last=null"]) == 0
    folder = study_file.parent / "study"
    before = cells(folder)
    assert main([str(study_file), "methods.all={name: sparse, active: 4}"]) == 0
    now = cells(folder)
    assert before.items() <= now.items()
    added = {name.partition("-")[0] for name in set(now) - set(before)}
    assert added == {"last", "all"}


def test_a_parallel_study_equals_a_serial_one(study_file, tmp_path):
    assert main([str(study_file)]) == 0
    assert main([str(study_file), "workers=2", f"folder={tmp_path / 'parallel'}"]) == 0
    assert contents(tmp_path / "study") == contents(tmp_path / "parallel")
    assert timeless(tmp_path / "study") == timeless(tmp_path / "parallel")


def started(study_file, folder, *typed):
    """A study in a process of its own, once it has measured two cells."""
    process = subprocess.Popen(
        [sys.executable, "-m", "flowbp.study", str(study_file), f"folder={folder}", *typed],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if len(list((folder / CELLS).glob("*.json"))) >= 2:
            break
        time.sleep(0.01)
    return process


SLOW = "training.steps=80"


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_study_that_is_stopped_goes_on_to_the_same_table(study_file, tmp_path, workers, number):
    stopped = tmp_path / "stopped"
    process = started(study_file, stopped, f"workers={workers}", SLOW)
    process.send_signal(number)
    told = process.communicate()[1]
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert f"what was saved is in {stopped}; the same command continues it" in told
    assert 2 <= len(cells(stopped)) < 14
    assert main([str(study_file), f"folder={stopped}", SLOW]) == 0
    assert main([str(study_file), SLOW]) == 0
    assert contents(tmp_path / "study") == contents(stopped)


def test_a_worker_that_is_killed_is_reported(study_file, tmp_path):
    process = started(study_file, tmp_path / "killed", "workers=2", SLOW)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    commands = {child: Path(f"/proc/{child}/cmdline").read_text() for child in children}
    worker = next(child for child, command in commands.items() if "spawn_main" in command)
    os.kill(int(worker), signal.SIGKILL)
    told = process.communicate()[1]
    assert process.returncode == 1
    assert "its process ended with exit code -9" in told and "what was done is kept" in told


def test_workers_are_spread_over_the_gpus(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name in ("cuda", "cpu", "cuda:1"):
        for number in range(5):
            take_gpu(torch.device(name), number)
    assert taken == [0, 1, 0, 1, 0]


def test_check_writes_nothing(study_file, capsys):
    assert main([str(study_file), "--check"]) == 0
    assert "exact 5, last 20" in capsys.readouterr().out
    assert not (study_file.parent / "study").exists()


def test_weights_are_measured_once(study_file):
    assert main([str(study_file), "training.weights=null", "ascent=null"]) == 0
    folder = study_file.parent / "study"
    before = cells(folder)
    assert [name.partition("-")[0] for name in before].count("cost") == 1
    assert main([str(study_file), "training.weights=null", "ascent=null"]) == 0
    assert cells(folder) == before
    # Of another batch they may be others.
    assert (
        main(
            [
                *map(str, [study_file, "training.weights=null", "ascent=null"]),
                "run.batching.samples=2",
            ]
        )
        == 0
    )
    assert [name.partition("-")[0] for name in cells(folder)].count("cost") == 2


def test_the_written_configuration_is_the_same_study(study_file):
    assert main([str(study_file)]) == 0
    folder = study_file.parent / "study"
    before = cells(folder)
    assert main([str(folder / "study.yaml")]) == 0
    assert cells(folder) == before


def test_a_run_comes_from_a_file_with_sections_laid_over_it(study_file, tmp_path):
    text = study_file.read_text()
    own = text[text.index("run:\n") : text.index("methods:")].removeprefix("run:\n")
    run = tmp_path / "run.yaml"
    run.write_text("\n".join(line[2:] for line in own.splitlines()) + "\nmethod: {name: refl}\n")
    start = text[: text.index("run:\n")]
    rest = text[text.index("methods:") :]
    study_file.write_text(f"{start}run: {{files: {run}, batching: {{samples: 2}}}}\n{rest}")
    study = load([str(study_file)]).settings
    assert study.run.batching.samples == 2 and study.run.sampling.steps == 4
    study_file.write_text(f"{start}run: {run}\n{rest}")
    assert load([str(study_file)]).settings.run.batching.samples == 4
    over = load([str(study_file), "run.batching.samples=2", "methods.exact=sparse"]).settings
    assert over.run.batching.samples == 2 and over.settings.methods["exact"] == Sparse()


REFUSALS = {
    "methods.exact.last=40": "methods.exact: `last` must be in [1, 4], got 40",
    "training.rates=[]": "training.rates: must be different numbers above 0",
    "training.seeds=[1, 1]": "training.seeds: must be 1 to",
    "ascent.lengths=[2, 1]": "ascent.lengths: must be ascending numbers above 0, got [2.0, 1.0]",
    "ascent.directions=[up]": "ascent.directions: must be some of raw, adam, rms",
    "ascent.batch=7": "ascent.batch: must be a multiple of run.batching.samples, 4",
    "training.selection=1": "training.selection: is 1, which leaves 24 held-out prompts to choose",
    "run.evaluation=null": "run: has no `evaluation`",
    "run=null": "run: must name a run's YAML file, or several, or be a mapping",
    "run=[run.yaml, 3]": "sections, got ['run.yaml', 3]",
    "run=absent.yaml": "absent.yaml: cannot be read",
    "run.training.averaging={decay: 0.999}": "run.training.averaging: has decay 0.999, and after 5",
    "run.backbone=null": "run.backbone: must be the name of a backbone",
    "worker=2": "worker: is an unknown key. Did you mean `workers`?",
    "run.samplin=2": "run.samplin: is an unknown key",
}


@pytest.mark.parametrize("typed", REFUSALS)
def test_mistakes_are_refused_by_key_value_and_cure(study_file, typed, capsys):
    assert main([str(study_file), typed]) == 2
    assert REFUSALS[typed] in capsys.readouterr().err
    assert not (study_file.parent / "study").exists()


def test_all_mistakes_are_reported_at_once(study_file, capsys):
    typed = ["workers=0", "training.steps=0", "run.sampling.steps=0", "methods.last.lst=2"]
    assert main([str(study_file), *typed]) == 2
    error = capsys.readouterr().err
    for path in ("workers", "training.steps", "run.sampling.steps", "methods.last.lst"):
        assert f" {path}: " in error, path
    assert error.startswith("4 problems")


def test_a_folder_with_something_else_is_refused(study_file, capsys):
    folder = study_file.parent / "study"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert main([str(study_file)]) == 2
    assert "holds no study" in capsys.readouterr().err


def test_a_damaged_cell_is_refused_by_name(study_file, capsys):
    assert main([str(study_file)]) == 0
    path = sorted((study_file.parent / "study" / CELLS).iterdir())[0]
    path.write_text(path.read_text().replace("0", "1", 1))
    assert main([str(study_file)]) == 1
    error = capsys.readouterr().err
    assert path.name in error and "remove it" in error


def test_a_worker_that_fails_is_named(study_file, capsys):
    typed = ["run.reward.name=study_toy:failing", "workers=2", "training=null"]
    assert main([str(study_file), *typed]) == 1
    error = capsys.readouterr().err
    assert "exact-draw0 stopped" in error or "last-draw0 stopped" in error
    assert "no reward today" in error


def test_diverging_runs_are_reported_and_not_chosen(study_file):
    study = load([str(study_file), "training.rates=[1e-2, 1e200]", "ascent=null"]).settings
    results = execute(study)
    for method in results.methods:
        assert [rate.failed for rate in method.rates] == [False, True]
        assert method.chosen.rate == 1e-2
        assert "diverged" in (study.settings.folder / "report.html").read_text()
        assert math.isfinite(method.standings["reward"].gain.mean)


def test_a_rate_is_set_under_the_name_that_the_optimizer_has(study_file, capsys):
    assert main([str(study_file), "run.optimizer={name: torch.optim:SGD}", "ascent=null"]) == 0
    assert "0.01" in capsys.readouterr().out
    with (study_file.parent / "study" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    for method in ("exact", "last"):
        ends = {row["rate"]: float(row["reward"]) for row in rows if row["method"] == method}
        assert ends["0.001"] < ends["0.01"]


def test_an_optimizer_that_finds_its_rate_is_tried_at_no_others(study_file, tmp_path):
    typed = [str(study_file), "run.optimizer={name: torch.optim:Adadelta}"]
    with pytest.raises(ConfigurationError) as caught:
        load(typed)
    (problem,) = caught.value.problems
    assert problem.path == "training.rates"
    assert "Adadelta finds its rate itself" in problem.message and "leave" in problem.message
    study = load([*typed, "training.rates=null"]).settings
    assert {cell.rate for cell in study.cells(study.settings.training.weights)} == {None, 1.0}
    with pytest.raises(ConfigurationError, match=r"training\.rates: is missing; give the learning"):
        load([str(study_file), "training.rates=null"])

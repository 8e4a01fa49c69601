"""Processes train a case together, in small, and their rewards are those of one."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import attrs
import pytest

from benchmarks.gpu_time import GpuTime
from benchmarks.several_gpus import CASES, main
from benchmarks.several_gpus_table import Row, append, rows_of, table

from ..training.processes import torchrun

SMALL = ["--tiny", "--eager", "--steps", "4", "--set", "sampling.steps=11", "batching.decode=8"]
EXACT = "backbone.policy={weights: float32, compute: float32}"


def row(**figures):
    values = dict(
        case="sd35", model="sd35_medium", processes=1, division="each with the whole model",
        needs="", samples=8, total=8, portions="pull 8", compiled=True,
        changed=["a=1"],
        seconds=[60.0, 9.0, 4.0, 6.0, 5.0, 8.0], rewards=[0.5, 0.25], reward_stds=[0.1, 0.1],
        losses=[0.0], gradient_norms=[1.0], building_gib=[20.25], built_gib=[10.0],
        training_gib=[50.0], predicted_gib=48.5, building_seconds=9.0, profiled=True, gpu=None,
    )  # fmt: skip
    return Row(**values | figures)


def test_sharded_processes_have_the_rewards_of_one(tmp_path, monkeypatch):
    file = tmp_path / "out.jsonl"
    typed = [str(file), "--case", "sd35_kept", *SMALL, EXACT]
    monkeypatch.setattr(sys, "argv", ["several_gpus", *typed, "--same-global", "2"])
    main()
    code, printed, errors = torchrun("benchmarks.several_gpus", typed)
    assert code == 0, errors
    assert "which share one model, gathered once a step" in printed and "step 4: " in printed
    one, two = rows_of(file)
    assert (one.processes, two.processes) == (1, 2)
    assert one.total == two.total == 16 and one.portions == two.portions
    assert "(pull 8, decode 8, " in one.predicted
    assert 0 < two.predicted_gib < 0.1
    assert two.rewards == pytest.approx(one.rewards, abs=1e-6)
    assert two.gradient_norms == pytest.approx(one.gradient_norms, rel=1e-4)


def test_a_step_is_timed_without_compiling_and_without_the_profile():
    assert row().step == 5.0
    assert row(profiled=False).step == 5.5
    assert row(seconds=[60.0, 9.0, 8.0]).step == 9.0
    assert row(seconds=[60.0]).step == 60.0


def test_the_table_compares_with_one_gpu(tmp_path, monkeypatch, capsys):
    file = tmp_path / "out.jsonl"
    gpu = GpuTime(wall=6.5, compute=5.0, nccl=1.0, exposed=0.75, idle=0.75)
    two = row(
        case="sd35_kept", processes=2, total=16, seconds=[9.0, 9.0, 6.25, 7.0], gpu=gpu,
        building_gib=[20.0, 21.0], rewards=[0.5, 0.375],
    )  # fmt: skip
    for each in (row(seconds=[99.0]), row(), row(total=16, seconds=[10.0]), two):
        append(file, each)
    rows = rows_of(file)
    assert rows == [row(), row(total=16, seconds=[10.0]), two]
    monkeypatch.setattr(sys, "argv", ["several_gpus", str(file)])
    main()
    line = capsys.readouterr().out.splitlines()[-1]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[5:9] == ["yes", "6.25", "0.800", "20.0 / 21.0"]
    assert cells[10:12] == ["50.0", "48.5"]
    assert cells[12] == "0.12 in 2 steps (standard deviation 0.1)"
    assert cells[13:] == ["6.500", "5.000", "1.000", "0.750", "0.750"]
    # One that is not compiled, or of other settings, is no measure.
    for other in (attrs.evolve(two, changed=["a=2"]), attrs.evolve(two, compiled=False)):
        assert "0.800" not in table([row(), other])


def cells_of(text, *, columns):
    """The cells of all lines of tables that have so many."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    cells = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in lines]
    return [each for each in cells if len(each) == columns and each[0].isdigit()]


def test_the_docs_have_what_was_measured():
    docs = Path("docs")
    text = (docs / "distributed.md").read_text().partition("## What it costs")[2]
    rows = {
        (each.processes, each.division): each
        for each in rows_of(docs / "several_gpus_h200.jsonl")
        if each.total == 8 * each.processes
    }
    whole = "each with the whole model"
    divisions = {
        "whole": whole,
        "replicated": whole,
        "sharded over both": "which share one model, gathered once a step",
        "sharded over all": "which share one model, gathered once a step",
        "two copies of two shards": "each 2 of which share one of 2 models, gathered once a step",
        "sharded, gathered block by block": "which share one model, gathered block by block",
    }
    one, checked = rows[1, whole], 0
    for count, how, seconds, scaling, gib in cells_of(text, columns=5):
        if (count, how) == ("4", "replicated"):
            assert gib == "not recorded" and (4, whole) not in rows
            continue
        row, checked = rows[int(count), divisions[how]], checked + 1
        assert seconds == f"{row.step:.2f}"
        assert scaling == ("" if count == "1" else f"{one.step / row.step * 100:.0f} %")
        assert gib == f"{max(row.training_gib):.1f}"
        assert len(row.seconds) - 3 in (3, 7)
    for count, how, *seconds in cells_of(text, columns=6):
        gpu, checked = rows[int(count), divisions[how]].gpu, checked + 1
        shown = [gpu.wall, gpu.compute, gpu.exposed, gpu.idle]
        assert seconds == [f"{each:.2f}" if each else "" for each in shown]
    assert checked == 2 * len(rows) == 12
    spans = re.search(
        r"took ([\d.]+) s longer than the\nfastest replicated, ([\d.]+) s.*?([\d.]+) g", text
    )
    two = (row for (count, _), row in rows.items() if count == 2)
    found = sorted(max(row.seconds[2:-1]) - min(row.seconds[2:-1]) for row in two)
    assert list(spans.groups()) == [f"{each:.2f}" for each in found]


def test_what_the_case_sets_is_not_set_besides(monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["several_gpus", "o", "--case", "sd35", "--set", "batching.global=4"]
    )
    with pytest.raises(SystemExit):
        main()
    assert "batching.global" in capsys.readouterr().err


def test_cases_are_of_published_models():
    assert {case.model for case in CASES.values()} == {"sd35_medium", "flux1_dev", "flux2_klein"}

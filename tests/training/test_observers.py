from __future__ import annotations

import io
import json
import math
import os
import re
import sys
import threading
from pathlib import Path

import attrs
import pytest
import torch
from PIL import Image

from flowbp.training import (
    EarlyStop,
    HeldOutMetrics,
    JsonLines,
    Metrics,
    ProgressBar,
    SampleGrids,
    TensorBoard,
)
from flowbp.training.metrics import metrics_row
from flowbp.training.progress import draws_bars

ROW = Metrics(
    step=1,
    reward=0.5,
    reward_std=0.25,
    loss=-0.5,
    gradient_norm=2.0,
    learning_rate=1e-5,
    residuals=(0.125, None),
    velocity_calls=14,
    seconds=2.0,
)


def rows(count: int) -> list[Metrics]:
    return [attrs.evolve(ROW, step=step) for step in range(1, count + 1)]


def refuse(token: str) -> None:
    raise AssertionError(f"{token} is no standard JSON")


def test_json_lines_are_on_disk_at_once_and_standard(tmp_path: Path) -> None:
    path = tmp_path / "a" / "metrics.jsonl"
    lines = JsonLines(path)
    assert not path.exists()
    lines.row(ROW)
    assert len(path.read_text().splitlines()) == 1
    lines.row(attrs.evolve(ROW, step=2, loss=math.nan, gradient_norm=-math.inf))
    first, second = (
        json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()
    )
    assert first == metrics_row(ROW)
    assert (second["loss"], second["gradient_norm"], second["reward"]) == (None, None, 0.5)
    lines.close()


def test_json_lines_without_rows_leave_no_file(tmp_path: Path) -> None:
    JsonLines(tmp_path / "metrics.jsonl").close()
    assert list(tmp_path.iterdir()) == []


def test_json_lines_replace_an_earlier_run(tmp_path: Path) -> None:
    for _ in range(2):
        lines = JsonLines(tmp_path / "metrics.jsonl")
        lines.row(ROW)
        lines.close()
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_tensorboard_files_read_back(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path / "events")
    for row in rows(2):
        board.row(row)
    board.pictures(2, torch.rand(2, 3, 8, 8), ["a", "b"])
    board.close()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    tags = events.Tags()
    assert "train/reward" in tags["scalars"]
    assert "train/residual_1" not in tags["scalars"]
    assert [(e.step, e.value) for e in events.Scalars("train/reward")] == [(1, 0.5), (2, 0.5)]
    assert tags["images"] == ["samples"]


def test_missing_tensorboard_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "flowbp-align\[run\]"'):
        TensorBoard(tmp_path)


def test_sample_grid_is_a_picture_of_the_right_size(tmp_path: Path) -> None:
    grids = SampleGrids(tmp_path / "samples", scale=3)
    images = torch.zeros(4, 3, 5, 7)
    images[1, 0] = 1.0
    grids.pictures(20, images, ["a", "b", "c", "d"])
    with Image.open(tmp_path / "samples" / "000020.png") as picture:
        assert picture.size == (2 * 21 + 3 * 2, 2 * 15 + 3 * 2)
        assert picture.getpixel((2 + 21 + 2 + 10, 2 + 7)) == (255, 0, 0)
        assert picture.getpixel((2 + 10, 2 + 7)) == (0, 0, 0)
    assert (tmp_path / "samples" / "prompts.txt").read_text() == "a\nb\nc\nd\n"


def test_illegal_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`scale` must be at least 1, got 0"):
        SampleGrids(tmp_path, scale=0)


def test_progress_is_sparse_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    progress = ProgressBar(299, stream=stream, clock=lambda: 100.0)
    for row in rows(299):
        progress.row(row)
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[0] == "step 1/299  reward 0.5000  residuals 0.125 -  gradient 2.00  9:56 left"
    assert lines[-1].startswith("step 299/299")


@pytest.mark.parametrize("none", [(0.0, 0.0), (0.0, None)])
def test_residuals_of_a_surrogate_that_follows_the_path_are_not_printed(none) -> None:
    stream = io.StringIO()
    progress = ProgressBar(299, stream=stream, clock=lambda: 100.0)
    progress.row(attrs.evolve(rows(1)[0], residuals=none))
    progress.close()
    assert "residuals" not in stream.getvalue() and "gradient 2.00" in stream.getvalue()


def test_the_first_step_which_compiles_says_nothing_of_the_others() -> None:
    stream, times = io.StringIO(), iter([100.0, 102.0, 104.0, 105.0])
    progress = ProgressBar(4, stream=stream, clock=lambda: next(times))
    for row, seconds in zip(rows(4), (90.0, 2.0, 2.0, 1.0), strict=True):
        progress.row(attrs.evolve(row, seconds=seconds))
    left = [line.rsplit("  ", 1)[1] for line in stream.getvalue().splitlines()]
    assert left == ["4:30 left", "0:04 left", "0:02 left", "0:00 left"]


def test_until_the_first_step_of_a_compiled_model_it_says_how_far_that_is() -> None:
    class Watched(io.StringIO):
        def write(self, text: str) -> int:
            told.set()
            return super().write(text)

    stream, told = Watched(), threading.Event()
    progress = ProgressBar(4, compiled=True, stream=stream, clock=lambda: 0.0, period=0.01)
    progress.begin(())
    assert told.wait(30)
    progress.row(rows(1)[0])
    lines = stream.getvalue().splitlines()
    assert re.match(r"compiling and fitting portions, 0:00: \d+ graphs so far, \d+ of", lines[0])
    quiet = io.StringIO()
    for compiled in (False, True):
        progress = ProgressBar(4, compiled=compiled, stream=quiet, period=60)
        progress.begin(())
        progress.close()
    assert quiet.getvalue() == ""


def test_progress_is_a_bar_on_a_terminal() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = ProgressBar(2, stream=stream)
    for row in rows(2):
        progress.row(row)
    progress.close()
    assert "2/2" in stream.getvalue()
    assert "reward 0.5000, residuals 0.125 -, gradient 2.00" in stream.getvalue()


def test_a_terminal_without_columns_gets_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def fileno(self) -> int:
            return 2

    for columns, drawn in ((0, False), (80, True)):
        size = os.terminal_size((columns, 0))
        monkeypatch.setattr(os, "get_terminal_size", lambda _, size=size: size)
        assert draws_bars(Terminal()) is drawn
    assert not draws_bars(io.StringIO())


def test_progress_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="`total` must be at least 1"):
        ProgressBar(0)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["log", "terminal"])
def test_evaluations_are_told_with_how_near_the_end_is(stream: io.StringIO) -> None:
    stop = EarlyStop(metric="accuracy", patience=3)
    progress = ProgressBar(60, stop=stop, stream=stream)
    found = [
        HeldOutMetrics(step=20 * i, means={"reward": 0.25, "accuracy": value})
        for i, value in enumerate((0.5, 0.75, 0.6875))
    ]
    for count in range(len(found) + 1):
        progress.evaluations(found[:count])
    progress.close()
    told = [line for line in stream.getvalue().replace("\r", "\n").split("\n") if "held" in line]
    held = "held out, after step {}: reward 0.2500  accuracy {}"
    best = "; best accuracy {} after step "
    assert [line.strip() for line in told] == [
        held.format(0, "0.5000") + best.format("0.5000") + "0",
        held.format(20, "0.7500") + best.format("0.7500") + "20",
        held.format(40, "0.6875") + best.format("0.7500") + "20, 1 of 3 without a rise",
    ]


def test_where_less_is_better_it_is_told_so() -> None:
    stream = io.StringIO()
    rows = [
        HeldOutMetrics(step=20 * i, means={"loss": value}, signs={"loss": -1})
        for i, value in enumerate((0.5, 0.25, 0.75))
    ]
    ProgressBar(60, stop=EarlyStop(metric="loss"), stream=stream).evaluations(rows)
    told = "best loss 0.2500 after step 20, 1 of 3 without a fall"
    assert stream.getvalue().strip().endswith(told)


def test_without_a_stop_evaluations_are_told_plainly() -> None:
    stream = io.StringIO()
    ProgressBar(4, stream=stream).evaluations([HeldOutMetrics(step=2, means={"reward": 0.5})])
    assert stream.getvalue() == "held out, after step 2: reward 0.5000\n"

"""What trackers get of a run, read back from what they keep on the disk."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.config import DamagedError
from flowbp.training import HeldOutMetrics, Trackio, TrackioSettings, Wandb, WandbSettings
from flowbp.training.trackers import Tracker, tracker_faults

from .fakes import make_trainer
from .test_observers import rows

CONFIGURATION = {"training": {"steps": 4}, "reward": {"name": "shapes"}}
EVALUATIONS = [HeldOutMetrics(step=2 * i, means={"reward": 0.25 + i / 4}) for i in range(3)]
IMAGES, PROMPTS = torch.full((2, 3, 8, 8), 0.5), ["red", "green"]


class ListTracker(Tracker):
    """Keeps what it is sent; stands for a package that is there."""

    package = "json"

    def __init__(self, folder: Path, *, fails: Sequence[str] = ()) -> None:
        super().__init__(folder, CONFIGURATION)
        self.sent: list[tuple[int, dict[str, Any]]] = []
        self.opened: list[str] = []
        self.failed: list[bool] = []
        self.fails = fails

    def _opened(self, id: str) -> Any:
        if "open" in self.fails:
            raise OSError("no network")
        self.opened.append(id)
        return self

    def _log(self, step: int, values: Any) -> None:
        if "log" in self.fails:
            raise OSError("no network")
        self.sent.append((step, dict(values)))

    def _table(self, columns: list[str], rows: list[list[Any]]) -> Any:
        return columns, rows

    def _picture(self, array: Any, caption: str) -> Any:
        return array.shape, caption

    def _named(self, pictures: list[Any]) -> dict[str, Any]:
        return {"samples": pictures}

    def _finish(self, run: Any, *, failed: bool) -> None:
        self.failed.append(failed)


def drive(tracker: Tracker, steps: int, *, before: int = 0) -> None:
    """Send a run's events after `before` steps, until it is interrupted after `steps`."""
    tracker.begin(rows(before))
    tracker.evaluations([each for each in EVALUATIONS if each.step <= before])
    for row in rows(steps)[before:]:
        tracker.row(row)
        tracker.evaluations([each for each in EVALUATIONS if each.step <= row.step])
    tracker.pictures(steps, IMAGES, PROMPTS)


def test_each_step_is_sent_once_whatever_is_done_again(tmp_path: Path) -> None:
    first = ListTracker(tmp_path)
    drive(first, 3)
    first.close()
    # Killed after step 3, it goes on from the checkpoint of step 2.
    second = ListTracker(tmp_path)
    drive(second, 4, before=2)
    second.close()
    assert first.opened == second.opened
    steps = [step for step, values in first.sent + second.sent if "train/reward" in values]
    assert steps == [1, 2, 3, 4]
    tables = [v["evaluations"] for _, v in first.sent + second.sent if "evaluations" in v]
    assert tables[-1] == (["step", "reward"], [[0, 0.25], [2, 0.5], [4, 0.75]])
    assert [len(lines) for _, lines in tables] == [1, 2, 3]
    assert (3, {"samples": [((8, 8, 3), "red"), ((8, 8, 3), "green")]}) in first.sent


def test_what_may_be_lost_in_a_kill_is_sent_again(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("flowbp.training.trackers.time.monotonic", lambda: now[0])
    killed = ListTracker(tmp_path)
    killed.begin(())
    for row in rows(3):
        now[0] += 4
        killed.row(row)
    tracker = ListTracker(tmp_path)
    tracker.begin(rows(3))
    assert killed.opened == tracker.opened
    assert [step for step, _ in tracker.sent] == [2, 3]


def test_a_run_that_never_had_a_tracker_is_caught_up_with(tmp_path: Path) -> None:
    tracker = ListTracker(tmp_path)
    tracker.begin(rows(3))
    tracker.evaluations(EVALUATIONS[:2])
    assert [step for step, _ in tracker.sent] == [1, 2, 3, 0, 2]


def test_a_tracker_that_fails_ends_no_run_but_is_not_begun_without(tmp_path: Path) -> None:
    failing = ListTracker(tmp_path / "late", fails=["log"])
    with pytest.warns(UserWarning, match=r"nothing more goes to json \(OSError: no network\)"):
        make_trainer(observers=[failing]).run()
    assert failing.sent == []
    closed = ListTracker(tmp_path / "early", fails=["open"])
    with pytest.raises(ComponentError, match=r"the tracker .*ListTracker raised OSError: no net"):
        make_trainer(observers=[closed]).run()


def test_an_end_by_an_error_is_told(tmp_path: Path) -> None:
    fine, ended = ListTracker(tmp_path / "fine"), ListTracker(tmp_path / "ended")
    make_trainer(observers=[fine]).run()

    class Stopping(ListTracker):
        def row(self, metrics: Any) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_trainer(observers=[ended, Stopping(tmp_path / "stopping")]).run()
    assert (fine.failed, ended.failed) == ([False], [True])


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    tracker = ListTracker(tmp_path)
    tracker.record.write_text('{"id": 3}')
    with pytest.raises(DamagedError, match=r"json\.json.*remove it to go on in a new run"):
        tracker.begin(())


def test_what_is_missing_is_told_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert list(tracker_faults(WandbSettings(), TrackioSettings())) == [
        ((each,), f'is given, and {each} is not installed; run: pip install "flowbp-align[{each}]"')
        for each in ("wandb", "trackio")
    ]
    assert list(tracker_faults(None, None)) == []
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "flowbp-align\[trackio\]"'):
        Trackio(TrackioSettings(), Path("unused"), {})


@pytest.mark.parametrize("kind", [WandbSettings, TrackioSettings])
def test_an_empty_name_is_refused(kind: Any) -> None:
    with pytest.raises(ValueError, match="`project` must not be empty"):
        kind(project=" ")


def test_trackio_shows_a_run_as_one_however_often_it_stopped(tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason="the extra `trackio` is not installed")
    from trackio.sqlite_storage import SQLiteStorage

    settings = TrackioSettings(project=f"test-{tmp_path.name}", run="mine")
    for before, steps in ((0, 3), (2, 4)):
        tracker = Trackio(settings, tmp_path, CONFIGURATION)
        drive(tracker, steps, before=before)
        tracker.close()
    (name,) = SQLiteStorage.get_runs(settings.project)
    assert name.startswith("mine-")
    logs = SQLiteStorage.get_logs(settings.project, name)
    found = [(each["step"], each["train/reward"]) for each in logs if "train/reward" in each]
    assert sorted(found) == [(row.step, row.reward) for row in rows(4)]
    assert {each["evaluation/reward"] for each in logs if "evaluation/reward" in each} == {
        each.means["reward"] for each in EVALUATIONS
    }
    pictures = [each["samples/2"] for each in logs if "samples/2" in each]
    assert [each["caption"] for each in pictures] == ["green", "green"]
    assert SQLiteStorage.get_run_config(settings.project, name)["training"] == {"steps": 4}


def records(path: Path) -> Iterator[Any]:
    """What wandb has written to be sent: records in a log of 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        # Whole, or the last part of one.
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def finished(path: Path) -> list[Any]:
    """All records, once another process of wandb has written the last one."""
    for _ in range(600):
        found = list(records(path))
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        time.sleep(0.05)
    raise AssertionError(f"{path} has no end")


def test_wandb_keeps_a_run_as_one_to_be_sent_later(tmp_path, monkeypatch) -> None:
    pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = WandbSettings(project="mine", mode="offline")
    for before, steps in ((0, 3), (2, 4)):
        tracker = Wandb(settings, tmp_path, CONFIGURATION)
        drive(tracker, steps, before=before)
        tracker.close()
    found = [
        record
        for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
        for record in finished(path)
    ]
    runs = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert {(run.project, run.display_name) for run in runs} == {("mine", tmp_path.name)}
    assert {run.run_id for run in runs} == {json.loads((tmp_path / "wandb.json").read_text())["id"]}
    configured = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert configured["training"] == {"steps": 4}
    history = [
        {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
        for record in found
        if record.WhichOneof("record_type") == "history"
    ]
    rewards = [
        (json.loads(each["step"]), json.loads(each["train/reward"]))
        for each in history
        if "train/reward" in each
    ]
    assert rewards == [(row.step, row.reward) for row in rows(4)]
    assert sum("samples" in each for each in history) == 2
    assert sum("evaluations" in each for each in history) == len(EVALUATIONS)
    assert all(r.exit.exit_code == 0 for r in found if r.WhichOneof("record_type") == "exit")


def test_wandb_asks_for_a_login_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="the extra `wandb` is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(wandb, "login", lambda *, prompt, verify: False)
    ((path, message),) = tracker_faults(WandbSettings(), None)
    assert path == ("wandb", "mode") and "wandb login" in message
    assert list(tracker_faults(WandbSettings(mode="offline"), None)) == []
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert list(tracker_faults(WandbSettings(), None)) == []

"""Timings are of all sessions of a run, also of those that were stopped."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from flowbp.cli.timings import TIMINGS, Timings, read_timings
from flowbp.config import DamagedError, sealed
from flowbp.run import main

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

EVALUATED = "evaluation.prompts={name: shapes, count: 2}"


def shown(page: str) -> dict[str, float]:
    """The seconds of a report by phase."""
    section = page.split("<h2>Timings</h2>")[1].split("</section>")[0]
    rows = re.findall(r"<dt>(.+?)</dt><dd>([\d.e-]+) s</dd>", section)
    return {name: float(seconds) for name, seconds in rows}


def test_a_resumed_run_reports_the_sums_of_all_sessions(yaml, tmp_path, capsys):
    run = tmp_path / "run"
    assert main([yaml, EVALUATED]) == 0
    (first,) = read_timings(run)
    assert "Sums over" not in (run / "report.html").read_text()
    # Sessions before this one took longer than this one can.
    first = {phase: 10 + seconds for phase, seconds in first.items()}
    (run / TIMINGS).write_text(sealed({"sessions": [first, {"train": 5.0}]}))
    capsys.readouterr()
    assert main([yaml, EVALUATED, "training.steps=4", "--resume"]) == 0
    sessions = read_timings(run)
    assert sessions[:2] == (first, {"train": 5.0}) and len(sessions) == 3
    page = (run / "report.html").read_text()
    assert "Sums over 3 sessions." in page
    sums = shown(page)
    train = first["train"] + 5.0 + sessions[2]["train"]
    assert sums["train"] == pytest.approx(train, rel=1e-2)
    total = sum(sum(session.values()) for session in sessions)
    last = capsys.readouterr().out.strip().splitlines()[-1]
    told, words = last.split(" s in 3 sessions: ")
    assert float(told) == pytest.approx(total, abs=0.06)
    assert f"train {train:.1f} s" in words and "write " in words


STOPPING = """
class Stopping:
    def __init__(self, folder, steps):
        self.tried = folder.name != "run"
    def row(self, metrics):
        if not self.tried:
            raise KeyboardInterrupt
    def pictures(self, step, images, prompts):
        pass
    def close(self):
        pass
"""


def test_a_session_that_is_interrupted_counts(yaml, tmp_path, monkeypatch):
    (tmp_path / "stopping_observer.py").write_text(STOPPING)
    monkeypatch.syspath_prepend(tmp_path)
    assert main([yaml, "observers.others=[{name: 'stopping_observer:Stopping'}]"]) == 130
    (session,) = read_timings(tmp_path / "run")
    assert session["train"] > 0 and "evaluate after" not in session


def test_of_a_session_that_is_killed_the_last_beat_is_known(tmp_path):
    timings = Timings(period=0.01)
    timings.keep_in(tmp_path)
    assert read_timings(tmp_path) == ({},)
    with timings.phase("train"):
        deadline = time.monotonic() + 30
        while not read_timings(tmp_path)[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert read_timings(tmp_path)[0]["train"] > 0
    (session,) = read_timings(tmp_path)
    assert session == timings.sums
    assert not [thread for thread in threading.enumerate() if "_beat" in thread.name]


def test_a_phase_that_comes_twice_is_added_up(tmp_path):
    times = iter([0.0, 1.0, 10.0, 12.0])
    timings = Timings(clock=lambda: next(times), period=60)
    for _ in range(2):
        with timings.phase("train"):
            pass
    assert timings.sums == {"train": 3.0} and str(timings) == "3.0 s: train 3.0 s"


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"sessions": []}',
        sealed({"sessions": 3}).encode(),
        sealed({"sessions": ["train"]}).encode(),
        sealed({"sessions": [{"train": None}]}).encode(),
        sealed({"sessions": [{"train": float("inf")}]}).encode(),
        sealed({"sessions": [{"train": -1}]}).encode(),
        sealed({"sessions": [{"train": True}]}).encode(),
    ],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content):
    (tmp_path / TIMINGS).write_bytes(content)
    with pytest.raises(DamagedError, match=f"{TIMINGS} .*; remove it"):
        read_timings(tmp_path)


def test_a_run_with_damaged_timings_is_refused_before_it_goes_on(yaml, tmp_path, capsys):
    assert main([yaml]) == 0
    run = tmp_path / "run"
    (run / TIMINGS).write_text("{")
    capsys.readouterr()
    assert main([yaml, "training.steps=3", "--resume"]) == 2
    told = capsys.readouterr().err
    assert "run.folder: " in told and TIMINGS in told and "Traceback" not in told
    (run / TIMINGS).unlink()
    assert main([yaml, "training.steps=3", "--resume"]) == 0


def test_sessions_are_summed_and_kept(tmp_path):
    times = iter([0.0, 2.5, 10.0, 11.0])
    timings = Timings(clock=lambda: next(times))
    with timings.phase("load"):
        pass
    timings.keep_in(tmp_path, earlier=[{"load": 1.5, "train": 60.0}])
    with timings.phase("train"):
        pass
    assert timings.sums == {"load": 4.0, "train": 61.0} and timings.sessions == 2
    assert read_timings(tmp_path) == ({"load": 1.5, "train": 60.0}, {"load": 2.5, "train": 1.0})
    assert read_timings(Path("nowhere")) == ()


def test_what_a_phase_does_is_said_with_the_time_since_the_start(capsys):
    times = iter([100.0, 170.0, 175.2, 180.0, 181.0, 182.0])
    timings = Timings(clock=lambda: next(times))
    with timings.phase("load", "loading the model"):
        pass
    with timings.phase("train", "training"):
        pass
    with timings.phase("write"):
        pass
    assert capsys.readouterr().err == "0:00:00  loading the model\n0:01:15  training\n"

"""A command ends with one line and its exit code, at whatever moment it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import pytest

from flowbp.cli.signals import interruptible
from flowbp.cli.start import INTERRUPTED, guarded
from flowbp.rank_errors import RankEndedError
from flowbp.run import main

EVALUATION = """
evaluation: {{folder: {folder}, device: cpu, threads: 1}}
backbone: {{name: shapes}}
prompts: {{name: shapes, count: 5000}}
sampling: {{steps: 25, height: 32, width: 32}}
"""
INT, TERM = signal.SIGINT, signal.SIGTERM
# Both signals have one handler. Each process imports its libraries anew, for seconds.
EARLY = [
    *(("flowbp.run", *each) for each in ((0, INT), (0, TERM), (0.2, TERM), (0.6, INT), (2, TERM))),
    *(("flowbp.evaluate", *each) for each in ((0, TERM), (0.6, INT))),
]


def minds_signals(process: int) -> bool:
    """Whether the process has a handler for SIGTERM, which the interpreter itself has not."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    caught = next(int(line.split()[1], 16) for line in lines if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
@pytest.mark.parametrize(("module", "moment", "number"), EARLY)
def test_an_early_interrupt_is_one_line(yaml, tmp_path, module, moment, number):
    typed = [yaml, "training.steps=1000000"]
    if module == "flowbp.evaluate":
        typed = [str(tmp_path / "evaluation.yaml")]
        Path(typed[0]).write_text(EVALUATION.format(folder=tmp_path / "out"))
    process = subprocess.Popen(
        [sys.executable, "-m", module, *typed],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    while process.poll() is None and not minds_signals(process.pid):
        time.sleep(0.001)
    time.sleep(moment)
    assert process.poll() is None
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    lines = said.splitlines()
    assert process.returncode == INTERRUPTED, said
    assert "Traceback" not in said and "ignored" not in said
    assert sum("interrupted" in line for line in lines) == 1 and "interrupted" in lines[-1]
    if moment == 0:
        assert len(lines) == 1


def test_an_interrupt_in_someone_s_own_process_is_a_code(capsys):
    def interrupted():
        os.kill(os.getpid(), signal.SIGINT)
        return 0

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert guarded(interrupted, process=False) == INTERRUPTED
    assert capsys.readouterr().err.splitlines() == ["interrupted; nothing was done"]
    assert main(["no-such-file.yaml"]) == 2
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_within_a_callback_is_not_lost(number, capsys):
    class Thing:
        pass

    with pytest.raises(KeyboardInterrupt), interruptible():
        thing = Thing()
        _ = weakref.ref(thing, lambda _: os.kill(os.getpid(), number))
        del thing
        time.sleep(30)
    assert not capsys.readouterr().err


def test_an_interrupt_that_is_sent_again_too_early_is_not_lost(monkeypatch):
    class Thing:
        pass

    start, slow = threading.Timer.start, [True]

    def late(timer):
        start(timer)
        if slow.pop():
            slow.append(False)
            time.sleep(0.1)

    monkeypatch.setattr(threading.Timer, "start", late)
    with pytest.raises(KeyboardInterrupt), interruptible():
        thing = Thing()
        _ = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del thing
        time.sleep(30)


def test_an_interrupt_that_a_library_makes_an_error_of_is_one():
    with pytest.raises(KeyboardInterrupt) as raised, interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            error = OSError("unable to load weights")
            error.add_note("step 3 is saved")
            raise error from None
    assert isinstance(raised.value.__cause__, OSError)
    assert raised.value.__notes__ == ["step 3 is saved"]


def test_an_error_without_a_signal_stays_an_error():
    with pytest.raises(OSError, match="unable"), interruptible():
        raise OSError("unable to load weights")


def test_the_end_of_another_process_stays_that_after_a_launcher_s_signal():
    with pytest.raises(RankEndedError, match="rank 1 failed"), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt as stop:
            raise RankEndedError("rank 1 failed") from stop

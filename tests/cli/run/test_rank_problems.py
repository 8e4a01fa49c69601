"""What is wrong on one of several processes is found before any of them does anything."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from flowbp import evaluate
from flowbp.cli.run.execution import execute
from flowbp.cli.run.other_ranks import follow
from flowbp.settings import RunContainer, load
from flowbp.study import __main__ as study
from flowbp.training import LaunchError, Ranks

from .test_several_processes import ALONE, typed

SLOW = """
import os, time
if os.environ.get("RANK") == "1":
    time.sleep(3)

def brightness(images, prompts):
    return images.mean((1, 2, 3))
"""
WRONG = """
import os
if os.environ.get("RANK") == "1":
    raise ImportError("not on this machine")

def brightness(images, prompts):
    return images.mean((1, 2, 3))
"""


def arguments(folder: Path, module: str, text: str) -> list[str]:
    (folder / f"{module}.py").write_text(text)
    reward = f"reward={{name: '{module}:brightness'}}"
    return typed(folder, reward, "batching.samples=2", "training.steps=1", also=ALONE)


def test_the_first_writes_once_all_have_checked(together, tmp_path: Path) -> None:
    slow = arguments(tmp_path, "slow_here", SLOW)
    together.start(2, "flowbp", typed=slow, path=[str(tmp_path)])
    ended = together.finish()
    assert ended.codes == [0, 0], "\n".join(ended.told)


def test_a_problem_of_one_is_reported_by_the_first(together, tmp_path: Path) -> None:
    wrong = [*arguments(tmp_path, "wrong_here", WRONG), "training.steps=0"]
    together.start(2, "flowbp", typed=wrong, path=[str(tmp_path)])
    ended = together.finish()
    assert ended.codes == [2, 2] and ended.told[1] == "", "\n".join(ended.told)
    told = ended.told[0].splitlines()
    assert told[0] == "2 problems in the configuration:"
    (of_one,) = (line for line in told if "not on this machine" in line and "reward" in line)
    assert of_one.endswith("(on rank 1)")
    assert sum("training.steps" in line for line in told) == 1
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_in_several_processes_is_refused(
    yaml, tmp_path, monkeypatch, capsys
) -> None:
    container = RunContainer(settings=load([yaml]).settings)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=r"WORLD_SIZE is 2, .*with joined\(Launch.of"):
        execute(container)
    for main in (evaluate.main, study.main):
        assert main([yaml]) == 2
        assert "is the work of one process" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("main", [evaluate.main, study.main])
def test_such_a_refusal_is_printed_once(yaml, monkeypatch, capsys, main) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("flowbp.cli.command._MOMENT", 0.0)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main([yaml]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == ""


class Reached(Exception):
    """It has come to where the others are met."""


class Second(Ranks):
    rank, size = 1, 2

    def exchange(self, value):
        raise Reached


def test_what_python_replaces_is_not_checked_by_the_others(yaml) -> None:
    settings = load([yaml, "reward.source=/no/reward"]).settings
    container = RunContainer(settings=settings, ranks=Second())
    container.reward.override(lambda images, prompts: images.mean((1, 2, 3)))
    with pytest.raises(Reached):
        follow(container)

"""Runs that are killed again and again end as one that never was, bit for bit."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from flowbp.config.sealed_files import SEAL

from ...killing import Processes

TYPED = [
    "training.steps=5",
    "schedule={name: cosine, warmup: 1}",
    "evaluation.prompts={name: shapes, count: 2}",
    "samples={every: 2, count: 2}",
    "checkpoints={every: 2, keep: 2, best: reward}",
]
VARIANTS = {
    "plain": ["method={name: draft_lv}"],
    "averaged": ["training.averaging={decay: 0.9, warmup: true}", "batching.accumulate=2"],
}
MOST_KILLS = 3


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    started = Processes(tmp_path_factory.mktemp("processes"))
    yield started
    started.close()


def without_seconds(tree):
    if isinstance(tree, dict):
        # The digest of a file's content holds its seconds too.
        kept = tree.keys() - {"seconds", SEAL}
        return {name: without_seconds(tree[name]) for name in tree if name in kept}
    return [without_seconds(item) for item in tree] if isinstance(tree, list) else tree


def result(run: Path) -> dict[str, object]:
    """All that a run leaves and that does not depend on the clock or the folder's name."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found: dict[str, object] = {"metrics": [without_seconds(json.loads(line)) for line in lines]}
    for name in ("before.json", "comparison.json"):
        found[name] = without_seconds(json.loads((run / name).read_text()))
    pictures = [*run.glob("samples/*"), *run.glob("*.png"), run / "before.safetensors"]
    # The state beside the model has the rows, with their seconds.
    state = ("state.json", "manifest.json")
    saved = [p for p in run.glob("checkpoints/**/*") if p.is_file() and p.name not in state]
    for path in (*pictures, *saved):
        found[str(path.relative_to(run))] = path.read_bytes()
    return found


def assert_same(run: Path, whole: Path, result: Callable[[Path], Mapping[str, Any]]) -> None:
    one, other = result(run), result(whole)
    assert one.keys() == other.keys()
    differing = [name for name in one if one[name] != other[name]]
    assert not differing
    assert not list(run.rglob("*.flowbp-*"))


def killed_until_done(processes: Processes, typed: list[str], run: Path, moments) -> int:
    """Kill a run at these moments, resuming it each time; returns how often it was killed."""
    for kills in range(MOST_KILLS + 1):
        resume = ["--resume"] if (run / "configuration.yaml").exists() else []
        moment = next(moments) if kills < MOST_KILLS else {}
        ended = processes.run(*typed, f"run.folder={run}", *resume, **moment)
        if ended.code == 0:
            return kills
        assert ended.code == -9, ended.told
    raise AssertionError("the run never ended")


def in_time(source: random.Random, whole: float):
    while True:
        yield {"kill_after": source.uniform(0.05, 0.6 * whole)}


def in_disk_calls(source: random.Random, whole: float):
    while True:
        yield {"disk_calls": source.randint(1, 120)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_kills_change_nothing(processes, yaml, tmp_path, variant):
    typed, kills = [yaml, *TYPED, *VARIANTS[variant]], 0
    whole = processes.run(*typed, f"run.folder={tmp_path / 'whole'}")
    assert whole.code == 0, whole.told
    for moments in (in_time, in_disk_calls):
        run = tmp_path / moments.__name__
        drawn = moments(random.Random(variant), whole.seconds)
        kills += killed_until_done(processes, typed, run, drawn)
        assert_same(run, tmp_path / "whole", result)
    # How many kills in time there are depends on the machine's load; those in disk calls do not.
    assert kills >= 3

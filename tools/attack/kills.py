"""Runs that are killed again and again, and resumed, end as those that never were."""

from __future__ import annotations

import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from tools.attack.forks import Ended, Tried
from tools.attack.scene import Scene, outcome, run

MOST = 6
"""Kills of one run; then it is left to end."""

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)
_SAVED = re.compile(r"(?:step|best|interrupted|stopped)-(\d+)")
_NOT_OF_A_WHOLE_RUN = re.compile(r"checkpoints/(?:interrupted|stopped)-")


def drawn(source: random.Random) -> list[str]:
    """Draw what is typed of a short run."""
    every, steps = source.choice([None, 1, 2, 3]), source.randint(2, 7)
    typed = [f"training.steps={steps}", f"run.seed={source.randint(0, 99)}"]
    if every:
        keep = source.choice(["null", "1", "2", "3"])
        best = source.choice(["null", "reward", "loss"]) if keep != "null" else "null"
        typed.append(f"checkpoints={{every: {every}, keep: {keep}, best: {best}}}")
    if source.random() < 0.6:
        inside = source.choice(["null", "1", "2"])
        typed.append(f"evaluation={{prompts: {{name: shapes, count: 2}}, every: {inside}}}")
        if inside != "null" and source.random() < 0.5:
            patience = source.randint(1, 2)
            typed.append(f"early_stop={{metric: reward, patience: {patience}}}")
    choices = [
        "training.averaging={decay: 0.5, warmup: true}",
        "tuning={name: lora, rank: 2, alpha: 4}",
        "anchor={strength: 0.1}",
        "batching.accumulate=2",
        "samples={every: 2, count: 2}",
        "observers={tensorboard: true}",
        "schedule={name: cosine, warmup: 1}",
        "method={name: draft_lv}",
        "method={name: leap_align}",
        "optimizer.learning_rate=0.02",
    ]
    kinds: dict[str, str] = {}
    for choice in source.sample(choices, source.randint(0, 4)):
        kinds.setdefault(choice.partition("=")[0], choice)
    return [*typed, *kinds.values()]


def attack(scene: Scene, seed: str, number: int, folder: Path) -> Tried:
    """Draw a run, have it end undisturbed, then kill another one of it a few times."""
    source = random.Random(f"kills {seed} {number}")
    typed = [scene.run_yaml, *drawn(source)]
    words, log = " ".join(typed[1:]), folder / "log"
    whole = run([*typed, f"run.folder={folder / 'whole'}"], log)
    if whole.code == 2 and whole.fault is None:
        return Tried(number, words, "not a run")
    if whole.code != 0 or whole.fault:
        return Tried(number, words, whole.fault or "stopped", wrong=True, said=whole.said[-2000:])
    kills, place, numbers = 0, folder / "killed", set[int]()
    for _ in range(source.randint(1, MOST)):
        signals = _signals(source, whole.seconds)
        ended, fault = _process(typed, place, log, signals)
        words += "; " + ", ".join(f"{signal.Signals(n).name} at {at:.3f}" for at, n in signals)
        if fault:
            return Tried(number, words, fault, True, kills, ended.said[-2000:])
        if ended.code == 0:
            break
        kills += 1
        numbers |= {n for _, n in signals}
    else:
        ended, fault = _process(typed, place, log, [])
        if fault or ended.code != 0:
            return Tried(number, words, fault or "stopped", True, kills, ended.said[-2000:])
    differing = _differing(outcome(place), outcome(folder / "whole"), numbers <= {signal.SIGKILL})
    if differing:
        said = f"{len(differing)} files differ: {', '.join(differing[:9])}"
        return Tried(number, words, "another result", True, kills, said)
    shutil.rmtree(place)
    return Tried(number, words, "same", kills=kills)


def _signals(source: random.Random, seconds: float) -> list[tuple[float, int]]:
    # Later than its own handlers, which are there within microseconds.
    moment = source.uniform(0.002, 1.1 * seconds)
    number = source.choice([signal.SIGKILL, *_INTERRUPTS])
    found = [(moment, int(number))]
    if number != signal.SIGKILL and source.random() < 0.3:
        # Someone who does not wait.
        found.append((moment + source.uniform(0, 0.1), int(source.choice(_INTERRUPTS))))
    return found


def _process(
    typed: list[str], place: Path, log: Path, signals: list[tuple[float, int]]
) -> tuple[Ended, str | None]:
    """Begin or resume a run, and say what is wrong with how it ended."""
    before = _newest(place)
    resume = ["--resume"] if (place / "configuration.yaml").exists() else []
    ended = run([*typed, f"run.folder={place}", *resume], log, signals=signals)
    said = [line for line in ended.said.splitlines() if "interrupted" in line]
    resumed = re.search(r"resuming after step (\d+)", ended.said)
    allowed = {0, *(130 if number in _INTERRUPTS else -number for _, number in signals)}
    fault = ended.fault
    if fault is None and ended.code == 2 and "is finished" in ended.said and resume:
        # It was killed after its last word.
        return Ended(0, ended.said, ended.seconds, False), None
    if fault is None and ended.code not in allowed:
        fault = f"exit code {ended.code}"
    if fault is None and ended.code == 130 and not said:
        fault = "interrupted without a word"
    if fault is None and resumed and int(resumed[1]) < before:
        fault = f"lost: resumed after step {resumed[1]}, and {before} was saved"
    return ended, fault


def _newest(place: Path) -> int:
    names = [path.name for path in (place / "checkpoints").glob("*")]
    return max((int(m[1]) for name in names if (m := _SAVED.fullmatch(name))), default=0)


def _differing(one: dict[str, Any], other: dict[str, Any], kills_only: bool) -> list[str]:
    """The files that differ; after an interrupt another checkpoint counts among those to keep."""
    one = {name: item for name, item in one.items() if not _NOT_OF_A_WHOLE_RUN.match(name)}
    names = one.keys() | other.keys()
    if not kills_only:
        names = {n for n in names if (n in one and n in other) or not _kept_for_a_while(n)}
    leftover = [name for name in one if ".flowbp-" in name]
    return sorted({n for n in names if one.get(n) != other.get(n)} | {*leftover})


def _kept_for_a_while(name: str) -> bool:
    return name.startswith("checkpoints/") and not name.startswith("checkpoints/final")

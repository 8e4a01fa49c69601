"""Runs of two processes of which one or all are killed end as one that never was, bit for bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowbp.settings.folder import FINISHED
from flowbp.training.checkpoint import model_damage
from flowbp.training.sharded_state import SHARDS, read_shards

from ...killing import is_alive
from ...training.processes import Together, torchrun
from .test_resume_after_kill import assert_same, without_seconds

KILLS = int(os.environ.get("FLOWBP_KILLS", "2"))
"""Of each variant, of which 50 take some minutes."""

SHORT = [
    "training.steps=4",
    "schedule={name: cosine, warmup: 1}",
    "training.averaging={decay: 0.9, warmup: true}",
    "evaluation={prompts: {name: shapes, count: 3}, batch: 1, every: 2}",
    "samples={every: 2, count: 3}",
    "checkpoints={every: 2}",
    "batching={samples: 1, global: 4}",
]
VARIANTS = {
    "replicated": ["distributed.shard=1"],
    "sharded": ["distributed.shard=2"],
}
MOST_KILLS = 6
"""Of one run; then it is left to end."""

WHO = ((0,), (1,), (0, 1))

Sources = Iterator[random.Random]
Start = Callable[[list[str], random.Random | None], "Tried"]


def result(run: Path) -> dict[str, Any]:
    """All that a run leaves and that does not depend on the clock or the folder's name."""
    found: dict[str, Any] = {}
    for name in ("metrics.jsonl", "evaluations.jsonl"):
        lines = (run / name).read_text().splitlines()
        found[name] = [without_seconds(json.loads(line)) for line in lines]
    for name in ("before.json", "comparison.json"):
        found[name] = without_seconds(json.loads((run / name).read_text()))
    saved = [path for kind in ("step-*", "final") for path in run.glob(f"checkpoints/{kind}/**/*")]
    for path in (*run.glob("samples/*"), *run.glob("*.png"), run / "before.safetensors", *saved):
        name = str(path.relative_to(run))
        if path.name == "state.json":
            found[name] = without_seconds(json.loads(path.read_text()))
        elif path.name == SHARDS:
            # How torch pickles their index is its own affair.
            found[name] = {n: each.numpy().tobytes() for n, each in read_shards(path, None).items()}
        elif path.is_file() and path.name != "manifest.json" and path.parent.name != SHARDS:
            found[name] = path.read_bytes()
    return found


def typed(yaml: str, variant: str, run: Path) -> list[str]:
    own = [f"run.folder={run}", f"embeddings.folder={run}-embeddings"]
    return [yaml, *SHORT, *VARIANTS[variant], *own]


def send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        if is_alive(process):
            os.kill(process, number)


@attrs.frozen
class Tried:
    """How the processes of a run ended; which of them were killed, and when, in words."""

    codes: list[int]
    said: str
    drawn: str = "none of them"


def forked(
    together: Together, arguments: list[str], source: random.Random | None, seconds: float
) -> Tried:
    """Start two processes and kill one of them, or both, some time; none without a source."""
    if source is None:
        together.start(2, "flowbp", typed=arguments)
        ended = together.finish()
        return Tried(ended.codes, "\n".join(ended.told))
    killed = source.choice(WHO)
    if source.random() < 0.5:
        moment = source.uniform(0.02, seconds)
        processes = together.start(2, "flowbp", typed=arguments)
        time.sleep(moment)
        send(signal.SIGKILL, [processes[rank] for rank in killed])
        drawn = f"{killed} after {moment:.3f} s"
        if source.random() < 0.5:
            # What torchrun sends to those that are left, as soon as it has looked.
            time.sleep(source.uniform(0, 0.1))
            send(signal.SIGTERM, [processes[rank] for rank in (0, 1) if rank not in killed])
            drawn += ", and SIGTERM to the other"
    else:
        # The first writes most, and saves at a time.
        calls = {str(rank): source.randint(1, (150, 20)[rank]) for rank in killed}
        together.start(2, "flowbp", typed=arguments, disk_calls=calls)
        drawn = f"in disk calls {calls}"
    ended = together.finish()
    return Tried(ended.codes, "\n".join(ended.told), drawn)


def launched(arguments: list[str], source: random.Random | None, seconds: float) -> Tried:
    """The same under torchrun itself, which starts them in some seconds."""
    if source is None:
        code, printed, errors = torchrun("flowbp.run", arguments)
        return Tried([code], printed + errors)
    killed, moment = source.choice(WHO), source.uniform(0.2 * seconds, seconds)
    code, printed, errors = torchrun("flowbp.run", arguments, kill=(killed, moment))
    # torchrun's own code says no more than that one has failed.
    code = -signal.SIGKILL if "(SIGKILL)" in errors else code
    return Tried([code], printed + errors, f"{killed} after {moment:.3f} s")


def killed_until_done(start: Start, arguments: list[str], run: Path, sources: Sources) -> list[str]:
    """Kill a run and resume it, once for each source, and then let it end; returns the kills."""
    kills: list[str] = []
    while True:
        resume = ["--resume"] if (run / "configuration.yaml").exists() else []
        tried = start([*arguments, *resume], next(sources, None))
        said = f"killed {tried.drawn}, after {kills}\n{tried.said}"
        for checkpoint in (run / "checkpoints").glob("[!.]*"):
            assert model_damage(checkpoint, state=True) is None, said
        if -signal.SIGKILL in tried.codes:
            kills.append(tried.drawn)
            # One that got a signal before it had joined knows of no other.
            alone = {130} if "interrupted; nothing was done" in tried.said else set()
            if "SIGTERM" in tried.drawn:
                # Or even before Python had begun to listen to signals.
                alone.add(-signal.SIGTERM)
            assert set(tried.codes) <= {-signal.SIGKILL, 0, 1, *alone}, said
        else:
            assert set(tried.codes) == {0}, said
        if (run / FINISHED).exists():
            return kills


def kill_and_compare(
    start: Callable[..., Tried], yaml: str, folder: Path, variant: str, wanted: int
) -> None:
    """Kill so often, over as many runs as that takes, and compare each with one left alone."""
    whole, kills, number = folder / "whole", list[str](), 0
    began = time.monotonic()
    tried = start(typed(yaml, variant, whole), None, 0)
    seconds = time.monotonic() - began
    assert set(tried.codes) == {0}, tried.said
    while len(kills) < wanted:
        number += 1
        assert number <= wanted + 3, "hardly any of the runs was killed"
        run, source = folder / str(number), random.Random(f"{variant} {number}")
        sources = repeat(source, min(wanted - len(kills), MOST_KILLS))
        own = partial(start, seconds=seconds)
        kills += killed_until_done(own, typed(yaml, variant, run), run, iter(sources))
        assert_same(run, whole, result)
    print(f"{variant}: {len(kills)} kills in {number} runs:", *kills, sep="\n  ")


@pytest.mark.parametrize("variant", VARIANTS)
def test_kills_change_nothing(together, yaml, tmp_path: Path, variant: str) -> None:
    kill_and_compare(partial(forked, together), yaml, tmp_path, variant, KILLS)


@pytest.mark.skipif(KILLS < 10, reason="FLOWBP_KILLS is not set: torchrun takes seconds to start")
@pytest.mark.parametrize("variant", VARIANTS)
def test_nor_do_they_under_torchrun(yaml, tmp_path: Path, variant: str) -> None:
    kill_and_compare(launched, yaml, tmp_path, variant, KILLS // 10)

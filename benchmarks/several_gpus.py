"""Training steps at full size on several GPUs of one machine: seconds, memory, and where time goes.

    torchrun --nproc-per-node 2 -m benchmarks.several_gpus OUT.jsonl --case sd35 sd35_kept
    python -m benchmarks.several_gpus OUT.jsonl --case sd35 ... [--same-global 2]
                                      [--steps 6] [--no-profile] [--eager] [--tiny]
                                      [--set dotted.key=value ...]
    python -m benchmarks.several_gpus OUT.jsonl

The weights are random; the step is that of the shipped presets under Bridge, with pictures of the
size and as many samples on each GPU as the case says. The last step is profiled on the first
process. OUT gets a line of JSON for each case; without one they are shown as a table, in
which weak scaling is the time of one GPU over that of several with as many samples on each.

`--same-global N` gives a step the batch of N GPUs, on one of them say; the table compares rewards.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import torch

from benchmarks.backbones import Bench, predicted
from benchmarks.gpu_time import Profiled
from benchmarks.measurement import GIB, Recorder, clear, peak_gib
from benchmarks.several_gpus_table import Row, append, rows_of, table
from flowbp.adapters.sharding import shard
from flowbp.cli.run.check import division_of
from flowbp.cli.run.predicted_memory import memory_bytes
from flowbp.cli.run.rank_output import speaking_once
from flowbp.settings import Settings
from flowbp.training import Launch, Metrics, Ranks, joined
from flowbp.training.division import Division, Needs
from flowbp.training.restore import refuse_differing_models

_BEGUN = time.perf_counter()


@attrs.frozen(kw_only=True)
class Case:
    """A preset with so many samples on each GPU, and how its model is divided."""

    model: str
    samples: int
    changed: Sequence[str] = ()
    side: int = 512
    # How so many processes have the model; None is what a run chooses.
    division: Callable[[int], Division] | None = None


def _portions(pull: int, decode: int) -> tuple[str, ...]:
    """The same on one GPU and on several, and nothing is tried."""
    sizes = f"batching.pull={pull}", f"batching.decode={decode}"
    return (*sizes, "backbone.gradient_checkpointing=false")


_SD35 = Case(model="sd35_medium", samples=8, changed=_portions(8, 4))
_FULL = "tuning={name: full}", "backbone.policy={weights: float32, compute: bfloat16}"
_FLUX1 = Case(model="flux1_dev", samples=4, changed=_portions(4, 4))
_FLUX2 = Case(model="flux2_klein", samples=4, changed=_FULL)
CASES = {
    "sd35": attrs.evolve(_SD35, division=lambda _: Division()),
    "sd35_kept": attrs.evolve(_SD35, division=Division),
    "sd35_by_block": attrs.evolve(_SD35, division=lambda size: Division(size, keep=False)),
    "sd35_shard2": attrs.evolve(_SD35, division=lambda _: Division(2)),
    "sd35_shard4": attrs.evolve(_SD35, division=lambda _: Division(4)),
    "flux1_lora": attrs.evolve(_FLUX1, division=lambda _: Division()),
    "flux1_full": attrs.evolve(_FLUX1, samples=8, changed=(*_FULL, *_portions(4, 4))),
    "flux1_full_1024": attrs.evolve(_FLUX1, side=1024, changed=(*_FULL, *_portions(1, 1))),
    "flux2_full": _FLUX2,
    "flux2_full_pull4": attrs.evolve(_FLUX2, changed=(*_FLUX2.changed, *_portions(4, 4))),
}


OF_THE_CASE = (
    "batching.samples",
    "batching.global",
    "training.steps",
    "sampling.height",
    "sampling.width",
)
"""What a case or its options set."""


def say(text: str) -> None:
    print(f"[{time.perf_counter() - _BEGUN:6.1f} s] {text}", flush=True)


class Steps(Recorder):
    """Prints every step, and profiles the last one if asked to."""

    def __init__(self, steps: int, device: torch.device, profile: bool) -> None:
        super().__init__()
        self.steps = steps
        self.profiled = Profiled(device) if profile and steps > 1 else None

    def row(self, metrics: Metrics) -> None:
        super().row(metrics)
        if self.profiled is not None and metrics.step == self.steps:
            self.profiled.stop()
        say(
            f"step {metrics.step}: {metrics.seconds:.2f} s, reward {metrics.reward:.6f}, "
            f"loss {metrics.loss:.6f}, gradient {metrics.gradient_norm:.4g}"
        )
        if self.profiled is not None and metrics.step == self.steps - 1:
            self.profiled.start()


def divide(bench: Bench, case: Case, settings: Settings, ranks: Ranks) -> tuple[Division, Needs]:
    """Divide a model as the case says or as a run would; and what it needs."""
    chosen, needs = division_of(settings, bench.tuned, settings.optimizer)
    if case.division is not None:
        chosen = case.division(ranks.size)
    if chosen.shard > 1:
        network = bench.tuned.module
        refuse_differing_models(network, ranks)
        shard(network, ranks.mesh(chosen.shard, bench.device), keep=chosen.keep)
    return chosen, needs


def foreseen(
    settings: Settings,
    model: str,
    typed: argparse.Namespace,
    found: tuple[Division, Needs],
    processes: int,
) -> tuple[float | None, str]:
    """The GiB of the peak as `--check` predicts them, and in words; measuring goes on without."""
    try:
        peak = predicted(
            settings,
            model,
            found,
            processes=processes,
            small=typed.tiny,
            compiled=not typed.eager,
            device="cpu" if typed.tiny else "cuda",
            memory=None if typed.tiny else memory_bytes(torch.device("cuda")),
        )
    except Exception as error:
        return None, f"not known: {error}"
    return peak.total / GIB, peak.described()


def _portions_of(bench: Bench, settings: Settings, recorder: Recorder) -> str:
    """Those that were chosen, or as they are typed where a run says of none."""
    if recorder.chosen:
        return str(recorder.chosen[-1])
    typed, network = settings.batching, bench.tuned.module
    on = "on" if getattr(network, "is_gradient_checkpointing", False) else "off"
    return f"pull {typed.pull}, decode {typed.decode}, gradient checkpointing {on}"


def measure(name: str, typed: argparse.Namespace, ranks: Ranks) -> Row | None:
    """Train a case, and say what it took; None on other processes than the first."""
    clear()
    case, begun = CASES[name], time.perf_counter()
    side = case.side // 16 if typed.tiny else case.side
    device = torch.device("cpu" if typed.tiny else "cuda")
    changed = (*case.changed, *typed.set)
    bench = Bench(case.model, device, small=typed.tiny, compiled=not typed.eager, changed=changed)
    total = case.samples * (typed.same_global or ranks.size)
    own = (case.samples, total, typed.steps, side, side)
    settings = bench.settings("bridge", *map("{}={}".format, OF_THE_CASE, own))
    if ranks.first:
        say(f"{name}: built on {ranks.size} processes")
    division, sizes = divide(bench, case, settings, ranks)
    needs = division.described(sizes, ranks.size)
    expected: float | None = None
    text = ""
    if ranks.first:
        expected, text = foreseen(settings, case.model, typed, (division, sizes), ranks.size)
    building, seconds = peak_gib(), time.perf_counter() - begun
    clear()
    built = torch.cuda.memory_allocated() / GIB if torch.cuda.is_available() else None
    recorder = Steps(typed.steps, device, typed.profile) if ranks.first else Recorder()
    if ranks.first:
        say(f"{division.shared(ranks.size)}; {needs}; predicted: {text}")
    bench.run(settings, recorder, ranks)
    gib = ranks.exchange((building, built, peak_gib()))
    if not isinstance(recorder, Steps):
        return None
    rows = recorder.rows
    return Row(
        case=name,
        model=case.model,
        processes=ranks.size,
        division=division.shared(ranks.size),
        needs=needs,
        predicted_gib=expected,
        predicted=text,
        samples=case.samples,
        total=total,
        portions=_portions_of(bench, settings, recorder),
        compiled=not typed.eager,
        changed=changed,
        seconds=[row.seconds for row in rows],
        rewards=[row.reward for row in rows],
        reward_stds=[row.reward_std for row in rows],
        losses=[row.loss for row in rows],
        gradient_norms=[row.gradient_norm for row in rows],
        building_gib=[each[0] for each in gib],
        built_gib=[each[1] for each in gib],
        training_gib=[each[2] for each in gib],
        building_seconds=seconds,
        profiled=recorder.profiled is not None,
        gpu=None if recorder.profiled is None else recorder.profiled.found(),
    )


def command(typed: argparse.Namespace, ranks: Ranks) -> int:
    with ranks.together():
        for name in typed.case:
            row = measure(name, typed, ranks)
            if row is not None:
                append(typed.out, row)
                say(f"{row.step:.3f} s a step; {row.gpu}")
            # None goes on or ends while another still reads its trace.
            ranks.exchange(None)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--case", nargs="+", choices=CASES)
    parser.add_argument("--same-global", type=int, help="GPUs whose batch a step has")
    parser.add_argument("--steps", type=int, default=6, help="two are not timed, one is profiled")
    parser.add_argument("--no-profile", dest="profile", action="store_false")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    parser.add_argument("--set", nargs="+", default=(), help="changes to the presets")
    parser.add_argument("--tiny", action="store_true", help="two-layer models, on the CPU")
    typed = parser.parse_args()
    for change in typed.set:
        key = change.partition("=")[0]
        if key in OF_THE_CASE:
            parser.error(f"--set {change}: {key} is that of the case, --steps or --same-global")
    if typed.case is None:
        print(table(rows_of(typed.out)))
        return
    with joined(Launch.of()) as ranks:
        speaking_once(ranks, partial(command, typed, ranks))


if __name__ == "__main__":
    main()

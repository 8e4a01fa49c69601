"""The reference step: the joint graph against the streamed one, in one process, alternating.

    python -m benchmarks.reference OUT [--rounds 3] [--sweeps active steps batch ...] [--eager]
                                   [--only NAME ...] [--no-main] [--small]

SD3.5 Medium at full size with random weights in bfloat16, 512x512, 8 samples, 25 steps, guidance
3.5, Bridge with 5 active steps and alpha 1/2, 589 text tokens, AutoencoderKL and a ViT-H/14 reward.
The joint graph is timed as it is usually written, where every active velocity is evaluated again
after sampling, and in one pass, where nothing is evaluated twice; see `benchmarks.joint_graph`. The
sweeps `joint_active` and `joint_batch` are of the one pass.

There is no optimizer: the timed step ends with the gradient. The first run of a case, or a short
one before it in a sweep, chooses kernels, compiles, and leaves the allocator its memory; no later
run is timed with an empty one.

OUT gets reference.json and reference.md, rewritten after every case; tables that are there already
stay until they are measured again, so that a visit to a device can be split. `--eager` compiles
nothing, and leaves out the compiled rows of the main table. `--only` names rows. `--small` takes
two-layer models on the CPU.

`benchmarks.counting` adds the operations without a device, `benchmarks.plots` draws.

Durations on one H100 and 16 cores: 25 s for the models; 400 s for the first round of the main table
with nothing compiled before (`TORCHINDUCTOR_CACHE_DIR` sets where torch keeps compiled code), 80 s
with it; 45 s for a later round, and as long for the gradients that are compared. A sweep takes the
sum of its rows and a fraction of it, and 40 to 60 s for each new share of `activations` or new size
that is compiled.

A plot compares times of one command, all compiled or all not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import attrs
import torch

from benchmarks.device_waits import host_waits
from benchmarks.measurement import GIB, clear, collect, fits, matmul_rate
from benchmarks.reference_cases import MAIN, SWEEPS, Case
from benchmarks.reference_model import Subject
from benchmarks.reference_tables import OUT_OF_MEMORY, Measured, Tables

MAIN_TABLE = "reference step"
Done = Callable[[Sequence[Measured]], None]


@contextmanager
def peak_above(measured: Measured, device: torch.device) -> Iterator[None]:
    """Record the memory that was taken besides what was there before."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    measured.peak_gib = (torch.cuda.max_memory_allocated() - before) / GIB


def timed(subject: Subject, result: Measured) -> float | None:
    """Run a case; how long it took, or None, said in the result, if its memory ran out.

    The allocator keeps what it has, because a training does not ask the device for memory at every
    step either. The peak is of what is allocated, and does not depend on it.
    """
    step = subject.prepared(result.case)
    collect()

    def run() -> None:
        with peak_above(result, subject.device):
            step()

    begun = time.perf_counter()
    result.fits = fits(run)
    seconds = time.perf_counter() - begun
    print(f"{result.case.name}: {f'{seconds:.2f} s' if result.fits else OUT_OF_MEMORY}", flush=True)
    result.evaluations = subject.evaluated / result.case.samples if result.fits else None
    return seconds if result.fits else None


def alternate(subject: Subject, cases: Sequence[Case], rounds: int, done: Done) -> list[Measured]:
    """Run all cases once to choose and compile kernels, then in turn, again and again."""
    results = [Measured(case) for case in cases]
    for number in range(rounds + 1):
        for result in results:
            if not result.fits:
                continue
            if number == 0:
                clear()
            seconds = timed(subject, result)
            if number == 0:
                result.first_seconds = seconds
            elif seconds is not None:
                result.seconds.append(seconds)
            done(results)
    return results


def compare(subject: Subject, results: Sequence[Measured]) -> None:
    """The gradient of every case against that of the first; and how often the host waits."""
    reference = None
    for result in results:
        if not result.fits:
            continue
        step = subject.prepared(result.case)
        if subject.device.type == "cuda":
            with host_waits(subject.device) as waits:
                step()
            result.waits = dict(waits)
        else:
            step()
        if result is results[0]:
            reference = subject.gradient()
        elif reference is not None:
            result.cosine = subject.cosine(reference)


def sweep(subject: Subject, cases: Sequence[Case], done: Done) -> list[Measured]:
    """Run each case once, after a short run of the same shapes."""
    results = list[Measured]()
    for case in cases:
        clear()
        result = Measured(case, fits=fits(subject.prepared(case.brief)))
        results.append(result)
        if result.fits:
            seconds = timed(subject, result)
            result.seconds += [] if seconds is None else [seconds]
        done(results)
    return results


def chosen(cases: Sequence[Case], only: Sequence[str] | None, *, eager: bool) -> list[Case]:
    """The cases with these names, or all; none compiled if nothing shall be."""
    named = [case for case in cases if only is None or case.name in only]
    return [attrs.evolve(case, compiled=False) for case in named] if eager else named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="timed ones, after the first")
    parser.add_argument("--sweeps", nargs="*", choices=SWEEPS, default=())
    parser.add_argument("--only", nargs="+", help="rows of the main table and the sweeps, by name")
    parser.add_argument("--no-main", action="store_true", help="the sweeps alone")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    parser.add_argument("--small", action="store_true", help="two-layer models, on the CPU")
    wanted = parser.parse_args()
    subject = Subject(small=wanted.small, compiled=not wanted.eager)
    tables, rate = Tables(wanted.out), matmul_rate(subject.device)
    if not wanted.no_main:
        able = [case for case in MAIN if not (wanted.eager and case.compiled)]
        cases = chosen(able, wanted.only, eager=wanted.eager)
        put = partial(tables.put, MAIN_TABLE, rate)
        results = alternate(subject, cases, wanted.rounds, put)
        compare(subject, results)
        put(results)
    for name in wanted.sweeps:
        cases = chosen(SWEEPS[name](), wanted.only, eager=wanted.eager)
        sweep(subject, cases, partial(tables.put, name, rate))
    print((wanted.out / "reference.md").read_text())


if __name__ == "__main__":
    main()

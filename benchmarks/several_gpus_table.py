"""What the benchmark of several GPUs found: a line of JSON for each measurement, and a table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

import attrs

from benchmarks.gpu_time import GpuTime
from benchmarks.measurement import Environment, markdown

WARM = 2
"""Steps that are not timed, in which code is compiled."""


@attrs.frozen(kw_only=True)
class Row:
    """One training; GiB are by process, and None on the CPU."""

    case: str
    model: str
    processes: int
    # How they have the model, and what the product calculates of its memory.
    division: str
    needs: str
    # Of the peak, before anything was loaded; None where that failed, as `predicted` says.
    predicted_gib: float | None = None
    predicted: str = ""
    # On each GPU at a time, and of a step on all.
    samples: int
    total: int
    portions: str
    compiled: bool
    changed: Sequence[str]
    # By step. If one is profiled, it is the last.
    seconds: Sequence[float]
    rewards: Sequence[float]
    reward_stds: Sequence[float]
    losses: Sequence[float]
    gradient_norms: Sequence[float]
    # The peak until the model is built and divided, what there is then, and the peak of training.
    building_gib: Sequence[float | None]
    built_gib: Sequence[float | None]
    training_gib: Sequence[float | None]
    building_seconds: float
    profiled: bool
    gpu: GpuTime | None

    @property
    def step(self) -> float:
        """Seconds of the median step: without those that compile, if there are others."""
        plain = self.seconds[: len(self.seconds) - self.profiled] or self.seconds
        return median(plain[WARM:] or plain[-1:])


def append(file: Path, row: Row) -> None:
    """Write a row behind those that are there; several commands may do so at a time."""
    line = json.dumps({"environment": attrs.asdict(Environment.here()), **attrs.asdict(row)})
    with file.open("a") as opened:
        opened.write(line + "\n")


def rows_of(file: Path) -> list[Row]:
    """The last row of each measurement."""
    found: dict[tuple[Any, ...], Row] = {}
    for line in file.read_text().splitlines():
        row = _row(json.loads(line))
        found[row.case, row.processes, row.total, row.compiled, tuple(row.changed)] = row
    return list(found.values())


def _row(tree: Mapping[str, Any]) -> Row:
    values = {name: value for name, value in tree.items() if name != "environment"}
    gpu = values.pop("gpu")
    return Row(**values, gpu=None if gpu is None else GpuTime(**gpu))


def table(rows: Sequence[Row]) -> str:
    columns = (
        "case", "GPUs", "samples a step", "the model", "portions", "compiled", "s a step",
        "weak scaling",
        "GiB while built", "GiB once built", "GiB in training", "predicted",
        "rewards differ from one GPU's by",
        "of s profiled", "computing", "NCCL", "NCCL alone", "nothing",
    )  # fmt: skip
    return markdown(columns, (list(_cells(row, rows)) for row in rows))


def _cells(row: Row, rows: Sequence[Row]) -> Iterator[str]:
    yield from (row.case, str(row.processes), str(row.total), row.division, row.portions)
    yield from ("yes" if row.compiled else "no", f"{row.step:.2f}")
    yield _scaling(row, rows)
    yield from map(_gib, (row.building_gib, row.built_gib, row.training_gib))
    yield _gib([row.predicted_gib])
    yield difference(row, rows)
    times = [""] * 5 if row.gpu is None else [f"{t:.3f}" for t in attrs.astuple(row.gpu)]
    yield from times


def _gib(sizes: Sequence[float | None]) -> str:
    return " / ".join(f"{size:.1f}" for size in sizes if size is not None)


def _scaling(row: Row, rows: Sequence[Row]) -> str:
    """`t(1 GPU) / t(N GPUs)`, of as many samples on each."""
    if row.processes == 1:
        return ""
    own = row.total // row.processes
    alone = [r for r in rows if _alone(r, row) and r.total == own]
    return f"{alone[0].step / row.step:.3f}" if alone else ""


def difference(row: Row, rows: Sequence[Row]) -> str:
    """That of a step's mean reward from one GPU's on the same batch, and how rewards are spread."""
    alone = [r for r in rows if _alone(r, row) and r.total == row.total]
    if row.processes == 1 or not alone:
        return ""
    gaps = [abs(a - b) for a, b in zip(row.rewards, alone[0].rewards, strict=False)]
    return f"{max(gaps):.2g} in {len(gaps)} steps (standard deviation {mean(row.reward_stds):.2g})"


def _alone(row: Row, other: Row) -> bool:
    alike = (row.model, row.compiled, row.changed) == (other.model, other.compiled, other.changed)
    return row.processes == 1 and alike

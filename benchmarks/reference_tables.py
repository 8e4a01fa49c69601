"""What the reference benchmark found, as JSON and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from benchmarks.measurement import Environment, markdown
from benchmarks.reference_cases import Case

OUT_OF_MEMORY = "out of memory"
RATE = "matrix product, TFLOP/s"
Row = dict[str, Any]

_COLUMNS = (
    "step", "compiled", "seconds", "first", "TFLOP", "share of the matrix rate", "peak GiB",
    "velocity calls a sample", "waits", "cosine",
)  # fmt: skip


@attrs.define
class Measured:
    """What the runs of one case showed."""

    case: Case
    fits: bool = True
    seconds: list[float] = attrs.field(factory=list)
    # Of the first run, which chooses and compiles kernels.
    first_seconds: float | None = None
    # Above what was taken before.
    peak_gib: float | None = None
    evaluations: float | None = None
    tflop: float | None = None
    cosine: float | None = None
    waits: dict[str, int] | None = None

    def row(self) -> Row:
        """One flat mapping, as it stands in the file."""
        numbers = attrs.asdict(self, recurse=False)
        case: Case = numbers.pop("case")
        # A method's own fields do not say which it is.
        return attrs.asdict(case, recurse=False) | {"method": repr(case.method)} | numbers


class Tables:
    """Both files of a folder, written anew whenever something was measured.

    Tables that an earlier visit left there stay, until they are measured again.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        file = self.folder / "reference.json"
        self.tables: dict[str, Row] = json.loads(file.read_text()) if file.exists() else {}

    def put(self, name: str, rate: float, results: Iterable[Measured]) -> None:
        """A table, in the place of what it was; `rate` is of a large matrix product, in TFLOP/s."""
        rows = [result.row() for result in results]
        where = attrs.asdict(Environment.here())
        self.tables[name] = {"environment": where, RATE: rate, "rows": rows}
        self.write()

    def write(self) -> None:
        (self.folder / "reference.json").write_text(json.dumps(self.tables, indent=2) + "\n")
        parts = (f"{name}\n\n{_written(table)}" for name, table in self.tables.items())
        (self.folder / "reference.md").write_text("\n".join(parts))


def seconds_of(row: Mapping[str, Any]) -> float | None:
    """The median of the timed runs, or the only run that there was."""
    seconds: list[float] = row["seconds"]
    first: float | None = row["first_seconds"]
    return statistics.median(seconds) if seconds else first


def _written(table: Row) -> str:
    where = table["environment"]
    text = f"{where['device']}, torch {where['torch']}, diffusers {where['diffusers']}\n\n"
    text += markdown(_COLUMNS, (_line(row, table[RATE]) for row in table["rows"])) + "\n"
    for row in table["rows"]:
        places = [f"{place} ({count})" for place, count in (row["waits"] or {}).items()]
        if places:
            text += f"\nThe host waits, {row['name']}: {', '.join(places)}\n"
    return text


def _line(row: Row, rate: float) -> tuple[str, ...]:
    compiled = "yes" if row["compiled"] else "no"
    if not row["fits"]:
        return (row["name"], compiled, OUT_OF_MEMORY, *[""] * (len(_COLUMNS) - 3))
    seconds, tflop, waits = seconds_of(row), row["tflop"], row["waits"]
    share = tflop / seconds / rate if tflop and seconds else None
    return (
        row["name"],
        compiled,
        _cell(seconds, "{:.2f}"),
        _cell(row["first_seconds"], "{:.1f}"),
        _cell(tflop, "{:.0f}"),
        _cell(share, "{:.0%}"),
        _cell(row["peak_gib"], "{:.2f}"),
        _cell(row["evaluations"], "{:.0f}"),
        "" if waits is None else str(sum(waits.values())),
        _cell(row["cosine"], "{:.5f}"),
    )


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)

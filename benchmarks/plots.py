"""Plots of the reference benchmark's sweeps, for the documentation.

    python -m benchmarks.plots OUT/reference.json docs/

Draws memory and time against K, and memory against the batch, of the sweeps `active`,
`joint_active`, `batch` and `joint_batch` of `benchmarks.reference`, as far as they are there. The
lines of times are all of compiled code, or none is. Those of memory may differ, as the legend says:
a checkpointed joint graph takes the same either way.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from benchmarks.charts import Series, draw
from benchmarks.reference_tables import seconds_of

Row = Mapping[str, Any]
Table = Mapping[str, Any]


@attrs.frozen
class Plot:
    """What a file shows.

    Args:
        title: with the unit.
        across: what x is.
        tables: the sweeps, with what their lines are called.
        height: y of a row; None where it was not measured.
        doubling: as of `draw`.
        alike: whether lines must be all compiled, or all not.
    """

    title: str
    across: str
    tables: Mapping[str, str]
    height: Callable[[Row], float | None]
    doubling: bool = False
    alike: bool = False


_ACTIVE = {"active": "streamed", "joint_active": "joint graph"}
_BATCH = {"batch": "streamed", "joint_batch": "joint graph"}
_MEMORY = "Peak memory above weights and gradients, GiB"


def _peak(row: Row) -> float | None:
    peak: float | None = row["peak_gib"]
    return peak


PLOTS = {
    "memory_active.svg": Plot(_MEMORY, "K, active steps", _ACTIVE, _peak),
    "memory_batch.svg": Plot(_MEMORY, "samples of a step", _BATCH, _peak, doubling=True),
    "time_active.svg": Plot(
        "Seconds for a step", "K, active steps", _ACTIVE, seconds_of, alike=True
    ),
}
"""The plots by their files."""


def drawn(tables: Mapping[str, Table]) -> dict[str, str]:
    """The text of every plot for which something was measured, by its file.

    Args:
        tables: of reference.json.

    Returns:
        SVG files.

    Raises:
        ValueError: there is nothing for any of them, or one of them would compare the time of what
            is compiled with that of what is not.
    """
    found = {}
    for file, plot in PLOTS.items():
        there = {name: label for name, label in plot.tables.items() if name in tables}
        lines = [_series(tables[name], label, plot.height) for name, label in there.items()]
        if plot.alike:
            _check_alike({name: tables[name] for name in there})
        if any(line.points for line in lines):
            devices = {tables[name]["environment"]["device"]: None for name in there}
            where = ", ".join(devices)
            found[file] = draw(plot.title, where, plot.across, lines, doubling=plot.doubling)
    if not found:
        raise ValueError(
            f"`tables` must hold a sweep with figures to draw, got {sorted(tables)}; run "
            "benchmarks.reference with --sweeps active joint_active batch joint_batch"
        )
    return found


def _check_alike(tables: Mapping[str, Table]) -> None:
    how = {name: _how(table) for name, table in tables.items()}
    if len(set(how.values())) > 1:
        raise ValueError(
            f"`tables` must have the times of a plot all compiled or all not compiled, got {how}; "
            "measure one of them again, with or without --eager"
        )


def _how(table: Table) -> str:
    compiled = {row["compiled"] for row in table["rows"]}
    return "compiled" if compiled == {True} else "not compiled"


def _series(table: Table, label: str, height: Callable[[Row], float | None]) -> Series:
    rows = table["rows"]
    points = [(row["at"], height(row)) for row in rows if row["fits"]]
    passes = " in one pass" if all(row["one_pass"] for row in rows) else ""
    return Series(
        f"{label}{passes}, {_how(table)}",
        tuple((x, y) for x, y in points if y is not None),
        tuple(row["at"] for row in rows if not row["fits"]),
    )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="reference.json")
    parser.add_argument("folder", type=Path)
    wanted = parser.parse_args()
    wanted.folder.mkdir(parents=True, exist_ok=True)
    for name, text in drawn(json.loads(wanted.file.read_text())).items():
        (wanted.folder / name).write_text(text)
        print(wanted.folder / name)


if __name__ == "__main__":
    main()

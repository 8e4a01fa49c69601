"""Plots of the reference benchmark's sweeps, for the documentation.

    python -m benchmarks.plots OUT/reference.json docs/

Draws memory and time against K, and memory against the batch, of the sweeps `active`,
`joint_active`, `batch` and `joint_batch` of `benchmarks.reference`, as far as they are there. The
lines of times are all of compiled code, or none is. Those of memory may differ, as the legend says:
a checkpointed joint graph takes the same either way.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import matplotlib
from matplotlib.figure import Figure

from benchmarks.reference_tables import seconds_of

Row = Mapping[str, Any]
Table = Mapping[str, Any]

# Round or square and dashed, because colour alone says nothing to some.
_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0969da", "marker": "o", "linestyle": "-"},
    {"color": "#bc4c00", "marker": "s", "linestyle": (0, (3, 2))},
)
_LOOK: Any = {
    "font.size": 9.75,
    "text.color": "#1f2328",
    "axes.labelcolor": "#59636e",
    "xtick.color": "#59636e",
    "ytick.color": "#59636e",
    "grid.color": "#d1d9e0",
    "lines.linewidth": 1.9,
    "lines.markersize": 6.5,
    # Texts stay texts, and equal plots equal files.
    "svg.fonttype": "none",
    "svg.hashsalt": "flowbp",
}


@attrs.frozen
class Plot:
    """What a file shows: the sweeps by name with what their lines are called, and y of a row.

    With `doubling` x doubles from value to value; with `alike` lines must be all compiled or all
    not.
    """

    title: str
    across: str
    tables: Mapping[str, str]
    height: Callable[[Row], float | None]
    doubling: bool = False
    alike: bool = False


@attrs.frozen
class Series:
    """One line: points in order of x, and x of what ran out of memory."""

    name: str
    points: Sequence[tuple[float, float]]
    missing: Sequence[float] = ()


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


def drawn(tables: Mapping[str, Table]) -> dict[str, str]:
    """The SVG of every plot of `PLOTS` for which something was measured, by its file."""
    found = {}
    for file, plot in PLOTS.items():
        there = {name: label for name, label in plot.tables.items() if name in tables}
        lines = [_series(tables[name], label, plot.height) for name, label in there.items()]
        if plot.alike:
            _check_alike({name: tables[name] for name in there})
        if any(line.points for line in lines):
            devices = dict.fromkeys(tables[name]["environment"]["device"] for name in there)
            found[file] = draw(plot, ", ".join(devices), lines)
    if not found:
        raise ValueError(
            f"`tables` must hold a sweep with something to draw, got {sorted(tables)}; run "
            "benchmarks.reference with --sweeps active joint_active batch joint_batch"
        )
    return found


def draw(plot: Plot, note: str, lines: Sequence[Series]) -> str:
    """A plot whose values begin at 0, with a note below its title."""
    values = sorted({x for line in lines for x in (*(x for x, _ in line.points), *line.missing)})
    with matplotlib.rc_context(_LOOK):
        figure = Figure(figsize=(7.4, 3.9))
        axes = figure.add_axes((0.085, 0.15, 0.88, 0.61))
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.tick_params(length=0, pad=7)
        for side in axes.spines.values():
            side.set_visible(False)
        for style, line in zip(_STYLES, lines, strict=False):
            axes.plot(
                [x for x, _ in line.points],
                [y for _, y in line.points],
                label=line.name,
                clip_on=False,
                zorder=3,
                **style,
            )
        if plot.doubling:
            axes.set_xscale("log", base=2)
        axes.set_xlim(values[0], max(values[-1], values[0] + 1))
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.set_xticks([], minor=True)
        axes.set_xlabel(plot.across)
        highest = max(y for line in lines for _, y in line.points)
        missing = [x for line in lines for x in line.missing]
        if missing:
            # Above all else.
            heights = [1.2 * highest] * len(missing)
            cross: Any = {
                "color": "#bc4c00",
                "marker": "x",
                "linestyle": "",
                "markeredgewidth": 1.9,
            }
            axes.plot(missing, heights, label="out of memory", clip_on=False, **cross)
        axes.set_ylim(0, (1.25 if missing else 1.08) * highest)
        figure.text(0.085, 0.93, plot.title, size=12, weight="bold")
        figure.text(0.085, 0.87, note, color="#59636e")
        axes.legend(
            loc="lower left",
            bbox_to_anchor=(-0.01, 1.0),
            ncols=3,
            frameon=False,
            fontsize=9,
            handlelength=2.4,
            columnspacing=1.4,
        )
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Title": plot.title})
    return stream.getvalue()


def _check_alike(tables: Mapping[str, Table]) -> None:
    how = {name: _how(table) for name, table in tables.items()}
    if len(set(how.values())) > 1:
        raise ValueError(
            f"`tables` must have the times of a plot all compiled or all not compiled, got {how}; "
            "measure one of them again, with or without --eager"
        )


def _how(table: Table) -> str:
    return "compiled" if all(row["compiled"] for row in table["rows"]) else "not compiled"


def _series(table: Table, label: str, height: Callable[[Row], float | None]) -> Series:
    rows = table["rows"]
    points = [(row["at"], y) for row in rows if row["fits"] and (y := height(row)) is not None]
    passes = " in one pass" if all(row["one_pass"] for row in rows) else ""
    missing = [row["at"] for row in rows if not row["fits"]]
    return Series(f"{label}{passes}, {_how(table)}", points, missing)


def main() -> None:
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

"""A comparison as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from flowbp.evaluation.records import Comparison
from flowbp.evaluation.summary import Change, Row, Summary, summarise
from flowbp.evaluation.units import Unit

_SHARE = Unit(percent=True)


def table(comparison: Comparison, *, seed: int = 0) -> str:
    """Before and after per kind of prompt, in at most 80 columns, with the overall intervals below.

    Accuracy columns are there only when a judge gave verdicts. Gains of accuracy are in percentage
    points. What a composed reward tells of its parts comes last, a line each.

    Args:
        comparison: the two evaluations.
        seed: seed of the bootstrap behind the intervals.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> old = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> print(table(Comparison(old, old)))
        kind           n         reward  gain
        -------------------------------------
        single_object  1  0.250 → 0.250     0
        -------------------------------------
        overall        1  0.250 → 0.250     0
        reward gain 0, 95 % interval [0, 0]
    """
    summary = summarise(comparison, seed=seed)
    header = ["kind", "n", "reward", "gain"]
    if comparison.judged:
        header += ["accuracy", "gain"]
    cells = [header, *(_cells(row) for row in (*summary.kinds, summary.overall))]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = [_line(line, widths) for line in cells]
    rule = "-" * len(lines[0])
    below = [*_intervals(summary.overall), *_parts(summary)]
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *below])


def _cells(row: Row) -> list[str]:
    cells = [row.name, str(row.count), *_change(row.reward, Unit())]
    if row.accuracy is not None:
        cells += _change(row.accuracy, _SHARE)
    return cells


def _change(change: Change, unit: Unit) -> list[str]:
    written = unit.change(change)
    return [f"{written.before} → {written.after}", written.gain]


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = cells
    aligned = [
        first.ljust(widths[0]),
        *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True)),
    ]
    return "  ".join(aligned)


def _intervals(row: Row) -> list[str]:
    lines = [f"reward gain {_gain(row.reward, Unit())}"]
    if row.accuracy is not None:
        lines.append(f"accuracy gain {_gain(row.accuracy, _SHARE, ' points')}")
    return lines


def _gain(change: Change, unit: Unit, of: str = "") -> str:
    written = unit.change(change)
    return f"{written.gain}{of}, 95 % interval [{written.low}, {written.high}]"


def _parts(summary: Summary) -> Iterator[str]:
    width = max(map(len, summary.parts), default=0)
    for name, change in summary.parts.items():
        written = Unit().change(change)
        yield (f"  {name:<{width}}  {written.before} → {written.after}, gain {written.interval}")

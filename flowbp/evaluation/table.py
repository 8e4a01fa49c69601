"""A comparison as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from flowbp.evaluation.records import Comparison
from flowbp.evaluation.summary import Change, Row, Summary, summarise


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
        kind           n         reward    gain
        ---------------------------------------
        single_object  1  0.250 → 0.250  +0.000
        ---------------------------------------
        overall        1  0.250 → 0.250  +0.000
        reward gain +0.000, 95 % interval [+0.000, +0.000]
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
    cells = [row.name, str(row.count), *_reward(row.reward)]
    if row.accuracy is not None:
        cells += _accuracy(row.accuracy)
    return cells


def _reward(change: Change) -> list[str]:
    return [f"{change.before:.3f} → {change.after:.3f}", f"{change.gain.mean:+.3f}"]


def _accuracy(change: Change) -> list[str]:
    return [f"{change.before:.1%} → {change.after:.1%}", f"{100 * change.gain.mean:+.1f}"]


def _line(cells: list[str], widths: list[int]) -> str:
    first, *rest = cells
    aligned = [
        first.ljust(widths[0]),
        *(cell.rjust(w) for cell, w in zip(rest, widths[1:], strict=True)),
    ]
    return "  ".join(aligned)


def _intervals(row: Row) -> list[str]:
    gain = row.reward.gain
    lines = [f"reward gain {gain.mean:+.3f}, 95 % interval [{gain.low:+.3f}, {gain.high:+.3f}]"]
    if row.accuracy is not None:
        mean, low, high = (
            100 * value
            for value in (row.accuracy.gain.mean, row.accuracy.gain.low, row.accuracy.gain.high)
        )
        lines.append(f"accuracy gain {mean:+.1f} points, 95 % interval [{low:+.1f}, {high:+.1f}]")
    return lines


def _parts(summary: Summary) -> Iterator[str]:
    width = max(map(len, summary.parts), default=0)
    for name, change in summary.parts.items():
        gain = change.gain
        yield (
            f"  {name:<{width}}  {change.before:.4g} → {change.after:.4g}, "
            f"gain {gain.mean:+.3g} [{gain.low:+.3g}, {gain.high:+.3g}]"
        )

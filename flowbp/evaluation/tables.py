"""Scores and comparisons as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from flowbp.evaluation.comparison import ACCURACY, Comparison
from flowbp.evaluation.number_format import Unit, WrittenChange, finer, unit_of
from flowbp.evaluation.reward_metrics import WHOLE
from flowbp.evaluation.scores import Compared, MetricFailure, Paired, Scores, compare
from flowbp.evaluation.statistics import rule as significance


def scores_table(scores: Scores, *, seed: int = 0) -> str:
    """Mean and paired gain of every column, total and model, and what failed."""
    base = scores.models[0]
    found = {(each.model, each.column): each for each in compare(scores, seed=seed)}
    cells = [["column", "model", "mean", "n", f"change from {base}, 95 % interval"]]
    for column in scores.columns_and_totals:
        changes = [each.paired.change for each in found.values() if each.column == column]
        unit = finer(unit_of(scores, column), changes)
        for model in scores.models:
            mean = scores.mean(model, column, seed=seed)
            change = "" if model == base else _gain(found.get((model, column)), unit, scores)
            first = column if model == base else ""
            average = "-" if mean is None else unit.plain(mean.mean)
            judged = str(scores.counts(model, column)[0])
            cells.append([first, model, average, judged, change])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(line, widths) for line in cells]
    rule = "-" * len(lines[0].ljust(sum(widths) + 8))
    pictures = sum(row.model == base for row in scores.rows)
    notes = [
        f"n: prompts that a column judges; there are {scores.prompts}, and "
        f"{counted(pictures, 'picture')} of each model"
    ]
    tested = sum(each.p is not None for each in found.values())
    if tested:
        notes.append(f"* significant: {significance(tested)}")
    return "\n".join([lines[0], rule, *lines[1:], rule, *notes, *_failures(scores.failures)])


def _line(cells: list[str], widths: list[int]) -> str:
    column, model, mean, judged, gain = cells
    line = f"{column:<{widths[0]}}  {model:<{widths[1]}}  {mean:>{widths[2]}}"
    line += f"  {judged:>{widths[3]}}  {gain}"
    return line.rstrip()


def _gain(found: Compared | None, unit: Unit, scores: Scores) -> str:
    if found is None:
        return "-"
    written = unit.change(found.paired.change)
    if found.paired.prompts == 1:
        return f"{written.gain}, of one prompt: no interval"
    star = " *" if found.significant else ""
    fewer = found.paired.prompts < scores.counts(found.model, found.column)[0]
    both = f", of {found.paired.prompts} prompts" if fewer else ""
    return f"{written.interval}{star}{both}"


def _failures(failures: tuple[MetricFailure, ...]) -> Iterator[str]:
    groups: dict[tuple[str, str | None], list[MetricFailure]] = {}
    for each in failures:
        groups.setdefault((each.metric, each.model), []).append(each)
    for (metric, model), found in groups.items():
        first = found[0]
        of = "" if model is None else f" of {model}"
        count = "" if first.prompt is None else f" at {len(found)} pictures{of}, the first of "
        where = of if first.prompt is None else f"{count}{first.prompt!r}, seed {first.seed}"
        yield f"FAILED: {metric}{where}: {first.message}"


def table(comparison: Comparison, *, seed: int = 0) -> str:
    """Before and after per kind of prompt, in 80 columns, the overall intervals below."""
    scores = comparison.scores
    judged = Unit(percent=scores.scale(ACCURACY).verdict)
    units = {WHOLE: Unit(), **({ACCURACY: judged} if comparison.before.judged else {})}
    header = ["kind", "n", *(cell for column in units for cell in (column, "gain"))]
    kinds = [_row(kind, scores.of_kind(kind), units, seed) for kind in scores.kinds]
    cells = [header, *kinds, _row("overall", scores, units, seed)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join([name.ljust(widths[0]), *map(str.rjust, rest, widths[1:])])
        for name, *rest in cells
    ]
    rule = "-" * len(lines[0])
    below = [*_intervals(scores, units, seed), *_parts(scores, comparison.before.parts, seed)]
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], *below])


def _row(name: str, scores: Scores, units: Mapping[str, Unit], seed: int) -> list[str]:
    cells = [name, str(scores.prompts)]
    for column, unit in units.items():
        change = _change(scores, column, unit, seed)
        cells += [f"{change.before} → {change.after}", change.gain]
    return cells


def _change(scores: Scores, column: str, unit: Unit, seed: int) -> WrittenChange:
    base, other = scores.models
    paired = scores.paired(base, other, column, seed=seed)
    assert paired is not None
    return unit.change(paired.change)


def _intervals(scores: Scores, units: Mapping[str, Unit], seed: int) -> Iterator[str]:
    for column, unit in units.items():
        change = _change(scores, column, unit, seed)
        gain = f"{change.gain}{' points' if unit.percent else ''}"
        yield f"{column} gain {gain}, 95 % interval [{change.low}, {change.high}]"


def _parts(scores: Scores, parts: Sequence[str], seed: int) -> Iterator[str]:
    width = max(map(len, parts), default=0)
    for name in parts:
        change = _change(scores, name, Unit(), seed)
        yield f"  {name:<{width}}  {change.before} → {change.after}, gain {change.interval}"


def counted(number: int, unit: str) -> str:
    """A number of things in words that agree with it."""
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


@attrs.frozen
class Line:
    """One comparison with the base."""

    name: str
    model: str
    column: str
    paired: Paired
    unit: Unit
    sign: int = 1
    significant: bool | None = None

    @property
    def written(self) -> WrittenChange:
        """The change in words."""
        return self.unit.change(self.paired.change)

    @property
    def verdict(self) -> str:
        """What can be said: `up`, `down`, or nothing where neither is significant."""
        if not self.significant:
            return ""
        return "up" if self.paired.change.gain.mean > 0 else "down"

    @property
    def worth(self) -> str:
        """What that means: `good`, `bad`, or nothing where nothing can be said."""
        if not self.verdict:
            return ""
        return "good" if self.sign * self.paired.change.gain.mean > 0 else "bad"


def metric_lines(scores: Scores, *, seed: int = 0) -> tuple[Line, ...]:
    """One line for each column or total, and each model but the base."""
    return tuple(
        Line(
            each.column,
            each.model,
            each.column,
            each.paired,
            unit_of(scores, each.column),
            scores.scale(each.column).sign,
            each.significant if each.p is not None else None,
        )
        for each in compare(scores, seed=seed)
    )


def kind_lines(scores: Scores, *, seed: int = 0) -> tuple[Line, ...]:
    """One line for each kind of prompt, column and model but the base; none is tested."""
    return tuple(line for kind in scores.kinds for line in _of_kind(scores, kind, seed))


def _of_kind(scores: Scores, kind: str, seed: int) -> Iterator[Line]:
    base, *others = scores.models
    part = scores.of_kind(kind)
    # Not of totals, which are of several kinds.
    for column in scores.columns:
        sign = scores.scale(column).sign
        for model in others:
            paired = part.paired(base, model, column, seed=seed)
            if paired is not None:
                yield Line(kind, model, column, paired, unit_of(scores, column), sign)

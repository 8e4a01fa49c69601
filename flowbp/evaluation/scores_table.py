"""Scores of several models as plain text for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from flowbp.evaluation.comparing import Compared, compare
from flowbp.evaluation.score_rows import MetricFailure
from flowbp.evaluation.scores import Scores
from flowbp.evaluation.significance import rule as significance
from flowbp.evaluation.units import Unit, finer, unit_of
from flowbp.evaluation.wording import counted


def scores_table(scores: Scores, *, seed: int = 0) -> str:
    """Mean and paired gain of every column, total and model, and what failed.

    Args:
        scores: of all models.
        seed: of the bootstrap behind the intervals, and of the test.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from flowbp.evaluation.score_rows import ScoreRow
        >>> row = ScoreRow(model="base", number=0, seed=0, prompt="a", kind="k", values={"r": 1.0})
        >>> other = ScoreRow(model="mine", number=0, seed=0, prompt="a", kind="k", values={"r": 3})
        >>> print(scores_table(Scores([row, other])))
        column  model  mean  n  change from base, 95 % interval
        ---------------------------------------------------------
        r       base   1.00  1
                mine   3.00  1  +2.00, of one prompt: no interval
        ---------------------------------------------------------
        n: prompts that a column judges; there are 1, and 1 picture of each model
    """
    base = scores.models[0]
    found = {(each.model, each.column): each for each in compare(scores, seed=seed)}
    cells = [["column", "model", "mean", "n", f"change from {base}, 95 % interval"]]
    for column in scores.figures:
        changes = [each.paired.change for each in found.values() if each.column == column]
        unit = finer(unit_of(scores, column), changes)
        for model in scores.models:
            mean = scores.mean(model, column, seed=seed)
            told = "" if model == base else _gain(found.get((model, column)), unit, scores)
            first = column if model == base else ""
            average = "-" if mean is None else unit.plain(mean.mean)
            judged = str(scores.counts(model, column)[0])
            cells.append([first, model, average, judged, told])
    widths = [max(len(line[place]) for line in cells) for place in range(5)]
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

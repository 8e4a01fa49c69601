"""What a run measured, as a model card shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import attrs

from flowbp.cli.overview import words
from flowbp.cli.run.built_run import BuiltRun
from flowbp.cli.run.card_text import code, public_values
from flowbp.cli.run.results import Ending
from flowbp.evaluation import (
    Comparison,
    HeldOut,
    Scale,
    ScoreRow,
    Scores,
)
from flowbp.evaluation.comparison import ACCURACY
from flowbp.evaluation.reward_metrics import WHOLE
from flowbp.evaluation.tables import Line, metric_lines
from flowbp.significant_digits import written
from flowbp.training import HeldOutMetrics


@attrs.frozen(eq=False)
class Measured:
    """What a run has measured of the model that its results are of."""

    comparison: Comparison
    # The evaluations inside the run, and the prompts that they are of.
    inside: Sequence[HeldOutMetrics]
    prompts: Sequence[HeldOut]
    end: Ending


def held_out_parts(run: BuiltRun, measured: Measured | None) -> Iterator[str]:
    """What is said of the held-out prompts, in parts."""
    evaluation = run.settings.evaluation
    if evaluation is None:
        yield "The run evaluated none."
        return
    if measured is None:
        yield (
            "None measured of these weights: a run measures after training, of the model that its "
            "results are of."
        )
        return
    tree = public_values(run.settings)
    sampling = run.evaluation_sampling
    steps = "" if sampling is None else f", {sampling.steps} steps, guidance {sampling.guidance:g}"
    judge = ""
    if measured.comparison.before.judged:
        judge = f" `{ACCURACY}` is what the judge, {code(words(tree['judge']))}, said."
    yield (
        f"Prompts: {code(words(tree['evaluation']['prompts']))}, held out of training{steps}, "
        "each from the same noise before and after. Gains are means over prompts, with 95 % "
        f"intervals. `{WHOLE}` is what was trained on.{judge}"
    )
    yield _table(metric_lines(measured.comparison.scores))
    if measured.end.early:
        yield _note_of_early(measured.end)
    further, plain = _inside(measured)
    if further or plain:
        yield "Further metrics, by the evaluations inside the run:"
        yield _table(further, plain)


def _note_of_early(end: Ending) -> str:
    if not end.best:
        return "The run ended early, by a held-out metric; these are of its last model."
    return (
        f"The run ended early, and these are of its best model, that of step {end.best}. It was "
        "chosen by the held-out prompts that score it here, so these numbers are optimistic."
    )


_HEAD = ("", "before", "after", "gain, 95 % interval", "prompts")


def _table(lines: Sequence[Line], plain: Sequence[tuple[str, float, float]] = ()) -> str:
    rows: list[Sequence[str]] = [_HEAD, ("---", *["---:"] * (len(_HEAD) - 1))]
    for line in lines:
        change, count = line.written, line.paired.prompts
        # One prompt has no interval.
        gain = change.interval if count > 1 else change.gain
        points = " points" if line.unit.percent else ""
        rows.append((_cell(line.name), change.before, change.after, gain + points, str(count)))
    for name, before, after in plain:
        rows.append((_cell(name), written(before, 4), written(after, 4), "", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    return code(text).replace("|", "\\|")


def _inside(
    measured: Measured,
) -> tuple[Sequence[Line], Sequence[tuple[str, float, float]]]:
    """What the metrics inside a run gained, and the means of those that have no number a prompt."""
    steps = {row.step: row for row in measured.inside}
    before, after = steps.get(0), steps.get(measured.end.judged)
    if before is None or after is None or before is after:
        return (), ()
    known = {*measured.comparison.scores.columns}
    names = [name for name in after.means if name in before.means and name not in known]
    paired = [
        name
        for name in names
        if {len(row.each.get(name, ())) for row in (before, after)} == {len(measured.prompts)}
    ]
    plain = [(n, before.means[n], after.means[n]) for n in names if n not in paired]
    if not (paired and measured.prompts):
        return (), plain
    rows = (
        ScoreRow(
            model=label,
            number=number,
            seed=0,
            prompt=prompt.text,
            kind=prompt.kind,
            values={name: found.each[name][number] for name in paired},
        )
        for label, found in (("before", before), ("after", after))
        for number, prompt in enumerate(measured.prompts)
    )
    scales = {name: Scale(sign=after.signs[name]) for name in paired if name in after.signs}
    return metric_lines(Scores(rows, scales=scales)), plain

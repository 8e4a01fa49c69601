"""The results of a study as tables of methods, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from flowbp.evaluation.statistics import Gain
from flowbp.significant_digits import interval, precision, written
from flowbp.study.results import MethodResult, Results
from flowbp.study.training_results import REWARD, RunResult

NONE = "-"

Row = Mapping[str, str]
"""What is said of a method, in words, by column."""


def training_rows(results: Results) -> list[Row]:
    """What training gained, a row for each method; none of a study without training."""
    return [_training_row(each, results.metrics) for each in results.methods if each.rates]


def _training_row(method: MethodResult, metrics: Sequence[str]) -> Row:
    chosen = method.chosen
    rate = NONE if chosen is None else f"{chosen.rate:g}{'!' * method.at_edge}"
    found = {"method": method.label, "rate": rate, "steps": str(method.steps)}
    for metric in metrics:
        standing = method.standings.get(metric)
        found[f"{metric} gained"] = NONE if standing is None else gain_text(standing.gain)
        if metric == REWARD and standing is not None and standing.behind is not None:
            found["against the best other"] = gain_text(standing.behind)
        found["best" if metric == REWARD else f"best {metric}"] = (
            NONE if standing is None else f"{standing.best:.0%}"
        )
    runs = [run for rate in method.rates for run in rate.runs] if chosen is None else chosen.runs
    return found | {"fell": falls_text(runs)}


def pair_rows(results: Results, metric: str) -> list[Row]:
    """A metric's gain by each method minus that by each other one, `*` where it is not chance."""
    found = {m.label: m.standings[metric] for m in results.methods if metric in m.standings}
    if len(found) < 2:
        return []
    return [
        {"method": label} | {other: _difference_text(each.against.get(other)) for other in found}
        for label, each in found.items()
    ]


def _difference_text(gain: Gain | None) -> str:
    if gain is None:
        return NONE
    return gain_text(gain) + " *" * (gain.low > 0 or gain.high < 0)


def ascent_rows(results: Results) -> list[Row]:
    """What steps gained, a row for each method and direction; none of a study without ascent."""
    rows = list[Row]()
    for method in results.methods:
        if method.ascent is None and method.ascent_failures:
            rows.append({"method": method.label, "step": "diverged"})
        for each in method.ascent.directions if method.ascent is not None else ():
            ascent = method.ascent
            assert ascent is not None
            useful = None if each.useful is None else ascent.rms_changes[each.useful]
            row = {"method": method.label, "step": each.direction}
            row["gain on others"] = gain_text(each.gain)
            row["at change"] = NONE if useful is None else f"{useful:.1e}"
            row["survives"] = NONE if each.survival is None else f"{each.survival:.0%}"
            row["signal share"] = gain_text(ascent.share)
            row["norms"] = f"×{written(ascent.norm_spread, 2)}"
            if ascent.cosine is not None:
                row["cosine to exact"] = written(ascent.cosine.mean, 2)
            rows.append(row)
    return rows


def gain_text(gain: Gain) -> str:
    """A mean and its interval, which a single draw or prompt does not have."""
    if not math.isfinite(gain.mean):
        return NONE
    if gain.low == gain.high:
        return precision([gain.mean]).signed(gain.mean)
    return interval(gain.mean, gain.low, gain.high)


def falls_text(runs: Sequence[RunResult]) -> str:
    """How many of some runs collapsed, and where the first did."""
    fallen = [run.collapsed for run in runs if run.collapsed is not None]
    failed = sum(run.failure is not None for run in runs)
    first = f", from step {min(fallen)}" if fallen else ""
    return f"{len(fallen)} of {len(runs)}{first}" + (f", {failed} diverged" if failed else "")


def study_table(results: Results) -> str:
    """The tables for the console, with notes."""
    blocks = [_plain(rows) for rows in (training_rows(results), ascent_rows(results)) if rows]
    return "\n\n".join([*blocks, "\n".join(notes(results))])


def _plain(rows: Sequence[Row]) -> str:
    names = columns(rows)
    cells = [names, *([row.get(name, NONE) for name in names] for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(names))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in cells]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:], rule])


def columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of all columns, in order."""
    return list(dict.fromkeys(name for row in rows for name in row))


def notes(results: Results) -> list[str]:
    """What the columns of the tables mean, and what to beware of."""
    found = []
    if results.before:
        before = ", ".join(f"{name} {written(results.before[name])}" for name in results.metrics)
        found += [
            f"gained: against the model before training ({before}), on prompts that no rate was "
            "chosen on; 95 % intervals over prompts and seeds together",
            "against the best other: the difference to the method that gained most, or of that one "
            "to the next, paired likewise",
            "best: the probability of being the best method; fell: runs whose training or held-out "
            "reward ended below its peak by more than chance",
        ]
        if sum(bool(method.standings) for method in results.methods) > 1:
            found.append(
                "each method minus each other, on the page: that of the row minus that of the "
                "column; *: the interval does not hold 0, of so many pairs a few by chance"
            )
    if any(method.at_edge for method in results.methods):
        found.append("!: the best rate is at an end of those tried; try more beyond it")
    if any(method.ascent for method in results.methods):
        found.append(
            "gain on others: reward gained by one step on prompts and noise that its gradient has "
            "not seen, at the length that is best in the other draws; at change: of a parameter, "
            "root mean square, where it is largest; survives: the share of the gain on its own"
        )
    if results.predictors:
        listed = ", ".join(f"{n} {v:+.2f}" for n, v in list(results.predictors.items())[:4])
        found.append(f"rank correlation over methods with the gain of training: {listed}")
    return found


def methods_csv(results: Results) -> str:
    """A row for each method, its numbers by dotted names."""
    rows = [dict(_flat(_tree(attrs.evolve(each, rates=())))) for each in results.methods]
    chosen = [each.chosen for each in results.methods]
    return _csv(
        [
            {"label": row["label"], "rate": rate.rate if rate else None, **row}
            for row, rate in zip(rows, chosen, strict=True)
        ]
    )


def _flat(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for name, each in tree.items():
            yield from _flat(each, f"{key}.{name}" if key else name)
    elif isinstance(tree, list | tuple):
        for number, each in enumerate(tree):
            name = each.get("direction", number) if isinstance(each, Mapping) else number
            yield from _flat(each, f"{key}.{name}")
    else:
        yield key, tree


def runs_csv(results: Results) -> str:
    """A row for each evaluation of each run, on the prompts that judge."""
    return _csv(
        [
            {
                "method": method.label,
                "rate": rate.rate,
                "seed": run.seed,
                "step": step,
                "cost": step * method.step_cost,
                **{name: values[place] for name, values in run.judging.items()},
            }
            for method in results.methods
            for rate in method.rates
            for run in rate.runs
            for place, step in enumerate(run.steps)
        ]
    )


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, columns(rows), lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def results_json(results: Results) -> str:
    """All of it but the numbers of single prompts, as standard JSON."""
    return json.dumps(_standard(_tree(results)), indent=1, allow_nan=False) + "\n"


def _tree(value: Any) -> dict[str, Any]:
    return attrs.asdict(value, filter=lambda field, _: field.name != "gains")


def _standard(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _standard(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_standard(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

"""The results of a study as one self-contained page, in the style of a run's report."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib.resources import files

import attrs
import jinja2
from markupsafe import Markup

from flowbp.evaluation.charts import Axis, Curve, Point, axis_for, path, picture
from flowbp.significant_digits import written
from flowbp.study.results import MethodResult, Results
from flowbp.study.tables import (
    Row,
    ascent_rows,
    columns,
    falls_text,
    notes,
    pair_rows,
    training_rows,
)

COLOURS = 8
"""Of curves, before dashes tell them apart."""


@attrs.frozen
class Line:
    """A method's line in a chart; its number is that of the method, in every chart."""

    number: int
    name: str
    points: Sequence[Point]


@attrs.frozen
class Drawing:
    """A chart with its title and legend."""

    title: str
    svg: Markup
    lines: Sequence[Line]


def drawing(title: str, across: str, lines: Sequence[Line]) -> Drawing | None:
    """Draw lines over a common axis; None where there is nothing to draw."""
    points = [p for line in lines for p in line.points if all(map(math.isfinite, p))]
    if not points:
        return None
    below, up = _across([x for x, _ in points]), axis_for([y for _, y in points])
    paths = [
        path(Curve(line.name, tuple(line.points)), below, up, style(line.number)) for line in lines
    ]
    return Drawing(title, picture(f"{title} against {across}", below, up, across, paths), lines)


def style(number: int) -> str:
    """The class of a method's line."""
    return f"line-{number % COLOURS} dash-{number // COLOURS % 3}"


def _across(values: Sequence[float]) -> Axis:
    low, high = min(values), max(values)
    if low > 0 and high / low >= 10:
        return Axis(low, high, logarithmic=True)
    return Axis(low, high if high > low else low + 1)


def training_drawings(results: Results) -> list[Drawing]:
    """Each metric against cost, at the rate of each method, and its end against the rate."""
    found = []
    for metric in results.metrics:
        curves, ends = list[Line](), list[Line]()
        for number, method in enumerate(results.methods):
            if method.chosen is not None:
                curves.append(Line(number, method.label, _mean_curve(method, metric)))
            sound = [rate for rate in method.rates if not rate.failed]
            points = [(rate.rate, rate.final(metric, judging=True)) for rate in sound]
            ends.append(Line(number, method.label, points))
        found.append(drawing(f"{metric} on held-out prompts", "cost", curves))
        found.append(drawing(f"{metric} at the end", "learning rate", ends))
    return [each for each in found if each is not None]


def _mean_curve(method: MethodResult, metric: str) -> list[Point]:
    assert method.chosen is not None
    runs = method.chosen.runs
    values = zip(*(run.judging[metric] for run in runs), strict=True)
    costs = (step * method.step_cost for step in runs[0].steps)
    return [(cost, math.fsum(v) / len(v)) for cost, v in zip(costs, values, strict=True)]


def ascent_drawings(results: Results) -> list[Drawing]:
    """What steps of each length gain, on others and on the gradient's own samples."""
    found = []
    known = [(n, m.label, m.ascent) for n, m in enumerate(results.methods) if m.ascent is not None]
    for place, direction in enumerate(known[0][2].directions if known else ()):
        for side in ("others", "same"):
            lines = [
                Line(n, label, list(zip(ascent.rms_changes, getattr(each, side), strict=True)))
                for n, label, ascent in known
                for each in [ascent.directions[place]]
            ]
            words = "others" if side == "others" else "its own samples"
            title = f"{direction.direction} step: gain on {words}"
            found.append(drawing(title, "change of a parameter, root mean square", lines))
    return [each for each in found if each is not None]


def render(results: Results, *, title: str, configuration: str) -> str:
    """Write the page; it loads nothing and runs no script but its own, which sorts tables."""
    engine = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _template("report.js.j2").strip()
    tables = {
        "What training gained": training_rows(results),
        "What one step gains": ascent_rows(results),
        **{
            f"Each method minus each other: {metric}": pair_rows(results, metric)
            for metric in results.metrics
        },
        "Every rate": _rate_rows(results),
    }
    return engine.get_template("page.html.j2").render(
        title=title,
        tables={name: (columns(rows), rows) for name, rows in tables.items() if rows},
        notes=notes(results),
        falls=_falls(results),
        training=training_drawings(results),
        ascent=ascent_drawings(results),
        predictors={name: f"{value:+.2f}" for name, value in results.predictors.items()},
        configuration=configuration,
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=style,
    )


def _rate_rows(results: Results) -> list[Row]:
    rows = list[Row]()
    for method in results.methods:
        for place, rate in enumerate(method.rates):
            row = {"method": method.label, "rate": f"{rate.rate:g}"}
            row["chosen"] = "yes" if place == method.best else ""
            for metric in results.metrics:
                for words, judging in (("choosing", False), ("judging", True)):
                    end = "-" if rate.failed else written(rate.final(metric, judging=judging))
                    row[f"{metric}, {words} prompts"] = end
            rows.append(row | {"fell": falls_text(rate.runs)})
    return rows


def _falls(results: Results) -> list[str]:
    """What collapsed and when, of the rates that were chosen."""
    found = []
    for method in results.methods:
        for run in method.chosen.runs if method.chosen is not None else ():
            for words, fall in (("held-out", run.held_out), ("training", run.training)):
                if fall is not None:
                    found.append(
                        f"{method.label}, seed {run.seed}: the {words} reward was best at step "
                        f"{fall.peak} and lies below that from step {fall.since} on, by "
                        f"{written(fall.fall, 2)} in the end."
                    )
        if method.rates and method.chosen is None:
            failures = [run.failure for rate in method.rates for run in rate.runs if run.failure]
            found.append(f"{method.label} diverged at every rate: {failures[0]}")
        found += [f"{method.label}: {each}" for each in method.ascent_failures]
    return found


def _template(name: str) -> str:
    # The report's style and script, so that both pages look and sort alike.
    package = "flowbp.evaluation" if name.startswith("report.") else "flowbp.study"
    return files(package).joinpath(name).read_text("utf-8")

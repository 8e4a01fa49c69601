"""One self-contained page that shows what training changed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import jinja2
from torch import Tensor

from flowbp.evaluation.charts import held_out_charts, training_charts
from flowbp.evaluation.collapse import told_of_fall
from flowbp.evaluation.metric import as_tuple
from flowbp.evaluation.number_format import unit_of
from flowbp.evaluation.report_gallery import gallery
from flowbp.evaluation.reward_hacking import warnings_of
from flowbp.evaluation.scores import ScoreRow, Scores
from flowbp.evaluation.statistics import LEAST, rule
from flowbp.evaluation.tables import kind_lines, metric_lines
from flowbp.files import write_atomically
from flowbp.validators import not_empty

Picture = Callable[[ScoreRow], Tensor]
"""Finds the picture (3, H, W) in [0, 1] of a row; asked only for those that are shown."""


def _columns(trained: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    return {model: tuple(columns) for model, columns in trained.items()}


@attrs.frozen(kw_only=True, eq=False)
class Report:
    """What the page shows."""

    title: str = attrs.field(validator=not_empty)
    scores: Scores
    picture: Picture
    subtitle: str = ""
    trained: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, converter=_columns)
    metrics: tuple[Mapping[str, Any], ...] = attrs.field(default=(), converter=as_tuple)
    held_out: tuple[Mapping[str, Any], ...] = attrs.field(default=(), converter=as_tuple)
    held_out_each: tuple[Mapping[str, Any], ...] = attrs.field(default=(), converter=as_tuple)
    held_out_prompts: Sequence[str] | None = None
    held_out_signs: Mapping[str, int] = attrs.field(factory=dict)
    configuration: str = ""
    timings: Mapping[str, float] = attrs.field(factory=dict)
    sessions: int = 1
    environment: Mapping[str, str] = attrs.field(factory=dict)
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        if len(self.scores.models) < 2:
            raise ValueError(
                f"`scores` must have the base and at least one more model, got "
                f"{', '.join(self.scores.models)}; a page of one has nothing to compare"
            )
        if self.held_out_each and len(self.held_out_each) != len(self.held_out):
            raise ValueError(
                f"`held_out_each` must be as many as the {len(self.held_out)} of `held_out`, got "
                f"{len(self.held_out_each)}"
            )
        for model, columns in self.trained.items():
            unknown = {model} - {*self.scores.models}
            unknown |= {*columns} - {*self.scores.columns}
            if unknown:
                raise ValueError(
                    f"`trained` must be of the models {', '.join(self.scores.models)} and the "
                    f"columns {', '.join(self.scores.columns)}, got {min(unknown)!r}"
                )


def render(report: Report) -> str:
    """Write the page, which loads nothing and may run its own script alone, by its digest."""
    engine = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters.update(duration=_duration)
    scores, script = report.scores, _template("report.js.j2").strip()
    lines = metric_lines(scores, seed=report.seed)
    tested = sum(line.significant is not None for line in lines)
    return engine.get_template("report.html.j2").render(
        report=report,
        scores=scores,
        base=scores.models[0],
        others=scores.models[1:],
        lines=lines,
        tested=tested,
        prompts=scores.prompts,
        pictures=sum(row.model == scores.models[0] for row in scores.rows),
        rule=rule(tested),
        least=LEAST,
        headlines=[line for line in lines if line.model == scores.models[1]][:3],
        kinds=kind_lines(scores, seed=report.seed) if len(scores.kinds) > 1 else (),
        units={column: unit_of(scores, column) for column in scores.columns},
        gallery=gallery(scores, report.picture),
        warnings=warnings_of(
            lines,
            report.held_out,
            report.trained,
            each=report.held_out_each,
            prompts=report.held_out_prompts,
            signs=report.held_out_signs,
            seed=report.seed,
        )
        + told_of_fall([row["reward"] for row in report.metrics if "reward" in row]),
        over_time=held_out_charts(report.held_out, report.metrics),
        charts=training_charts(report.metrics),
        script=script,
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_report(path: Path, report: Report) -> None:
    """Write the page to `path` in one step: a reader sees the old file or the whole new one."""
    write_atomically(path, render(report))


def _template(name: str) -> str:
    return files("flowbp.evaluation").joinpath(name).read_text("utf-8")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"

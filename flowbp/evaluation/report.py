"""One self-contained page that shows what a run changed."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import jinja2
from torch import Tensor

from flowbp.evaluation.curves import training_charts
from flowbp.evaluation.examples import choose_examples, count_outcomes
from flowbp.evaluation.pictures import TINY, data_uri
from flowbp.evaluation.records import Comparison, Pair
from flowbp.evaluation.summary import summarise
from flowbp.evaluation.validators import not_empty
from flowbp.files import write_whole


@attrs.frozen(kw_only=True, eq=False)
class Report:
    """What the page shows.

    Args:
        title: its heading.
        comparison: the two evaluations.
        before: pictures ``(n, 3, H, W)`` in [0, 1], in the order of the records.
        after: the same of the second evaluation.
        subtitle: a sentence below the heading, such as the method and the number of steps.
        metrics: rows of the run's metrics with `step` and any of `reward`, `loss`,
            `gradient_norm`, `residual_0`, …; without rows there are no curves.
        configuration: the resolved configuration as text.
        timings: seconds by what took them, in the order to show.
        environment: versions, device and seed, see `environment`.
        seed: seed of the bootstrap behind the intervals.

    Raises:
        ValueError: when the pictures are not one for every record.

    Example:
        >>> import torch
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> old = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> pictures = torch.zeros(1, 3, 8, 8)
        >>> report = Report(
        ...     title="A run", comparison=Comparison(old, old), before=pictures, after=pictures
        ... )
        >>> render(report)[:15]
        '<!doctype html>'
    """

    title: str = attrs.field(validator=not_empty)
    comparison: Comparison
    before: Tensor
    after: Tensor
    subtitle: str = ""
    metrics: tuple[Mapping[str, Any], ...] = attrs.field(default=(), converter=tuple)
    configuration: str = ""
    timings: Mapping[str, float] = attrs.field(factory=dict)
    environment: Mapping[str, str] = attrs.field(factory=dict)
    seed: int = 0

    def __attrs_post_init__(self) -> None:
        count = len(self.comparison.pairs)
        for name in ("before", "after"):
            pictures = getattr(self, name)
            if pictures.ndim != 4 or pictures.shape[:2] != (count, 3):
                raise ValueError(
                    f"`{name}` must hold one picture per record, shape ({count}, 3, H, W), got "
                    f"{tuple(pictures.shape)}; give what evaluate returned beside the records"
                )


@attrs.frozen
class _Shown:
    pair: Pair
    before: str
    after: str


def render(report: Report) -> str:
    """Write the page: headline figures, table, pictures, curves, configuration and timings.

    The page loads nothing: pictures are `data:` addresses, curves inline SVG, and its content
    security policy forbids the rest. Prompts and configuration are escaped.

    Args:
        report: what to show.

    Returns:
        HTML.

    Example:
        See `Report`.
    """
    engine = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    engine.filters.update(signed=_signed, duration=_duration)
    width = report.before.shape[-1]
    return engine.get_template("report.html.j2").render(
        report=report,
        summary=summarise(report.comparison, seed=report.seed),
        outcomes=count_outcomes(report.comparison),
        groups=_groups(report),
        charts=training_charts(report.metrics),
        shown_width=width * max(1, round(TINY / width)) if width <= TINY else None,
    )


def write_report(path: Path, report: Report) -> None:
    """Write the page to `path` in one step: a reader sees the old file or the whole new one.

    Args:
        path: the file; its folder is made when it is not there.
        report: what to show.

    Raises:
        OSError: when the file cannot be written; an older one is then left as it was.

    Example:
        See `Report`; then ``write_report(Path("report.html"), report)``.
    """
    write_whole(path, render(report))


def _template(name: str) -> str:
    return files("flowbp.evaluation").joinpath(name).read_text("utf-8")


def _groups(report: Report) -> list[tuple[str, str, list[_Shown]]]:
    examples = choose_examples(report.comparison)
    pairs = report.comparison.pairs

    def shown(places: tuple[int, ...]) -> list[_Shown]:
        return [
            _Shown(pairs[i], data_uri(report.before[i]), data_uri(report.after[i])) for i in places
        ]

    order = "newly passing first, then by reward" if report.comparison.judged else "by reward"
    reverse = "newly failing first, then by reward" if report.comparison.judged else "by reward"
    groups = [
        ("Largest gains", f"Chosen by their outcome: {order}.", shown(examples.gains)),
        ("Largest losses", f"Chosen by their outcome: {reverse}.", shown(examples.losses)),
        (
            "An even sample",
            "Evenly spaced over the list of prompts, whatever their outcome.",
            shown(examples.sample),
        ),
    ]
    return [group for group in groups if group[2]]


def _signed(value: float, digits: int) -> str:
    # A typographic minus has the width of the plus, so that columns of figures line up.
    return f"{value:+.{digits}f}".replace("-", "−")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"

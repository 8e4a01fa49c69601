"""The page: what was measured beside what is published."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from examples.paper.published import (
    BASE,
    COLUMNS,
    DIFFERENCES,
    METHODS,
    MODELS,
    PLACES,
    SCORES,
    TABLES,
    UNNAMED,
)
from examples.paper.settings import Paper
from examples.paper.tasks import Row
from flowbp.evaluation import Scores, counted, scores_table
from flowbp.evaluation.number_format import unit_of

_MISSING = "–"
_HEADING = f"""\
# The tables of arXiv 2606.11075

Means over all prompts. In brackets is what is published, as far as it is recorded here; the other
published numbers are in the paper. {_MISSING} stands for what has not been measured, or under other
settings alone.
"""


def page(paper: Paper) -> str:
    """The page, from the scores that are there."""
    parts = [_HEADING]
    for model in dict.fromkeys(task.model for task in paper.tasks):
        parts.append(f"## {MODELS[model]}\n")
        for table in TABLES:
            rows = [row for row in paper.rows if (row.model, row.table) == (model, table)]
            if rows:
                parts += _table(model, table, rows)
    parts += ["## Where the settings differ from the published ones\n", *_differences(paper)]
    return "\n".join(parts)


def merged(found: Mapping[str, Scores]) -> Scores | None:
    """The scores of several evaluations on the same prompts and noise; None without any."""
    if not found:
        return None
    rows = [attrs.evolve(r, model=label) for label, each in found.items() for r in each.rows]
    failures = [attrs.evolve(f, model=label) for label, s in found.items() for f in s.failures]
    totals = {name: parts for each in found.values() for name, parts in each.totals.items()}
    scales = {name: scale for each in found.values() for name, scale in each.scales.items()}
    return Scores(rows, failures, totals, scales)


def _table(model: str, table: str, rows: Sequence[Row]) -> Iterator[str]:
    read = {row.label: row.scores() for row in rows}
    scores = merged({label: each for label, each in read.items() if each is not None})
    published = SCORES[model] if table == "scores" else {}
    columns = _columns(scores, rows, published)
    settings = rows[0].settings
    prompts, seeds = len(settings.prompts.prompts()), len(settings.evaluation.seeds)
    pictures = counted(seeds, "picture")
    yield f"### {TABLES[table]}\n\n{counted(prompts, 'prompt')}, {pictures} of each.\n"
    yield _line(["", *(COLUMNS.get(column, column) for column in columns)])
    yield _line(["---", *("---:" for _ in columns)])
    for label in (BASE, *METHODS, UNNAMED):
        if label in read or label in published:
            known = published.get(label, {})
            cells = [_cell(scores, label, column, known) for column in columns]
            yield _line([METHODS.get(label, label), *cells])
    yield ""
    outdated = {METHODS.get(row.label, row.label): row.outdated() for row in rows}
    told = [
        f"- {n}, measured under other settings: {'; '.join(w)}." for n, w in outdated.items() if w
    ]
    if told:
        yield "\n".join([*told, ""])
    if scores is not None and scores.models[0] == BASE and len(scores.models) > 1:
        yield f"```text\n{scores_table(scores)}\n```\n"
    elif scores is not None:
        for failure in scores.failures:
            yield f"- FAILED: {failure.metric} of {failure.model}: {failure.message}"


def _columns(
    scores: Scores | None, rows: Sequence[Row], published: Mapping[str, Mapping[str, str]]
) -> list[str]:
    there = scores.columns_and_totals if scores else ()
    wanted = [*rows[0].settings.metrics, *(c for known in published.values() for c in known)]
    found: dict[str, None] = {}
    for label in wanted:
        own = [c for c in there if c == label or c.startswith(f"{label}.")]
        found |= dict.fromkeys(own or [label])
    return list(found)


def _cell(scores: Scores | None, label: str, column: str, known: Mapping[str, str]) -> str:
    mean = scores.mean(label, column) if scores and label in scores.models else None
    if scores is None or mean is None:
        measured = _MISSING
    elif column in PLACES:
        measured = f"{mean.mean:.{PLACES[column]}f}"
    else:
        measured = unit_of(scores, column).plain(mean.mean)
    return f"{measured} ({known[column]})" if column in known else measured


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _differences(paper: Paper) -> Iterator[str]:
    yield from (f"- {each}" for each in DIFFERENCES)
    for model, changed in paper.changed.items():
        for each, methods in changed.items():
            of = MODELS[model]
            if methods:
                of += f" with {', '.join(METHODS[name] for name in methods)}"
            yield f"- Yours, of {of}: `{each.key}` is {each.new} instead of {each.old}."
    yield ""

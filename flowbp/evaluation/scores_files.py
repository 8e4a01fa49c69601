"""Scores as JSON and CSV, and back from JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from flowbp.evaluation.metric import Scale
from flowbp.evaluation.scores import Compared, MetricFailure, ScoreRow, Scores, compare
from flowbp.evaluation.statistics import rule

_FORMAT = 2
# By which spreadsheets know formulas. An apostrophe is put before them and before an apostrophe, so
# that taking the first one away gives every text back.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "'")
_KEYS = ("model", "number", "seed", "prompt", "kind")
TOTAL = "total"
"""In place of the kind of a prompt, in the lines of totals."""


def scores_to_json(scores: Scores) -> str:
    """Write scores as JSON, the summary included for the reader; NaN becomes null."""
    compared = compare(scores)
    tree = {
        "format": _FORMAT,
        "base": scores.models[0],
        "totals": {name: list(columns) for name, columns in scores.totals.items()},
        "scales": {name: attrs.asdict(scores.scale(name)) for name in scores.scales},
        "significance": rule(sum(each.p is not None for each in compared)),
        "summary": {model: _summary(scores, model, compared) for model in scores.models},
        "failures": [attrs.asdict(failure) for failure in scores.failures],
        "rows": [_written(row) for row in scores.rows],
    }
    return json.dumps(tree, ensure_ascii=False, indent=1, allow_nan=False)


def scores_from_json(text: str) -> Scores:
    """Read scores that `scores_to_json` wrote; the summary is worked out anew when asked for."""
    try:
        tree = json.loads(text)
        if tree["format"] != _FORMAT:
            raise ValueError(
                f"it is of format {tree['format']!r}, and this version reads {_FORMAT}"
            )
        rows = [
            ScoreRow(
                **{key: row[key] for key in _KEYS},
                values={
                    column: math.nan if value is None else float(value)
                    for column, value in row["values"].items()
                },
            )
            for row in tree["rows"]
        ]
        failures = [MetricFailure(**failure) for failure in tree["failures"]]
        totals = {name: tuple(columns) for name, columns in tree["totals"].items()}
        scales = {name: Scale(**scale) for name, scale in tree["scales"].items()}
        return Scores(rows, failures, totals, scales)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"`text` holds no scores ({type(error).__name__}: {error}); give what scores_to_json "
            "returned"
        ) from error


def scores_to_csv(scores: Scores) -> str:
    """Write scores as CSV, a line for each picture; a value that is not there is empty."""
    columns = scores.columns_and_totals
    lines = [_line([*_KEYS, *map(_inert, columns)])]
    for row in scores.rows:
        values = (row.values.get(column, math.nan) for column in columns)
        cells = ("" if math.isnan(value) else repr(value) for value in values)
        lines.append(_line([*(_inert(getattr(row, key)) for key in _KEYS), *cells]))
    # Totals alone stand in lines of their own, so that the mean over a model's lines is right for
    # every column.
    for model in scores.models:
        means = [scores.mean(model, name) if name in scores.totals else None for name in columns]
        if any(means):
            cells = ("" if mean is None else repr(mean.mean) for mean in means)
            lines.append(_line([_inert(model), "", "", "", TOTAL, *cells]))
    return "".join(lines)


def _line(cells: Sequence[Any]) -> str:
    stream = io.StringIO()
    # A carriage return in a prompt is quoted only if it is in the line's end, and read as one else.
    csv.writer(stream, lineterminator="\r\n").writerow(cells)
    return stream.getvalue().removesuffix("\r\n") + "\n"


def _inert(value: str | int) -> str | int:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _written(row: ScoreRow) -> dict[str, Any]:
    values = {column: None if math.isnan(v) else v for column, v in row.values.items()}
    return {**{key: getattr(row, key) for key in _KEYS}, "values": values}


def _summary(scores: Scores, model: str, compared: Sequence[Compared]) -> Mapping[str, Any]:
    own = {each.column: each for each in compared if each.model == model}
    found = {}
    for column in scores.columns_and_totals:
        mean = scores.mean(model, column)
        prompts, pictures = scores.counts(model, column)
        tree: dict[str, Any] = {"prompts": prompts, "pictures": pictures}
        tree |= {} if mean is None else attrs.asdict(mean)
        if column in own:
            each = own[column]
            tree["gain"] = {
                **attrs.asdict(each.paired.change.gain),
                "prompts": each.paired.prompts,
                "pictures": each.paired.pictures,
                "p": each.p,
                "corrected_p": each.corrected,
                "significant": each.significant,
            }
        found[column] = tree
    return found

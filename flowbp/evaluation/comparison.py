"""The evaluations before and after training: their scores, and the files that hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import attrs
import cattrs
from cattrs.v import format_exception

from flowbp.evaluation.metric import Scale, as_tuple
from flowbp.evaluation.reward_metrics import WHOLE
from flowbp.evaluation.scores import ScoreRow, Scores
from flowbp.validators import not_empty, real

ACCURACY = "accuracy"
"""The column of a judge's verdicts or scores."""

FORMAT = 2


@attrs.frozen(kw_only=True)
class Evaluation:
    """The scores of one model on a list of prompts, from one seed of noise: a row a prompt."""

    label: str = attrs.field(validator=not_empty)
    noise_seed: int
    seconds: float = attrs.field(converter=float, validator=real(0))
    judged: bool = False
    rows: tuple[ScoreRow, ...] = attrs.field(converter=as_tuple, validator=not_empty)

    @rows.validator
    def _of_the_same_columns(self, _: Any, rows: tuple[ScoreRow, ...]) -> None:
        first = rows[0]
        for row in rows:
            if list(row.values) != list(first.values):
                raise ValueError(
                    f"`rows` must have the same columns, got {', '.join(first.values)} at "
                    f"{first.prompt!r} and {', '.join(row.values)} at {row.prompt!r}; score all "
                    "of them with one reward, and judge all of them or none"
                )
            for column, value in row.values.items():
                if not math.isfinite(value):
                    raise ValueError(
                        f"`{column}` must be a finite number, got {value!r} at {row.prompt!r}"
                    )

    @property
    def parts(self) -> tuple[str, ...]:
        """The columns of a composed reward's parts; none for another reward."""
        own = {WHOLE, ACCURACY} if self.judged else {WHOLE}
        return tuple(column for column in self.rows[0].values if column not in own)


@attrs.frozen
class Comparison:
    """Two evaluations of the same prompts from the same noise."""

    before: Evaluation
    after: Evaluation
    scores: Scores = attrs.field(init=False, eq=False, repr=False)

    @scores.default
    def _side_by_side(self) -> Scores:
        sides = {"before": self.before, "after": self.after}
        rows = (attrs.evolve(row, model=name) for name, each in sides.items() for row in each.rows)
        return Scores(rows, scales={ACCURACY: Scale(verdict=True)} if self.before.judged else {})

    def __attrs_post_init__(self) -> None:
        for name in ("noise_seed", "judged", "parts"):
            old, new = getattr(self.before, name), getattr(self.after, name)
            if old != new:
                raise ValueError(
                    f"`{name}` is {old!r} before and {new!r} after; evaluate both models with one "
                    "seed, one judge and one reward"
                )
        old, new = (
            [(row.number, row.prompt, row.kind) for row in side.rows]
            for side in (self.before, self.after)
        )
        if len(old) != len(new):
            raise ValueError(
                f"`prompts` are {len(old)} before and {len(new)} after; evaluate both on one list"
            )
        for first, second in zip(old, new, strict=True):
            if first != second:
                raise ValueError(
                    f"`prompts` differ: {first!r} before, {second!r} after; evaluate both on one "
                    "list"
                )


@attrs.frozen(kw_only=True)
class _Record:
    index: int
    prompt: str
    kind: str
    reward: float
    judged: float | None = None
    parts: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class EvaluationFile:
    """What `before.json`, and each half of `comparison.json`, holds of an `Evaluation`."""

    label: str
    noise_seed: int
    seconds: float
    records: tuple[_Record, ...] = attrs.field(converter=as_tuple, validator=not_empty)

    def __attrs_post_init__(self) -> None:
        self.evaluation()

    def evaluation(self) -> Evaluation:
        """The evaluation that was written."""
        judged = self.records[0].judged is not None
        rows = []
        for each in self.records:
            verdict = {} if each.judged is None else {ACCURACY: each.judged}
            rows.append(
                ScoreRow(
                    model=self.label,
                    number=each.index,
                    seed=self.noise_seed,
                    prompt=each.prompt,
                    kind=each.kind,
                    values={**verdict, WHOLE: each.reward, **each.parts},
                )
            )
        return Evaluation(
            label=self.label,
            noise_seed=self.noise_seed,
            seconds=self.seconds,
            judged=judged,
            rows=rows,
        )


def evaluation_tree(evaluation: Evaluation) -> dict[str, Any]:
    """An evaluation as JSON holds it, see `EvaluationFile`."""
    records = [
        {
            "index": row.number,
            "prompt": row.prompt,
            "kind": row.kind,
            "reward": row.values[WHOLE],
            "judged": row.values[ACCURACY] if evaluation.judged else None,
            "parts": {part: row.values[part] for part in evaluation.parts},
        }
        for row in evaluation.rows
    ]
    return {
        "label": evaluation.label,
        "noise_seed": evaluation.noise_seed,
        "seconds": evaluation.seconds,
        "records": records,
    }


def to_json(comparison: Comparison, *, seed: int = 0) -> str:
    """Write a comparison as JSON with stable keys, its summary included for the reader."""
    tree = {
        "format": FORMAT,
        "summary": _summary(comparison, seed),
        "before": evaluation_tree(comparison.before),
        "after": evaluation_tree(comparison.after),
    }
    return json.dumps(tree, ensure_ascii=False, indent=1, allow_nan=False)


def _summary(comparison: Comparison, seed: int) -> dict[str, Any]:
    scores = comparison.scores

    def line(name: str, own: Scores) -> dict[str, Any]:
        return {
            "name": name,
            "count": sum(row.model == "before" for row in own.rows),
            "reward": _change(own, WHOLE, seed),
            "accuracy": _change(own, ACCURACY, seed) if comparison.before.judged else None,
        }

    return {
        "kinds": [line(kind, scores.of_kind(kind)) for kind in scores.kinds],
        "overall": line("overall", scores),
        "parts": {part: _change(scores, part, seed) for part in comparison.before.parts},
    }


def _change(scores: Scores, column: str, seed: int) -> dict[str, Any]:
    paired = scores.paired("before", "after", column, seed=seed)
    assert paired is not None
    means = {}
    for model in ("before", "after"):
        values = [row.values[column] for row in scores.rows if row.model == model]
        # The plain sum, whose last bit can differ from that of the report's means.
        means[model] = sum(values) / len(values)
    return {**means, "gain": attrs.asdict(paired.change.gain)}


@attrs.frozen
class _ComparisonFile:
    before: EvaluationFile
    after: EvaluationFile


def from_json(text: str) -> Comparison:
    """Read a comparison that `to_json` wrote; its summary is not read."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"`text` is not JSON: {error}; give what to_json returned") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
        raise ValueError(f"`text` must be an object of format {FORMAT}, got {found!r}")
    sides = {name: tree[name] for name in tree if name not in ("format", "summary")}
    converter = cattrs.Converter(forbid_extra_keys=True)
    try:
        file = converter.structure(sides, _ComparisonFile)
    except cattrs.ClassValidationError as error:
        problems = cattrs.transform_error(error, path="comparison", format_exception=_problem)
        raise ValueError(f"`text` is no comparison: {'; '.join(problems)}") from error
    return Comparison(file.before.evaluation(), file.after.evaluation())


def _problem(error: BaseException, type_: type | None) -> str:
    # Our own validators name value and cure; cattrs would shorten that to "invalid value".
    return str(error) if type(error) is ValueError else format_exception(error, type_)

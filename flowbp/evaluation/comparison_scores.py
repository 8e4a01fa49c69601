"""A comparison of two evaluations as scores."""

from __future__ import annotations

from collections.abc import Iterator

from flowbp.evaluation.records import Comparison, Evaluation, Record
from flowbp.evaluation.scale import Scale
from flowbp.evaluation.score_rows import ScoreRow
from flowbp.evaluation.scores import Scores


def scores_of(comparison: Comparison) -> Scores:
    """Write a comparison as the scores of two models, which every report is made of.

    Args:
        comparison: the two evaluations.

    Returns:
        Scores with the columns `accuracy` (with a judge), `reward` and the reward's parts.

    Example:
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> record = Record(index=0, prompt="a circle", kind="k", reward=0.25, passed=True)
        >>> old = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> scores = scores_of(Comparison(old, old))
        >>> scores.columns, scores.rows[0].values
        (('accuracy', 'reward'), {'accuracy': 1.0, 'reward': 0.25})
    """
    sides = {"before": comparison.before, "after": comparison.after}
    rows = [row for model, side in sides.items() for row in _rows(model, side)]
    return Scores(rows, scales={"accuracy": Scale(verdict=True)} if comparison.judged else {})


def _rows(model: str, side: Evaluation) -> Iterator[ScoreRow]:
    for record in side.records:
        yield ScoreRow(
            model=model,
            number=record.index,
            seed=side.noise_seed,
            prompt=record.prompt,
            kind=record.kind,
            values=_values(record),
        )


def _values(record: Record) -> dict[str, float]:
    verdict = {} if record.passed is None else {"accuracy": float(record.passed)}
    return {**verdict, "reward": record.reward, **record.parts}

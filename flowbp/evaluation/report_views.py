"""Which pictures a report shows: gains and losses of each column, and an even sample."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs

from flowbp.evaluation.interval import spread
from flowbp.evaluation.score_rows import ScoreRow
from flowbp.evaluation.scores import Scores

Key = tuple[int, int]
"""A prompt's number and the seed of its noise."""

_GAINS, _LOSSES, _SAMPLE = 8, 4, 8


@attrs.frozen
class View:
    """The pictures of one column and one model beside the base.

    Args:
        gains: the largest gains first.
        losses: the largest losses first.

    Example:
        >>> View(gains=((0, 1),), losses=()).gains
        ((0, 1),)
    """

    gains: tuple[Key, ...]
    losses: tuple[Key, ...]


def pictures_of(scores: Scores) -> Mapping[Key, Mapping[str, ScoreRow]]:
    """The rows of the pictures that every model has.

    Args:
        scores: of all models.

    Returns:
        For each prompt and seed a row by model, in the order of the base's rows.

    Example:
        >>> row = ScoreRow(model="base", number=0, seed=1, prompt="a", kind="k", values={})
        >>> list(pictures_of(Scores([row])))
        [(0, 1)]
    """
    found: dict[Key, dict[str, ScoreRow]] = {}
    for row in scores.rows:
        found.setdefault((row.number, row.seed), {})[row.model] = row
    return {key: rows for key, rows in found.items() if len(rows) == len(scores.models)}


def sample_of(scores: Scores) -> tuple[Key, ...]:
    """An even sample over the prompts of all kinds, chosen without a look at the outcome.

    Args:
        scores: of all models.

    Returns:
        Keys of pictures that every model has.

    Example:
        >>> row = ScoreRow(model="base", number=0, seed=1, prompt="a", kind="k", values={})
        >>> sample_of(Scores([row]))
        ((0, 1),)
    """
    rows = [each[scores.models[0]] for each in pictures_of(scores).values()]
    first = {row.number: row for row in reversed(rows)}
    chosen = [_Prompt(row.prompt, row.kind, row) for row in sorted(first.values(), key=_place)]
    taken = spread(chosen, min(_SAMPLE, len(chosen))) if chosen else ()
    return tuple((prompt.row.number, prompt.row.seed) for prompt in taken)


def view_of(scores: Scores, model: str, column: str) -> View:
    """The largest gains and losses of a model over the base in a column.

    Where less is better, a gain is a fall. Of equal gains, as verdicts often have, the gain in the
    next column decides.

    Args:
        scores: of all models.
        model: the other one.
        column: that is looked at.

    Returns:
        Keys of pictures that every model has and the column judges.

    Example:
        >>> row = ScoreRow(model="base", number=0, seed=1, prompt="a", kind="k", values={"r": 0.0})
        >>> view_of(Scores([row, attrs.evolve(row, model="mine", values={"r": 1.0})]), "mine", "r")
        View(gains=((0, 1),), losses=())
    """
    columns = [column, *(each for each in scores.columns if each != column)][:2]
    # How far something has gone where neither is better: the farthest come first.
    signs = {each: scores.scale(each).sign or 1 for each in columns}
    gains: dict[Key, tuple[float, ...]] = {}
    for key, rows in pictures_of(scores).items():
        base, other = rows[scores.models[0]], rows[model]
        gain = tuple(signs[each] * _gain(base, other, each) for each in columns)
        if not math.isnan(gain[0]):
            gains[key] = tuple(0.0 if math.isnan(each) else each for each in gain)
    nothing = (0.0,) * len(columns)
    ranked = sorted(gains, key=lambda key: gains[key], reverse=True)
    better = [key for key in ranked if gains[key] > nothing]
    worse = [key for key in reversed(ranked) if gains[key] < nothing]
    return View(tuple(better[:_GAINS]), tuple(worse[:_LOSSES]))


@attrs.frozen
class _Prompt:
    text: str
    kind: str
    row: ScoreRow


def _place(row: ScoreRow) -> int:
    return row.number


def _gain(base: ScoreRow, other: ScoreRow, column: str) -> float:
    return other.values.get(column, math.nan) - base.values.get(column, math.nan)

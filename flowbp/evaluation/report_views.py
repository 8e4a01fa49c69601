"""Which pictures a report shows: gains and losses of each column, and an even sample."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence, Set

import attrs

from flowbp.evaluation.interval import spread
from flowbp.evaluation.score_rows import ScoreRow
from flowbp.evaluation.scores import Scores

Key = tuple[int, int]
"""A prompt's number and the seed of its noise."""

Pictures = Mapping[Key, Mapping[str, ScoreRow]]
"""The rows of a picture by model."""

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


def pictures_of(scores: Scores) -> Pictures:
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
    models = len(scores.models)
    return {key: rows for key, rows in found.items() if len(rows) == models}


def sample_of(scores: Scores, pictures: Pictures) -> tuple[Key, ...]:
    """An even sample over the prompts of all kinds, chosen without a look at the outcome.

    Args:
        scores: of all models.
        pictures: by `pictures_of`.

    Returns:
        Keys of pictures that every model has.

    Example:
        >>> row = ScoreRow(model="base", number=0, seed=1, prompt="a", kind="k", values={})
        >>> sample_of(Scores([row]), pictures_of(Scores([row])))
        ((0, 1),)
    """
    base = scores.models[0]
    rows = [each[base] for each in pictures.values()]
    first = {row.number: row for row in reversed(rows)}
    chosen = [_Prompt(row.prompt, row.kind, row) for row in sorted(first.values(), key=_place)]
    taken = spread(chosen, min(_SAMPLE, len(chosen))) if chosen else ()
    return tuple((prompt.row.number, prompt.row.seed) for prompt in taken)


def view_of(scores: Scores, pictures: Pictures, model: str, column: str) -> View:
    """The largest gains and losses of a model over the base in a column.

    Where less is better, a gain is a fall. Of equal gains, as verdicts often have, the gain in the
    next column decides.

    Args:
        scores: of all models.
        pictures: by `pictures_of`.
        model: the other one.
        column: that is looked at.

    Returns:
        Keys of pictures that every model has and the column judges.

    Example:
        >>> row = ScoreRow(model="base", number=0, seed=1, prompt="a", kind="k", values={"r": 0.0})
        >>> scores = Scores([row, attrs.evolve(row, model="mine", values={"r": 1.0})])
        >>> view_of(scores, pictures_of(scores), "mine", "r")
        View(gains=((0, 1),), losses=())
    """
    columns = [column, *(each for each in scores.columns if each != column)][:2]
    # How far something has gone where neither is better: the farthest come first.
    signs = {each: scores.scale(each).sign or 1 for each in columns}
    gains: dict[Key, tuple[float, ...]] = {}
    first = scores.models[0]
    for key, rows in pictures.items():
        base, other = rows[first], rows[model]
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


def within(views: Sequence[View], most: int, *, besides: Sequence[Key] = ()) -> tuple[View, ...]:
    """Shorten views until they show no more than so many pictures together.

    The first view stays whole. Of the others every view gives its first gain, then every view its
    first loss, then its second gain and so on, until it is enough; what others show costs nothing.

    Args:
        views: of every model and column, the first one first.
        most: how many pictures all may show together.
        besides: that are shown anyway.

    Returns:
        The views.

    Example:
        >>> views = [View(((0, 0),), ()), View(((1, 0), (2, 0)), ((3, 0),))]
        >>> within(views, 3)[1]
        View(gains=((1, 0),), losses=((3, 0),))
    """
    shown = {*besides, *(key for view in views[:1] for key in (*view.gains, *view.losses))}
    longest = max((len(keys) for view in views for keys in (view.gains, view.losses)), default=0)
    for place in range(longest):
        for keys in itertools.chain(
            (view.gains for view in views), (view.losses for view in views)
        ):
            if place < len(keys) and len(shown) < most:
                shown.add(keys[place])
    return tuple(View(_shown(view.gains, shown), _shown(view.losses, shown)) for view in views)


def _shown(keys: tuple[Key, ...], shown: Set[Key]) -> tuple[Key, ...]:
    # Up to the first that is not, as a list with a gap would not be one of the largest.
    return tuple(itertools.takewhile(shown.__contains__, keys))

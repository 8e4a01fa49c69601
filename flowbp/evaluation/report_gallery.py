"""Which pictures a report shows: gains, losses and an even sample."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
from markupsafe import Markup
from torch import Tensor

from flowbp.evaluation.held_out_prompts import spread
from flowbp.evaluation.pictures import TINY, data_uri
from flowbp.evaluation.scores import ScoreRow, Scores

Key = tuple[int, int]
"""A prompt's number and the seed of its noise."""

Pictures = Mapping[Key, Mapping[str, ScoreRow]]
"""The rows of a picture by model."""

_GAINS, _LOSSES, _SAMPLE = 8, 4, 8


@attrs.frozen
class View:
    """The pictures of one column and one model beside the base."""

    gains: tuple[Key, ...]
    losses: tuple[Key, ...]


def pictures_of(scores: Scores) -> Pictures:
    """The rows of the pictures that every model has."""
    found: dict[Key, dict[str, ScoreRow]] = {}
    for row in scores.rows:
        found.setdefault((row.number, row.seed), {})[row.model] = row
    models = len(scores.models)
    return {key: rows for key, rows in found.items() if len(rows) == models}


def sample_of(scores: Scores, pictures: Pictures) -> tuple[Key, ...]:
    """An even sample over the prompts of all kinds, chosen without a look at the outcome."""
    base = scores.models[0]
    rows = [each[base] for each in pictures.values()]
    first = {row.number: row for row in reversed(rows)}
    chosen = sorted(first.values(), key=lambda row: row.number)
    taken = spread(chosen, min(_SAMPLE, len(chosen))) if chosen else ()
    return tuple((row.number, row.seed) for row in taken)


def view_of(scores: Scores, pictures: Pictures, model: str, column: str) -> View:
    """The largest gains and losses of a model over the base in a column."""
    # Of equal gains, as verdicts often have, the gain in the next column decides.
    columns = [column, *(each for each in scores.columns if each != column)][:2]
    # How far something has gone where neither is better: the farthest come first.
    signs = {each: scores.scale(each).sign or 1 for each in columns}
    gains: dict[Key, tuple[float, ...]] = {}
    for key, rows in pictures.items():
        base, other = rows[scores.models[0]].values, rows[model].values
        gain = [
            signs[each] * (other.get(each, math.nan) - base.get(each, math.nan)) for each in columns
        ]
        if not math.isnan(gain[0]):
            gains[key] = tuple(0.0 if math.isnan(each) else each for each in gain)
    nothing = (0.0,) * len(columns)
    ranked = sorted(gains, key=lambda key: gains[key], reverse=True)
    better = [key for key in ranked if gains[key] > nothing]
    worse = [key for key in reversed(ranked) if gains[key] < nothing]
    return View(tuple(better[:_GAINS]), tuple(worse[:_LOSSES]))


def within(views: Sequence[View], most: int, *, besides: Sequence[Key] = ()) -> tuple[View, ...]:
    """Shorten all views but the first until they show no more than so many pictures together."""
    shown = {*besides, *(key for view in views[:1] for key in (*view.gains, *view.losses))}
    lists = [*(view.gains for view in views), *(view.losses for view in views)]
    longest = max(map(len, lists), default=0)
    # Every view's first gain, every view's first loss, the second gains and so on, until it is
    # enough; what is shown already costs nothing.
    for place in range(longest):
        for keys in lists:
            if place < len(keys) and len(shown) < most:
                shown.add(keys[place])

    def beginning(keys: tuple[Key, ...]) -> tuple[Key, ...]:
        # Up to the first that is not shown, as a list with a gap would not be one of the largest.
        return tuple(itertools.takewhile(shown.__contains__, keys))

    return tuple(View(beginning(view.gains), beginning(view.losses)) for view in views)


MOST = 320
"""Pictures that a page holds, of all models together: some 20 MB of photographs."""


@attrs.frozen
class Example:
    """One prompt and noise, side by side for all models."""

    key: str
    rows: Mapping[str, ScoreRow]
    sources: Mapping[str, str]

    @property
    def prompt(self) -> str:
        """The text."""
        return next(iter(self.rows.values())).prompt


@attrs.frozen
class Gallery:
    """What the page shows at first, what it holds besides, and which lists can be chosen."""

    shown: Mapping[str, tuple[Example, ...]]
    besides: tuple[Example, ...]
    choices: Markup
    width: int | None
    cut: bool


def gallery(scores: Scores, picture: Callable[[ScoreRow], Tensor]) -> Gallery:
    """Choose pictures and encode them, at most `MOST` besides the lists that are shown at first."""
    rows = pictures_of(scores)
    sample = sample_of(scores, rows)
    places = [(model, column) for model in scores.models[1:] for column in scores.columns]
    whole = [view_of(scores, rows, model, column) for model, column in places]
    views = within(whole, MOST // len(scores.models), besides=sample)
    first = views[0] if views else View((), ())
    choices: dict[str, dict[str, Any]] = {model: {} for model in scores.models[1:]}
    for (model, column), view in zip(places, views, strict=True):
        lists = {"gains": view.gains, "losses": view.losses}
        choices[model][column] = {name: [*map(_named, keys)] for name, keys in lists.items()}
    needed = dict.fromkeys(key for view in views for key in (*view.gains, *view.losses))
    examples = {}
    for key in (*needed, *sample):
        sources = {model: data_uri(picture(row)) for model, row in rows[key].items()}
        examples[key] = Example(_named(key), rows[key], sources)
    shown = {"gains": first.gains, "losses": first.losses, "sample": sample}
    at_first = {key for keys in shown.values() for key in keys}
    widths = [picture(row).shape[-1] for key in sample[:1] for row in rows[key].values()]
    width = max(widths, default=0)
    # A label such as "</script>" must not end the element that holds the JSON.
    text = json.dumps(choices).replace("<", "\\u003c").replace("&", "\\u0026")
    return Gallery(
        shown={name: tuple(examples[key] for key in keys) for name, keys in shown.items()},
        besides=tuple(example for key, example in examples.items() if key not in at_first),
        choices=Markup(text),
        width=width * max(1, round(TINY / width)) if 0 < width <= TINY else None,
        cut=list(views) != whole,
    )


def _named(key: Key) -> str:
    return f"{key[0]}-{key[1]}"


def even_sample(rows: Sequence[ScoreRow], count: int) -> list[int]:
    """Places of at most `count` rows, evenly over the kinds in alphabetical order."""
    by_kind = sorted(rows, key=lambda row: row.kind)
    return sorted(map(list(rows).index, spread(by_kind, min(count, len(rows)))))

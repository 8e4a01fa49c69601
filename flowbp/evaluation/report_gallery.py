"""The pictures of a report, each in it once or twice, and the lists that a reader can choose."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import attrs
from markupsafe import Markup
from torch import Tensor

from flowbp.evaluation.pictures import TINY, data_uri
from flowbp.evaluation.report_views import Key, View, pictures_of, sample_of, view_of, within
from flowbp.evaluation.score_rows import ScoreRow
from flowbp.evaluation.scores import Scores

MOST = 320
"""Pictures that a page holds, of all models together: some 20 MB of photographs."""


@attrs.frozen
class Example:
    """One prompt and noise, side by side for all models.

    Args:
        key: that names it in lists.
        rows: by model.
        sources: `data:` addresses by model.

    Example:
        See `gallery`.
    """

    key: str
    rows: Mapping[str, ScoreRow]
    sources: Mapping[str, str]

    @property
    def prompt(self) -> str:
        """The text."""
        return next(iter(self.rows.values())).prompt


@attrs.frozen
class Gallery:
    """What the page shows at first, what it holds besides, and which lists can be chosen.

    Args:
        shown: the lists of the first column and model, by `gains`, `losses` and `sample`.
        besides: what other lists need.
        choices: keys of every list by model and column, as JSON that a page can hold.
        width: pixels that a tiny picture is shown with; None for others.
        cut: whether lists are shorter than they could be, as the page would be too heavy.

    Example:
        See `gallery`.
    """

    shown: Mapping[str, tuple[Example, ...]]
    besides: tuple[Example, ...]
    choices: Markup
    width: int | None
    cut: bool


def gallery(scores: Scores, picture: Callable[[ScoreRow], Tensor]) -> Gallery:
    """Choose pictures and encode them, at most `MOST` besides the lists that are shown at first.

    Args:
        scores: of all models.
        picture: finds the picture of a row.

    Returns:
        The gallery.

    Example:
        >>> import torch
        >>> row = ScoreRow(model="base", number=0, seed=0, prompt="a", kind="k", values={"r": 0.5})
        >>> scores = Scores([row, attrs.evolve(row, model="mine", values={"r": 0.75})])
        >>> [len(each) for each in gallery(scores, lambda row: torch.zeros(3, 8, 8)).shown.values()]
        [1, 0, 1]
    """
    rows = pictures_of(scores)
    sample = sample_of(scores, rows)
    places = [(model, column) for model in scores.models[1:] for column in scores.columns]
    whole = [view_of(scores, rows, model, column) for model, column in places]
    views = within(whole, MOST // len(scores.models), besides=sample)
    first = views[0] if views else View((), ())
    needed = dict.fromkeys(key for view in views for key in (*view.gains, *view.losses))
    choices: dict[str, dict[str, Any]] = {model: {} for model in scores.models[1:]}
    for (model, column), view in zip(places, views, strict=True):
        choices[model][column] = _lists(view)
    examples = {key: _example(key, rows[key], picture) for key in (*needed, *sample)}
    shown = {"gains": first.gains, "losses": first.losses, "sample": sample}
    at_first = {key for keys in shown.values() for key in keys}
    widths = [picture(row).shape[-1] for key in sample[:1] for row in rows[key].values()]
    width = max(widths, default=0)
    return Gallery(
        shown={name: tuple(examples[key] for key in keys) for name, keys in shown.items()},
        besides=tuple(example for key, example in examples.items() if key not in at_first),
        choices=_json(choices),
        width=width * max(1, round(TINY / width)) if 0 < width <= TINY else None,
        cut=list(views) != whole,
    )


def _example(
    key: Key, rows: Mapping[str, ScoreRow], picture: Callable[[ScoreRow], Tensor]
) -> Example:
    sources = {model: data_uri(picture(row)) for model, row in rows.items()}
    return Example(_named(key), rows, sources)


def _lists(view: View) -> dict[str, list[str]]:
    return {"gains": list(map(_named, view.gains)), "losses": list(map(_named, view.losses))}


def _named(key: Key) -> str:
    return f"{key[0]}-{key[1]}"


def _json(tree: Any) -> Markup:
    # A label such as "</script>" must not end the element that holds the JSON.
    return Markup(json.dumps(tree).replace("<", "\\u003c").replace("&", "\\u0026"))

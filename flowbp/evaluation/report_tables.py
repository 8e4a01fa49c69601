"""The figures of a report: a line for each comparison with the base."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from flowbp.evaluation.comparing import compare
from flowbp.evaluation.scores import Paired, Scores
from flowbp.evaluation.units import Unit, WrittenChange, unit_of


@attrs.frozen
class Line:
    """One comparison with the base.

    Args:
        name: the column, or the kind of prompt.
        model: the label of the other model.
        column: the column.
        paired: the comparison.
        unit: how its numbers are written.
        sign: of what is better, see `Scale`.
        significant: whether the gain is called so; None where that was not tested.

    Example:
        See `metric_lines`.
    """

    name: str
    model: str
    column: str
    paired: Paired
    unit: Unit
    sign: int = 1
    significant: bool | None = None

    @property
    def written(self) -> WrittenChange:
        """The change in words."""
        return self.unit.change(self.paired.change)

    @property
    def verdict(self) -> str:
        """What can be said: `up`, `down`, or nothing where neither is significant."""
        if not self.significant:
            return ""
        return "up" if self.paired.change.gain.mean > 0 else "down"

    @property
    def worth(self) -> str:
        """What that means: `good`, `bad`, or nothing where nothing can be said."""
        if not self.verdict:
            return ""
        return "good" if self.sign * self.paired.change.gain.mean > 0 else "bad"


def metric_lines(scores: Scores, *, seed: int = 0) -> tuple[Line, ...]:
    """One line for each column or total, and each model but the base.

    Args:
        scores: of all models.
        seed: of bootstrap and test.

    Returns:
        The lines; a comparison without a picture that both have is left out.

    Example:
        >>> import attrs
        >>> from flowbp.evaluation.score_rows import ScoreRow
        >>> row = ScoreRow(model="base", number=0, seed=0, prompt="a", kind="k", values={"r": 0.5})
        >>> [line.name for line in metric_lines(Scores([row, attrs.evolve(row, model="mine")]))]
        ['r']
    """
    return tuple(
        Line(
            each.column,
            each.model,
            each.column,
            each.paired,
            unit_of(scores, each.column),
            scores.scale(each.column).sign,
            each.significant if each.p is not None else None,
        )
        for each in compare(scores, seed=seed)
    )


def kind_lines(scores: Scores, *, seed: int = 0) -> tuple[Line, ...]:
    """One line for each kind of prompt, column and model but the base; none is tested.

    Args:
        scores: of all models.
        seed: of the bootstrap.

    Returns:
        The lines, kind by kind.

    Example:
        See `metric_lines`.
    """
    return tuple(line for kind in scores.kinds for line in _of_kind(scores, kind, seed))


def _of_kind(scores: Scores, kind: str, seed: int) -> Iterator[Line]:
    base, *others = scores.models
    part = scores.of_kind(kind)
    # Not of totals, which are of several kinds.
    for column in scores.columns:
        sign = scores.scale(column).sign
        for model in others:
            paired = part.paired(base, model, column, seed=seed)
            if paired is not None:
                yield Line(kind, model, column, paired, unit_of(scores, column), sign)

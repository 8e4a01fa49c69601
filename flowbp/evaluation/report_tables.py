"""The figures of a report: a line for each comparison with the base."""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from flowbp.evaluation.comparing import compare
from flowbp.evaluation.scores import Paired, Scores


@attrs.frozen
class Unit:
    """How the numbers of a column are written.

    Args:
        percent: as a share of pictures, which pass or fail.
        digits: after the point.

    Example:
        >>> Unit(percent=True, digits=1).plain(0.5), Unit(percent=False, digits=3).signed(-0.5)
        ('50.0 %', '−0.500')
    """

    percent: bool
    digits: int

    def plain(self, value: float) -> str:
        """A mean."""
        number = f"{self._scaled(value):.{self.digits}f}".replace("-", "−")
        return f"{number} %" if self.percent else number

    def signed(self, value: float) -> str:
        """A difference; of shares in percentage points."""
        # A typographic minus has the width of the plus, so that columns of figures line up.
        return f"{self._scaled(value):+.{self.digits}f}".replace("-", "−")

    def _scaled(self, value: float) -> float:
        return 100 * value if self.percent else value


@attrs.frozen
class Line:
    """One comparison with the base.

    Args:
        name: the column, or the kind of prompt.
        model: the label of the other model.
        column: the column.
        paired: the comparison.
        unit: how its numbers are written.
        significant: whether the gain is called so; None where that was not tested.

    Example:
        See `metric_lines`.
    """

    name: str
    model: str
    column: str
    paired: Paired
    unit: Unit
    significant: bool | None = None

    @property
    def verdict(self) -> str:
        """What can be said: `up`, `down`, or nothing where neither is significant."""
        if not self.significant:
            return ""
        return "up" if self.paired.change.gain.mean > 0 else "down"


def unit_of(scores: Scores, column: str) -> Unit:
    """How the numbers of a column are best written.

    Args:
        scores: of all models.
        column: the column, or a total.

    Returns:
        Percent for a column of zeros and ones, else as many digits as its size asks for.

    Example:
        >>> from flowbp.evaluation.score_rows import ScoreRow
        >>> row = ScoreRow(model="base", number=0, seed=0, prompt="a", kind="k", values={"r": 20.5})
        >>> unit_of(Scores([row]), "r").digits
        2
    """
    parts = scores.totals.get(column, (column,))
    values = [row.values[part] for row in scores.rows for part in parts if part in row.values]
    values = [value for value in values if value == value]
    if values and set(values) <= {0.0, 1.0}:
        return Unit(percent=True, digits=1)
    largest = max(map(abs, values), default=0.0)
    return Unit(percent=False, digits=2 if largest >= 10 else 3)


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
        for model in others:
            paired = part.paired(base, model, column, seed=seed)
            if paired is not None:
                yield Line(kind, model, column, paired, unit_of(scores, column))

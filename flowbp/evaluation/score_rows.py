"""What single pictures scored, and what could not be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import attrs

from flowbp.evaluation.validators import not_empty


def _not_infinite(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, float]) -> None:
    for column, number in value.items():
        if math.isinf(number):
            raise ValueError(
                f"`{attribute.name}` must hold numbers, or NaN where a column says nothing, got "
                f"{number} for {column!r}"
            )


@attrs.frozen(kw_only=True)
class ScoreRow:
    """What one picture scored.

    Args:
        model: label of the model that made it.
        number: the prompt's place in the list, from 0.
        seed: of its noise, together with `number`.
        prompt: the text.
        kind: the group that the prompt is counted in.
        values: by column; NaN where the column says nothing of the picture.

    Raises:
        ValueError: a label is empty, or a value is infinite.

    Example:
        >>> ScoreRow(model="base", number=0, seed=1, prompt="a", kind="k", values={"hps": 0.3}).seed
        1
    """

    model: str = attrs.field(validator=not_empty)
    number: int
    seed: int
    prompt: str
    kind: str = attrs.field(validator=not_empty)
    values: Mapping[str, float] = attrs.field(factory=dict, validator=_not_infinite)


@attrs.frozen(kw_only=True)
class MetricFailure:
    """A metric that could not judge something, and was told to go on.

    Args:
        metric: its label.
        message: why.
        model: label of the model whose pictures it was to judge; None if it could not be built.
        prompt: of the picture; None if it was none in particular.
        seed: of the picture.

    Example:
        >>> MetricFailure(metric="hps", message="no such file").model is None
        True
    """

    metric: str
    message: str
    model: str | None = None
    prompt: str | None = None
    seed: int | None = None

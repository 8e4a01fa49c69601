"""The figures of a run in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from flowbp.training.early_stop import HeldOutFigures
from flowbp.training.metrics import Metrics, figures


class History:
    """Keeps the figures of every step and evaluation in memory, for the report.

    Example:
        >>> History().rows
        []
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.held_out: tuple[HeldOutFigures, ...] = ()

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Take over the figures of an earlier process."""
        self.rows = [figures(row) for row in rows]

    def row(self, metrics: Metrics) -> None:
        """Keep them."""
        self.rows.append(figures(metrics))

    def evaluations(self, rows: Sequence[HeldOutFigures]) -> None:
        """Keep them."""
        self.held_out = tuple(rows)

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Nothing: pictures are not figures."""

    def close(self) -> None:
        """Nothing is open."""

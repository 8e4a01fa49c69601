"""What a metric says of its columns, beside their numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowbp.evaluate.judging import column
from flowbp.evaluation import Scale


@attrs.frozen
class Declared:
    """The totals and scales of a metric's columns, by their names among those of all metrics.

    Args:
        totals: columns by the total's name.
        scales: by column.

    Example:
        >>> Declared().tree()
        {'totals': {}, 'scales': {}}
    """

    totals: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    scales: Mapping[str, Scale] = attrs.field(factory=dict)

    @classmethod
    def by(cls, label: str, metric: Any) -> Declared:
        """What a metric says by its attributes `totals` and `scales`.

        Args:
            label: of the metric.
            metric: any.

        Returns:
            It, with names as `column` gives them.

        Example:
            >>> from types import SimpleNamespace
            >>> mine = SimpleNamespace(totals={"all": ("cats", "dogs")})
            >>> Declared.by("mine", mine).totals
            {'mine.all': ('mine.cats', 'mine.dogs')}
        """
        return cls(
            {
                column(label, name): tuple(column(label, each) for each in columns)
                for name, columns in getattr(metric, "totals", {}).items()
            },
            {column(label, name): s for name, s in getattr(metric, "scales", {}).items()},
        )

    def tree(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "totals": {name: list(columns) for name, columns in self.totals.items()},
            "scales": {name: attrs.asdict(scale) for name, scale in self.scales.items()},
        }

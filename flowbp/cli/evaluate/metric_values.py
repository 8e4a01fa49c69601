"""What a metric found, kept line by line, so that no picture is judged twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.cli.evaluate.fingerprint import differences
from flowbp.config import read_sealed_lines, sealed_line, structure_record
from flowbp.evaluation import Scale
from flowbp.files import open_to_append, saving, write_atomically

FIGURES = "figures"
_CURE = "remove it, and its metric judges those pictures again"


def column(label: str, name: str) -> str:
    """The name of a metric's column among those of all metrics: its label comes first."""
    return name if name == label or name.startswith(f"{label}.") else f"{label}.{name}"


@attrs.frozen
class ColumnInfo:
    """The totals and scales of a metric's columns, by their names among those of all metrics."""

    totals: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    scales: Mapping[str, Scale] = attrs.field(factory=dict)

    @classmethod
    def by(cls, label: str, metric: Any) -> ColumnInfo:
        """What a metric says by its attributes `totals` and `scales`."""
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


@attrs.frozen(kw_only=True)
class _Heading:
    """The first line: what found the values, and what it says of its columns."""

    metric: Any
    made_of: Mapping[str, Any]
    totals: Mapping[str, tuple[str, ...]]
    scales: Mapping[str, Scale]
    together: str | None = None


@attrs.frozen(kw_only=True)
class _Line:
    """The values of one picture, None where it is not judged."""

    picture: str
    values: Mapping[str, float | None]


@attrs.frozen
class Stored:
    """What a file holds: values by the key of the picture, none if they are of something else."""

    values: Mapping[str, Mapping[str, float]]
    declared: ColumnInfo
    # What of the metric is not as it was when the file was begun; None if all of it is.
    changed: str | None = None


@attrs.frozen
class StoredValues:
    """The values of one metric on one model's pictures, as a file of JSON lines.

    The first line is the metric's configuration and fingerprint: under others, nothing of the file
    holds. A line of a picture names it by its digest, and pictures that were judged together are
    named in the first line.
    """

    path: Path
    metric: Any
    together: str
    made_of: Mapping[str, Any] = attrs.field(factory=dict)

    def read(self) -> Stored:
        """What the file holds."""
        lines = read_sealed_lines(self.path, cure=_CURE) if self.path.exists() else []
        if not lines:
            return Stored({}, ColumnInfo())
        first, *rest = lines
        heading = structure_record(_Heading, first, self.path, _CURE, line=1)
        judged = [
            structure_record(_Line, tree, self.path, _CURE, line=number)
            for number, tree in enumerate(rest, 2)
        ]
        changed = next(differences(heading.made_of, self.made_of), None)
        if heading.metric != self.metric:
            changed = "its configuration"
        holds = changed is None and heading.together in (None, self.together)
        values = {line.picture: _numbers(line.values) for line in judged} if holds else {}
        return Stored(values, ColumnInfo(heading.totals, heading.scales), changed)

    def begin(self, declared: ColumnInfo) -> Mapping[str, Mapping[str, float]]:
        """Make the file ready for `add`, and return the values that hold."""
        kept = self.read().values
        if not kept:
            write_atomically(self.path, sealed_line(self._heading(declared)))
            return kept
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_atomically(self.path, whole)
        return kept

    def add(self, found: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Store the values of some pictures, after `begin`."""
        with (
            saving(self.path, "its lines before are unchanged"),
            open_to_append(self.path) as stream,
        ):
            stream.writelines(itertools.starmap(_of_picture, found))

    def write(self, found: Mapping[str, Mapping[str, float]], declared: ColumnInfo) -> None:
        """Store the values of pictures that were judged together, all at once."""
        first = sealed_line(self._heading(declared) | {"together": self.together})
        write_atomically(self.path, first + "".join(itertools.starmap(_of_picture, found.items())))

    def _heading(self, declared: ColumnInfo) -> dict[str, Any]:
        return {"metric": self.metric, "made_of": self.made_of, **declared.tree()}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {column: math.nan if value is None else value for column, value in values.items()}


def _of_picture(key: str, values: Mapping[str, float]) -> str:
    written = {c: None if math.isnan(value) else value for c, value in values.items()}
    return sealed_line({"picture": key, "values": written})

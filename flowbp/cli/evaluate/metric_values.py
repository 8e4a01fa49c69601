"""What a metric found, kept line by line, so that no picture is judged twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.cli.evaluate.fingerprint import differences
from flowbp.cli.evaluate.metric_calls import column
from flowbp.config import read_sealed_lines, sealed_line, structure_record
from flowbp.evaluation import Scale
from flowbp.files import open_to_append, saving, write_atomically

FIGURES = "figures"
_CURE = "remove it, and its metric judges those pictures again"


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
class _Content:
    """What a file holds; no heading of one that is not begun."""

    heading: _Heading | None
    values: Mapping[str, Mapping[str, float]]


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

    def read(self) -> Mapping[str, Mapping[str, float]]:
        """The values in the file, by the key of the picture; none if they are of something else."""
        return self._holding(self._content())

    def changed(self) -> str | None:
        """What of the metric is not as it was when the file was begun; None if all of it is."""
        heading = self._content().heading
        return None if heading is None else self._differing(heading)

    def declared(self) -> ColumnInfo:
        """What the metric says of its columns, of a file that has values."""
        heading = self._content().heading
        return ColumnInfo() if heading is None else ColumnInfo(heading.totals, heading.scales)

    def begin(self, declared: ColumnInfo) -> Mapping[str, Mapping[str, float]]:
        """Make the file ready for `add`, and return what `read` does."""
        kept = self.read()
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
            saving(self.path, "its lines before are unharmed"),
            open_to_append(self.path) as stream,
        ):
            stream.writelines(itertools.starmap(_of_picture, found))

    def write(self, found: Mapping[str, Mapping[str, float]], declared: ColumnInfo) -> None:
        """Store the values of pictures that were judged together, all at once."""
        first = sealed_line(self._heading(declared) | {"together": self.together})
        write_atomically(self.path, first + "".join(itertools.starmap(_of_picture, found.items())))

    def _heading(self, declared: ColumnInfo) -> dict[str, Any]:
        return {"metric": self.metric, "made_of": self.made_of, **declared.tree()}

    def _content(self) -> _Content:
        if not self.path.exists():
            return _Content(None, {})
        lines = read_sealed_lines(self.path, cure=_CURE)
        if not lines:
            return _Content(None, {})
        first, *found = lines
        heading = structure_record(_Heading, first, self.path, _CURE, line=1)
        judged = [
            structure_record(_Line, tree, self.path, _CURE, line=number)
            for number, tree in enumerate(found, 2)
        ]
        return _Content(heading, {line.picture: _numbers(line.values) for line in judged})

    def _holding(self, content: _Content) -> Mapping[str, Mapping[str, float]]:
        heading = content.heading
        if heading is None or self._differing(heading) is not None:
            return {}
        return content.values if heading.together in (None, self.together) else {}

    def _differing(self, heading: _Heading) -> str | None:
        if heading.metric != self.metric:
            return "its configuration"
        return next(differences(heading.made_of, self.made_of), None)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {column: math.nan if value is None else value for column, value in values.items()}


def _of_picture(key: str, values: Mapping[str, float]) -> str:
    written = {c: None if math.isnan(value) else value for c, value in values.items()}
    return sealed_line({"picture": key, "values": written})


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

"""What a metric found, kept line by line, so that no picture is judged twice."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.configuration import read_sealed_lines, sealed_line, structured
from flowbp.disk import saving
from flowbp.evaluate.declared import Declared
from flowbp.evaluate.fingerprints import differences
from flowbp.evaluate.pictures import Shot
from flowbp.evaluation import Scale
from flowbp.files import open_to_append, write_whole

FIGURES = "figures"
_CURE = "remove it, and its metric judges those pictures again"


@attrs.frozen(kw_only=True)
class _Heading:
    """The first line: what found the figures, and what it says of its columns."""

    metric: Any
    made_of: Mapping[str, Any]
    totals: Mapping[str, tuple[str, ...]]
    scales: Mapping[str, Scale]
    together: str | None = None


@attrs.frozen(kw_only=True)
class _Line:
    """The figures of one picture, None where it is not judged."""

    picture: str
    values: Mapping[str, float | None]


@attrs.frozen
class _Content:
    """What a file holds; no heading of one that is not begun."""

    heading: _Heading | None
    figures: Mapping[str, Mapping[str, float]]


@attrs.frozen
class Kept:
    """The figures of one metric on one model's pictures, as a file of JSON lines.

    The first line is the metric's configuration, and the files and code that it is made of: under
    others, nothing of the file holds. It also has what the metric says of its columns and, if all
    pictures were judged together, names these. A line of a picture names the picture by its digest,
    so that it does not hold for another either.

    Args:
        path: of the file.
        metric: its configuration.
        together: what all pictures that it may have judged together are known by.
        made_of: as `flowbp.evaluate.fingerprints.made_of` gives it.

    Example:
        >>> from tempfile import mkdtemp
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> kept = Kept(Path(mkdtemp()) / "base.jsonl", {"name": "hpsv2"}, "3f2a")
        >>> key = kept.key(Shot("base", 0, 1, HeldOutPrompt("a circle")), b"the file")
        >>> kept.begin(Declared())
        {}
        >>> kept.add([(key, {"hps": 0.25})])
        >>> kept.read() == {key: {"hps": 0.25}}
        True
    """

    path: Path
    metric: Any
    together: str
    made_of: Mapping[str, Any] = attrs.field(factory=dict)

    @staticmethod
    def key(shot: Shot, content: bytes) -> str:
        """What a picture is known by: its place, its seed and the bytes of its file."""
        return f"{shot.number}-{shot.seed}-{hashlib.sha256(content).hexdigest()[:16]}"

    def read(self) -> Mapping[str, Mapping[str, float]]:
        """The figures that the file has, by `key`; none if they are of something else.

        Raises:
            DamagedError: the file is damaged.
        """
        return self._holding(self._content())

    def changed(self) -> str | None:
        """What of the metric is not as it was when the file was begun; None if all of it is.

        Raises:
            DamagedError: the file is damaged.
        """
        heading = self._content().heading
        return None if heading is None else self._differing(heading)

    def declared(self) -> Declared:
        """What the metric says of its columns, of a file that has figures.

        Raises:
            DamagedError: the file is damaged.
        """
        heading = self._content().heading
        return Declared() if heading is None else Declared(heading.totals, heading.scales)

    def begin(self, declared: Declared) -> Mapping[str, Mapping[str, float]]:
        """Make the file ready for `add`.

        Args:
            declared: what the metric says of its columns.

        Returns:
            What `read` does.

        Raises:
            DamagedError: the file is damaged.
            OSError: it cannot be written.
        """
        kept = self.read()
        if not kept:
            write_whole(self.path, sealed_line(self._heading(declared)))
            return kept
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            write_whole(self.path, whole)
        return kept

    def add(self, found: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Keep the figures of some pictures, after `begin`.

        Args:
            found: keys of pictures, and values by column.

        Raises:
            OSError: the file cannot be written.
        """
        with (
            saving(self.path, "its lines before are unharmed"),
            open_to_append(self.path) as stream,
        ):
            stream.writelines(itertools.starmap(_of_picture, found))

    def write(self, found: Mapping[str, Mapping[str, float]], declared: Declared) -> None:
        """Keep the figures of pictures that were judged together, all at once.

        Args:
            found: values by column, by the keys of the pictures.
            declared: what the metric says of its columns.

        Raises:
            OSError: the file cannot be written.
        """
        first = sealed_line(self._heading(declared) | {"together": self.together})
        write_whole(self.path, first + "".join(itertools.starmap(_of_picture, found.items())))

    def _heading(self, declared: Declared) -> dict[str, Any]:
        return {"metric": self.metric, "made_of": self.made_of, **declared.tree()}

    def _content(self) -> _Content:
        if not self.path.exists():
            return _Content(None, {})
        lines = read_sealed_lines(self.path, cure=_CURE)
        if not lines:
            return _Content(None, {})
        first, *found = lines
        heading = structured(_Heading, first, self.path, _CURE, line=1)
        judged = [
            structured(_Line, tree, self.path, _CURE, line=number)
            for number, tree in enumerate(found, 2)
        ]
        return _Content(heading, {line.picture: _numbers(line.values) for line in judged})

    def _holding(self, content: _Content) -> Mapping[str, Mapping[str, float]]:
        heading = content.heading
        if heading is None or self._differing(heading) is not None:
            return {}
        return content.figures if heading.together in (None, self.together) else {}

    def _differing(self, heading: _Heading) -> str | None:
        if heading.metric != self.metric:
            return "its configuration"
        return next(differences(heading.made_of, self.made_of), None)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {column: math.nan if value is None else value for column, value in values.items()}


def _of_picture(key: str, values: Mapping[str, float]) -> str:
    written = {c: None if math.isnan(value) else value for c, value in values.items()}
    return sealed_line({"picture": key, "values": written})

"""What a metric found, kept line by line, so that no picture is judged twice."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.evaluate.declared import Declared
from flowbp.evaluate.failing import EvaluateError
from flowbp.evaluate.fingerprints import differences
from flowbp.evaluate.pictures import Shot
from flowbp.files import write_whole

FIGURES = "figures"


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
            EvaluateError: the file is damaged.
        """
        return self._read(self._whole_lines())

    def changed(self) -> str | None:
        """What of the metric is not as it was when the file was begun; None if all of it is.

        Raises:
            EvaluateError: the file is damaged.
        """
        lines = self._whole_lines()
        if not lines:
            return None
        first = self._first(lines)
        if first.get("metric") != self.metric:
            return "its configuration"
        return next(differences(first.get("made_of"), self.made_of), None)

    def declared(self) -> Declared:
        """What the metric says of its columns, of a file that has figures."""
        return Declared.from_tree(json.loads(self._whole_lines().partition("\n")[0]))

    def begin(self, declared: Declared) -> Mapping[str, Mapping[str, float]]:
        """Make the file ready for `add`.

        Args:
            declared: what the metric says of its columns.

        Returns:
            What `read` does.

        Raises:
            EvaluateError: the file is damaged.
            OSError: it cannot be written.
        """
        lines = self._whole_lines()
        kept = self._read(lines)
        if not kept:
            write_whole(self.path, _line(self._heading(declared)))
        elif lines != self.path.read_text(encoding="utf-8"):
            write_whole(self.path, lines)
        return kept

    def add(self, found: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Keep the figures of some pictures, after `begin`.

        Args:
            found: keys of pictures, and values by column.

        Raises:
            OSError: the file cannot be written.
        """
        with self.path.open("a", encoding="utf-8") as stream:
            stream.writelines(itertools.starmap(_of_picture, found))

    def write(self, found: Mapping[str, Mapping[str, float]], declared: Declared) -> None:
        """Keep the figures of pictures that were judged together, all at once.

        Args:
            found: values by column, by the keys of the pictures.
            declared: what the metric says of its columns.

        Raises:
            OSError: the file cannot be written.
        """
        first = _line(self._heading(declared) | {"together": self.together})
        write_whole(self.path, first + "".join(itertools.starmap(_of_picture, found.items())))

    def _whole_lines(self) -> str:
        # What follows the last line break was cut off by a kill.
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        return text[: text.rfind("\n") + 1]

    def _heading(self, declared: Declared) -> dict[str, Any]:
        return {"metric": self.metric, "made_of": self.made_of, **declared.tree()}

    def _read(self, lines: str) -> Mapping[str, Mapping[str, float]]:
        try:
            first, *found = [json.loads(line) for line in lines.splitlines()] or [{}]
            kept = {line["picture"]: _numbers(line["values"]) for line in found}
            same = self.changed() is None and Declared().tree().keys() <= first.keys()
            return kept if same and first.get("together", self.together) == self.together else {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(error) from error

    def _first(self, lines: str) -> dict[str, Any]:
        try:
            return dict(json.loads(lines.partition("\n")[0]))
        except (ValueError, TypeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> EvaluateError:
        return EvaluateError(
            f"{self.path} is damaged ({type(error).__name__}: {error}); remove it, and its metric "
            "judges those pictures again"
        )


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {column: math.nan if value is None else value for column, value in values.items()}


def _of_picture(key: str, values: Mapping[str, float]) -> str:
    written = {c: None if math.isnan(value) else value for c, value in values.items()}
    return _line({"picture": key, "values": written})


def _line(tree: Any) -> str:
    return json.dumps(tree) + "\n"

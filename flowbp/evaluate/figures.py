"""What a metric found, kept line by line, so that no picture is judged twice."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.evaluate.failing import EvaluateError
from flowbp.evaluate.pictures import Shot
from flowbp.files import write_whole

FIGURES = "figures"


@attrs.frozen
class Kept:
    """The figures of one metric on one model's pictures, as a file of JSON lines.

    The first line is the metric's configuration: under another one, nothing of the file holds. A
    line of a picture names the picture by its digest, so that it does not hold for another either.

    Args:
        path: of the file.
        metric: its configuration.

    Example:
        >>> from tempfile import mkdtemp
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> kept = Kept(Path(mkdtemp()) / "base.jsonl", {"name": "hpsv2"})
        >>> shot = Shot("base", 0, 1, HeldOutPrompt("a circle"))
        >>> kept.begin()
        {}
        >>> kept.add([(shot, b"the file", {"hps": 0.25})])
        >>> kept.begin().get(kept.key(shot, b"the file"))
        {'hps': 0.25}
        >>> kept.begin().get(kept.key(shot, b"another file")) is None
        True
    """

    path: Path
    metric: Any

    @staticmethod
    def key(shot: Shot, content: bytes) -> str:
        """What a picture is known by: its place, its seed and its bytes."""
        return f"{shot.number}-{shot.seed}-{hashlib.sha256(content).hexdigest()[:16]}"

    def begin(self) -> Mapping[str, Mapping[str, float]]:
        """Make the file ready for `add`.

        Returns:
            The figures that it has, by `key`; none if the metric was configured otherwise.

        Raises:
            EvaluateError: the file is damaged.
            OSError: it cannot be written.
        """
        # What follows the last line break was cut off by a kill.
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        try:
            first, *found = [json.loads(line) for line in whole.splitlines()] or [None]
            kept = {line["picture"]: _numbers(line["values"]) for line in found}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EvaluateError(
                f"{self.path} is damaged ({type(error).__name__}: {error}); remove it, and its "
                "metric judges those pictures again"
            ) from error
        if first != {"metric": self.metric}:
            write_whole(self.path, _line({"metric": self.metric}))
            return {}
        if whole != text:
            write_whole(self.path, whole)
        return kept

    def add(self, found: Iterable[tuple[Shot, bytes, Mapping[str, float]]]) -> None:
        """Keep the figures of some pictures, after `begin`.

        Args:
            found: pictures, the bytes of their files, and values by column.

        Raises:
            OSError: the file cannot be written.
        """
        with self.path.open("a", encoding="utf-8") as stream:
            for shot, content, values in found:
                written = {c: None if math.isnan(value) else value for c, value in values.items()}
                stream.write(_line({"picture": self.key(shot, content), "values": written}))


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {column: math.nan if value is None else value for column, value in values.items()}


def _line(tree: Any) -> str:
    return json.dumps(tree) + "\n"

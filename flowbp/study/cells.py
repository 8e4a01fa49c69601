"""The cells of a study: each is measured for itself, and kept in a file of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import attrs

from flowbp.config import read_sealed_lines, sealed_line
from flowbp.files import write_atomically

CELLS = "cells"
FAILURE = "failure"
"""The key of a cell that diverged, with what was not finite."""


@attrs.frozen(kw_only=True)
class Cell:
    """One measurement: a draw of ascent, or a run of training from a seed at a rate."""

    part: Literal["ascent", "training"]
    method: str
    number: int
    rate: float | None = None
    steps: int | None = None

    @property
    def label(self) -> str:
        """Its name in messages and files."""
        if self.part == "ascent":
            return f"{self.method}-draw{self.number}"
        return f"{self.method}-rate{self.rate:g}-seed{self.number}"


def kept_path(folder: Path, label: str, facts: Mapping[str, Any]) -> Path:
    """Where something measured is kept: the name has a digest of all that it depends on.

    So a study whose settings change keeps what they leave as it was, and measures the rest.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return folder / CELLS / f"{label}-{digest}.json"


def write_cell(path: Path, found: Mapping[str, Any]) -> None:
    """Keep what was measured, whole or not at all."""
    write_atomically(path, sealed_line(found))


def read_cell(path: Path) -> dict[str, Any] | None:
    """What was measured; None if it was not yet."""
    if not path.exists():
        return None
    cure = "remove it, and the same command measures it again"
    lines = read_sealed_lines(path, cure=cure)
    return lines[0] if lines else None

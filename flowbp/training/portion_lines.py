"""Who is told of portions that were chosen or lowered, and the file that keeps them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import attrs
from torch import Tensor

from flowbp.disk import saving
from flowbp.files import open_to_append
from flowbp.training.metrics import Metrics
from flowbp.training.observers import Observer, tell
from flowbp.training.sizes import Portions


@runtime_checkable
class PortionsObserver(Observer, Protocol):
    """An observer that is told in what portions the steps work, where that is not just as typed."""

    def portions(self, step: int, portions: Portions, told: str) -> None:
        """They were chosen, or lowered; step number `step` is the first with them."""
        ...


def tell_portions(observers: Sequence[Observer], step: int, portions: Portions, told: str) -> None:
    """Tell those observers of portions that want to be told.

    Args:
        observers: of a run.
        step: the first with these portions, from 1.
        portions: the new ones.
        told: a line on them.

    Warns:
        UserWarning: the line, where no observer takes it.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     tell_portions([], 1, Portions(samples=8, pull=4, decode=2), "pull 8 -> 4")
        >>> print(caught[0].message)
        step 1: pull 8 -> 4
    """
    interested = [observer for observer in observers if isinstance(observer, PortionsObserver)]
    tell(interested, lambda observer: observer.portions(step, portions, told))
    if not interested:
        warnings.warn(f"step {step}: {told}", stacklevel=2)


class PortionLines:
    """One JSON object a line whenever portions were chosen or lowered.

    A run that goes on adds to the file; it is made with the first line.

    Args:
        path: of the file; its folder is made if it is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "portions.jsonl"
        >>> PortionLines(path).portions(1, Portions(samples=8, pull=4, decode=2), "pull 4")
        >>> json.loads(path.read_text())
        {'step': 1, 'samples': 8, 'pull': 4, 'decode': 2, 'checkpointing': None, 'told': 'pull 4'}
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def portions(self, step: int, portions: Portions, told: str) -> None:
        """Write a line."""
        row = {"step": step, **attrs.asdict(portions), "told": told}
        with (
            saving(self._path, "its lines before are unharmed"),
            open_to_append(self._path) as file,
        ):
            file.write(json.dumps(row) + "\n")

    def row(self, metrics: Metrics) -> None:
        """Nothing: the figures of a step are elsewhere."""

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Nothing: pictures are no portions."""

    def close(self) -> None:
        """Nothing is open."""

"""The evaluations inside a run as a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from flowbp.files import write_whole
from flowbp.training.early_stop import HeldOutFigures
from flowbp.training.metrics import Metrics


class EvaluationLines:
    """One JSON object a line for each evaluation: `step`, then every figure by its name.

    The file is replaced whole each time, so that a run that goes on repeats no line.

    Args:
        path: of the file; its folder is made if it is missing.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "evaluations.jsonl"
        >>> lines = EvaluationLines(path)
        >>> lines.evaluations([HeldOutFigures(step=25, figures={"reward": 0.5})])
        >>> json.loads(path.read_text())
        {'step': 25, 'reward': 0.5}
    """

    def __init__(self, path: Path) -> None:
        self._path = Path(path)

    def row(self, metrics: Metrics) -> None:
        """Nothing: figures of a step are no evaluation."""

    def evaluations(self, rows: Sequence[HeldOutFigures]) -> None:
        """Write the file."""
        lines = (json.dumps({"step": row.step, **row.figures}, allow_nan=False) for row in rows)
        write_whole(self._path, "".join(f"{line}\n" for line in lines))

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """Nothing: pictures are not figures."""

    def close(self) -> None:
        """Nothing is open."""

"""What an evaluation leaves behind beside its pictures: scores and a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from flowbp.evaluate.container import EvaluationContainer, all_shots
from flowbp.evaluate.pictures import Shot
from flowbp.evaluate.resuming import CONFIGURATION
from flowbp.evaluation import (
    Comparison,
    Evaluation,
    Record,
    Report,
    Scores,
    environment,
    read_png,
    scores_to_csv,
    scores_to_json,
    write_report,
)
from flowbp.files import write_whole

SCORES, TABLE, REPORT = "scores.json", "scores.csv", "report.html"
_SIDE = 384

DESCRIPTIONS = {
    REPORT: "two models side by side; open it in a browser",
    SCORES: "every picture's scores, means, paired gains with intervals",
    TABLE: "every picture's scores, a line each",
    "images": "the pictures, with prompt and seed in each",
    CONFIGURATION: "all settings, defaults written out",
}


def write_results(container: EvaluationContainer, scores: Scores) -> None:
    """Write `scores.json`, `scores.csv` and, where there is something to compare, `report.html`.

    Args:
        container: of the evaluation.
        scores: of all models.

    Raises:
        OSError: a file cannot be written.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    folder = container.settings().evaluation.folder
    write_whole(folder / SCORES, scores_to_json(scores) + "\n")
    write_whole(folder / TABLE, scores_to_csv(scores))
    report = _report(container, scores)
    if report is None:
        (folder / REPORT).unlink(missing_ok=True)
    else:
        write_report(folder / REPORT, report)


def _report(container: EvaluationContainer, scores: Scores) -> Report | None:
    """The second model against the base in the first column that both have."""
    settings = container.settings()
    if len(scores.models) < 2:
        return None
    base, other = scores.models[:2]
    there = (column for column in scores.columns if scores.paired(base, other, column))
    column = next(there, None)
    if column is None:
        return None
    old, new = (_known(scores, model, column) for model in (base, other))
    keys = [key for key in old if key in new]
    comparison = Comparison(_evaluation(base, old, keys), _evaluation(other, new, keys))
    shots = {
        (shot.model, shot.number, shot.seed): shot
        for model in (base, other)
        for shot in chain(*all_shots(container, model))
    }
    before, after = (
        _pictures(settings.evaluation.folder, [shots[model, *key] for key in keys])
        for model in (base, other)
    )
    return Report(
        title=f"{other} against {base}",
        subtitle=f"{column} of {len(keys)} pictures each, from the same noise",
        comparison=comparison,
        before=before,
        after=after,
        configuration=(settings.evaluation.folder / CONFIGURATION).read_text(encoding="utf-8"),
        environment=environment(container.device(), settings.evaluation.seeds[0]),
    )


def _known(scores: Scores, model: str, column: str) -> dict[tuple[int, int], Record]:
    rows = [row for row in scores.rows if row.model == model]
    return {
        (row.number, row.seed): Record(
            index=row.number, prompt=row.prompt, kind=row.kind, reward=row.values[column]
        )
        for row in rows
        if not math.isnan(row.values.get(column, math.nan))
    }


def _evaluation(
    model: str, records: dict[tuple[int, int], Record], keys: Sequence[tuple[int, int]]
) -> Evaluation:
    chosen = [records[key] for key in keys]
    return Evaluation(label=model, noise_seed=keys[0][1], seconds=0, records=chosen)


def _pictures(folder: Path, shots: Sequence[Shot]) -> Tensor:
    # No larger than the report shows them.
    return torch.stack([_small(read_png(shot.path(folder).read_bytes())[0]) for shot in shots])


def _small(image: Tensor) -> Tensor:
    share = _SIDE / max(image.shape[-2:])
    if share >= 1:
        return image
    size = [max(1, round(side * share)) for side in image.shape[-2:]]
    smaller = functional.interpolate(image[None], size, mode="bicubic", antialias=True)
    return smaller[0].clamp(0, 1)


def listing(folder: Path) -> str:
    """What there is in an evaluation's folder, a line each.

    Args:
        folder: of the evaluation.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "images").mkdir()
        >>> listing(folder)
        '  images              the pictures, with prompt and seed in each'
    """
    found = {name: text for name, text in DESCRIPTIONS.items() if (folder / name).exists()}
    width = max(map(len, DESCRIPTIONS)) + 2
    return "\n".join(f"  {name:<{width}}{text}" for name, text in found.items())

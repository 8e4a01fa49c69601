"""What an evaluation leaves beside its pictures: scores and a report."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from flowbp.cli.evaluate.models import trained_on, unmeasured
from flowbp.cli.evaluate.pictures import picture_path
from flowbp.cli.evaluate.resume import CONFIGURATION
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.cli.prompt_encoding import CUT_PROMPTS
from flowbp.cli.timings import TIMINGS, Timings
from flowbp.evaluation import (
    Report,
    ScoreRow,
    Scores,
    counted,
    environment,
    read_png,
    scores_to_csv,
    scores_to_json,
    write_report,
)
from flowbp.files import write_atomically

SCORES, TABLE, REPORT = "scores.json", "scores.csv", "report.html"
_SIDE = 384

DESCRIPTIONS = {
    REPORT: "the models side by side; open it in a browser",
    SCORES: "every picture's scores, means, paired gains with intervals",
    TABLE: "every picture's scores, a line each",
    "images": "the pictures, with prompt and seed in each",
    "figures": "the values that each metric returned, for --resume",
    "models": "what each model's pictures were made with, for --resume",
    TIMINGS: "the seconds of each phase, session by session",
    CUT_PROMPTS: "the prompts that the text encoders do not read to their end",
    CONFIGURATION: "all settings, defaults written out",
}


def write_scores(folder: Path, scores: Scores) -> None:
    """Write `scores.json` and `scores.csv`."""
    write_atomically(folder / SCORES, scores_to_json(scores) + "\n")
    write_atomically(folder / TABLE, scores_to_csv(scores))


def write_comparison(
    settings: EvaluateSettings, device: torch.device, scores: Scores, timings: Timings
) -> bool:
    """Write `report.html` where there is something to compare, and return whether there is."""
    place = settings.evaluation.folder / REPORT
    report = _report(settings, device, scores, timings)
    if report is None:
        place.unlink(missing_ok=True)
    else:
        write_report(place, report)
    return report is not None


def _report(
    settings: EvaluateSettings, device: torch.device, scores: Scores, timings: Timings
) -> Report | None:
    """All models against the first; None where there is but one, or nothing that two have."""
    base, *others = scores.models
    if not any(scores.paired(base, other, each) for other in others for each in scores.columns):
        return None
    folder = settings.evaluation.folder

    def picture(row: ScoreRow) -> Tensor:
        # No larger than the report shows them.
        path = picture_path(folder, row.model, row.number, row.seed)
        return _small(read_png(path.read_bytes())[0])

    pictures = len(scores.rows) // len(scores.models)
    return Report(
        title=f"{', '.join(others)} against {base}",
        subtitle=f"{counted(pictures, 'picture')} of each model, from the same noise"
        f"{_unwarned(settings)}",
        scores=scores,
        trained=_trained(settings, scores),
        picture=picture,
        configuration=(folder / CONFIGURATION).read_text(encoding="utf-8"),
        timings=timings.sums,
        sessions=timings.sessions,
        environment=environment(device, settings.evaluation.seeds[0]),
    )


def _trained(settings: EvaluateSettings, scores: Scores) -> dict[str, tuple[str, ...]]:
    found = {}
    for model, labels in trained_on(settings).items():
        # A metric that failed has none.
        columns = [c for c in scores.columns if c.split(".")[0] in labels]
        if columns and model in scores.models:
            found[model] = tuple(columns)
    return found


def _unwarned(settings: EvaluateSettings) -> str:
    return "".join(
        f"; {label} was trained on {reward}, which no metric measures, so that this page cannot "
        "warn of hacking it"
        for label, reward in unmeasured(settings).items()
    )


def _small(image: Tensor) -> Tensor:
    share = _SIDE / max(image.shape[-2:])
    if share >= 1:
        return image
    size = [max(1, round(side * share)) for side in image.shape[-2:]]
    smaller = functional.interpolate(image[None], size, mode="bicubic", antialias=True)
    return smaller[0].clamp(0, 1)

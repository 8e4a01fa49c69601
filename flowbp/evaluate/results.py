"""What an evaluation leaves behind beside its pictures: scores and a report."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from flowbp.evaluate.container import EvaluationContainer, all_shots
from flowbp.evaluate.resuming import CONFIGURATION
from flowbp.evaluate.schema import EvaluateSettings
from flowbp.evaluate.trained import trained_on, unmeasured
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
from flowbp.files import write_whole
from flowbp.run.encoding import CUT_PROMPTS
from flowbp.run.shell import listed
from flowbp.run.timings import TIMINGS, Timings

SCORES, TABLE, REPORT = "scores.json", "scores.csv", "report.html"
_SIDE = 384

DESCRIPTIONS = {
    REPORT: "the models side by side; open it in a browser",
    SCORES: "every picture's scores, means, paired gains with intervals",
    TABLE: "every picture's scores, a line each",
    "images": "the pictures, with prompt and seed in each",
    "figures": "what each metric found, for --resume",
    "models": "what each model's pictures were made with, for --resume",
    TIMINGS: "the seconds of each phase, session by session",
    CUT_PROMPTS: "the prompts that the text encoders do not read to their end",
    CONFIGURATION: "all settings, defaults written out",
}


def write_scores(folder: Path, scores: Scores) -> None:
    """Write `scores.json` and `scores.csv`.

    Args:
        folder: of the evaluation.
        scores: of all models.

    Raises:
        OSError: a file cannot be written.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    write_whole(folder / SCORES, scores_to_json(scores) + "\n")
    write_whole(folder / TABLE, scores_to_csv(scores))


def write_comparison(container: EvaluationContainer, scores: Scores, timings: Timings) -> bool:
    """Write `report.html` where there is something to compare; else there is none.

    Args:
        container: of the evaluation.
        scores: of all models.
        timings: of the evaluation so far.

    Returns:
        Whether there is one.

    Raises:
        OSError: the file cannot be written.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    folder = container.settings().evaluation.folder
    report = _report(container, scores, timings)
    if report is None:
        (folder / REPORT).unlink(missing_ok=True)
    else:
        write_report(folder / REPORT, report)
    return report is not None


def _report(container: EvaluationContainer, scores: Scores, timings: Timings) -> Report | None:
    """All models against the first; None where there is but one, or nothing that two have."""
    settings = container.settings()
    base, *others = scores.models
    if not any(scores.paired(base, other, each) for other in others for each in scores.columns):
        return None
    folder = settings.evaluation.folder
    shots = {
        (shot.model, shot.number, shot.seed): shot
        for model in scores.models
        for shot in chain(*all_shots(container, model))
    }

    def picture(row: ScoreRow) -> Tensor:
        # No larger than the report shows them.
        path = shots[row.model, row.number, row.seed].path(folder)
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
        environment=environment(container.device(), settings.evaluation.seeds[0]),
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
    return listed(folder, DESCRIPTIONS)

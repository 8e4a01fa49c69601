"""What a run leaves behind in its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from flowbp.container import RunContainer
from flowbp.evaluation import (
    Comparison,
    HeldOutMeasure,
    Report,
    ScoreRow,
    choose_examples,
    counted,
    environment,
    grid,
    png,
    scores_of,
    to_json,
    upscale,
    write_report,
)
from flowbp.files import write_whole
from flowbp.run.before import BEFORE, BEFORE_PICTURES
from flowbp.run.ending import Ending
from flowbp.run.shell import listed
from flowbp.settings import free_folder, occupied, resolved

CONFIGURATION, COMPARISON, REPORT = "configuration.yaml", "comparison.json", "report.html"
PICTURE, FINISHED = "before_after.png", "finished.json"

_SHOWN, _SIDE = 12, 128

_DESCRIPTIONS = {
    REPORT: "before and after side by side; open it in a browser",
    PICTURE: "some of its pictures, before above after, whatever their outcome",
    COMPARISON: "every prompt's reward and verdict, before and after",
    BEFORE: "the evaluation before training",
    BEFORE_PICTURES: "its pictures, for a run that is resumed",
    "calibration.json": "the scales of the reward's parts",
    CONFIGURATION: "all settings, defaults written out",
    "metrics.jsonl": "the figures of every step",
    "portions.jsonl": "the portions that were chosen or lowered to fit into memory",
    "evaluations.jsonl": "the figures of the evaluations inside the run",
    "tensorboard": "the same for tensorboard --logdir",
    "samples": "pictures during training",
    "checkpoints/final": "the trained model after the last step, in its own format",
}


@attrs.frozen(eq=False)
class Evaluated:
    """Both evaluations with their pictures.

    Args:
        comparison: the records.
        before: pictures (n, 3, H, W) in [0, 1].
        after: the same after training.
        steps: optimizer steps that the run did.
        end: how the run ended before its last step; None if it did not.

    Example:
        See `flowbp.run.execution.execute`.
    """

    comparison: Comparison
    before: Tensor
    after: Tensor
    steps: int
    end: Ending | None = None

    def picture(self, row: ScoreRow) -> Tensor:
        """The picture (3, H, W) of a row of the comparison's scores."""
        places = [record.index for record in self.comparison.before.records]
        pictures = self.before if row.model == "before" else self.after
        return pictures[places.index(row.number)]


def replaced(container: RunContainer) -> Sequence[str]:
    """The names of the providers that were overridden from Python.

    Args:
        container: of the run.

    Returns:
        Names, sorted.

    Example:
        See `flowbp.run.execution.execute`.
    """
    providers = container.providers.items()
    return sorted(n for n, provider in providers if provider.overridden and n != "settings")


def configuration_text(container: RunContainer) -> str:
    """The resolved configuration, with a comment on what Python replaced.

    Args:
        container: of the run.

    Returns:
        YAML.

    Example:
        See `flowbp.run.execution.execute`.
    """
    return heading(container) + resolved(container.settings())


def heading(container: RunContainer) -> str:
    """The comment above a resolved configuration that says what Python replaced.

    Args:
        container: of the run.

    Returns:
        A line, or nothing.

    Example:
        See `configuration_text`.
    """
    names = replaced(container)
    return f"# Replaced from Python in this run: {', '.join(names)}.\n" if names else ""


def claim(folder: Path, configuration: str) -> None:
    """Write the first file into a run's folder.

    Args:
        folder: new or empty, but for what `locked` makes.
        configuration: the text of `configuration.yaml`.

    Raises:
        FileExistsError: the folder is not empty.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> claim(folder, "run: {}")
        >>> [path.name for path in folder.iterdir()]
        ['configuration.yaml']
    """
    if occupied(folder):
        raise FileExistsError(
            f"`run.folder` {folder} is not empty, and nothing saved is ever overwritten; name "
            f"another, such as run.folder={free_folder(folder)}"
        )
    write_whole(folder / CONFIGURATION, configuration)


def write_finished(
    folder: Path, steps: int, timings: Mapping[str, float], *, ended_early: bool = False
) -> None:
    """Write `finished.json`, whose being there says that nothing is left to do.

    Args:
        folder: of the run.
        steps: optimizer steps that were done.
        timings: seconds of each phase of the last process.
        ended_early: whether a held-out figure ended the run.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> write_finished(folder, 100, {"train": 2.5})
        >>> json.loads((folder / "finished.json").read_text())["steps"]
        100
    """
    tree = {"steps": steps, "ended_early": ended_early, "seconds": dict(timings)}
    write_whole(folder / FINISHED, json.dumps(tree, indent=1) + "\n")


def write_results(
    container: RunContainer, evaluated: Evaluated, timings: Mapping[str, float]
) -> None:
    """Write `comparison.json`, `before_after.png` and `report.html`.

    Args:
        container: of the run.
        evaluated: both evaluations.
        timings: seconds of each phase so far.

    Raises:
        OSError: a file cannot be written.

    Example:
        See `flowbp.run.execution.execute`.
    """
    settings, method = container.settings(), type(container.method()).__name__
    folder, end = settings.run.folder, evaluated.end
    steps, note = (evaluated.steps, "") if end is None else (end.judged, f". {end.note}")
    (folder / COMPARISON).write_text(to_json(evaluated.comparison) + "\n", encoding="utf-8")
    (folder / PICTURE).write_bytes(png(_before_after(evaluated)))
    history = container.history()
    # What came after the model that the page is of says nothing of it.
    held_out = [row for row in history.held_out if row.step <= steps]
    report = Report(
        title=f"{method} on {settings.backbone.name}",
        subtitle=f"{counted(steps, 'optimizer step')} of "
        f"{counted(settings.batching.total, 'sample')}, towards the "
        f"reward {settings.reward.name}{note}",
        scores=scores_of(evaluated.comparison),
        picture=evaluated.picture,
        trained={evaluated.comparison.after.label: ["reward"]},
        metrics=history.rows,
        held_out=[{"step": row.step, **row.figures} for row in held_out],
        held_out_each=[row.each for row in held_out],
        held_out_prompts=_held_out_prompts(container),
        held_out_signs={name: sign for row in held_out for name, sign in row.signs.items()},
        configuration=configuration_text(container),
        timings=timings,
        environment=environment(container.device(), settings.run.seed),
    )
    write_report(folder / REPORT, report)


def _held_out_prompts(container: RunContainer) -> Sequence[str] | None:
    """Those of the evaluations inside the run; None where another measure does not say."""
    measure = getattr(container.intervals(), "measure", None)
    return [each.text for each in measure.prompts] if isinstance(measure, HeldOutMeasure) else None


def _before_after(evaluated: Evaluated) -> Tensor:
    """Evenly chosen pictures in a row, and the same prompts and noise after training below."""
    shown = list(choose_examples(evaluated.comparison, sample=_SHOWN).sample)
    pictures = torch.cat([evaluated.before[shown], evaluated.after[shown]])
    larger, smaller = _SIDE // pictures.shape[-1], -(-pictures.shape[-1] // _SIDE)
    pictures = avg_pool2d(upscale(pictures, max(1, larger)), smaller)
    return grid(pictures, columns=len(shown))


def listing(folder: Path, besides: Mapping[str, str] | None = None) -> str:
    """What there is in a run's folder, a line each.

    Args:
        folder: of the run.
        besides: descriptions of what only this run has, by name.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "samples").mkdir()
        >>> listing(folder)
        '  samples            pictures during training'
    """
    return listed(folder, {**_DESCRIPTIONS, **(besides or {})})

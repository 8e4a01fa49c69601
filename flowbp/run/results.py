"""What a run shows of its model before training and after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

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
    labelled_png,
    scores_of,
    to_json,
    upscale,
    write_report,
)
from flowbp.files import write_whole
from flowbp.run.artefacts import (
    COMPARISON,
    PICTURE,
    PICTURE_PROMPTS,
    REPORT,
    configuration_text,
)
from flowbp.run.ending import Ending

_SHOWN, _SIDE = 12, 128


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


def write_results(
    container: RunContainer,
    evaluated: Evaluated,
    timings: Mapping[str, float],
    *,
    sessions: int = 1,
) -> None:
    """Write `comparison.json`, `before_after.png` with its prompts, and `report.html`.

    Args:
        container: of the run.
        evaluated: both evaluations.
        timings: seconds of each phase so far, over all sessions.
        sessions: how many there were.

    Raises:
        OSError: a file cannot be written.

    Example:
        See `flowbp.run.execution.execute`.
    """
    settings, method = container.settings(), type(container.method()).__name__
    folder, end = settings.run.folder, evaluated.end
    steps, note = (evaluated.steps, "") if end is None else (end.judged, f". {end.note}")
    write_whole(folder / COMPARISON, to_json(evaluated.comparison) + "\n")
    shown = list(choose_examples(evaluated.comparison, sample=_SHOWN).sample)
    records = evaluated.comparison.before.records
    own = {"prompts": json.dumps([records[i].prompt for i in shown], ensure_ascii=False)}
    sheet = labelled_png(_before_after(evaluated, shown), {**container.shown_facts(), **own})
    write_whole(folder / PICTURE, sheet)
    prompts = "".join(f"{records[i].prompt}\n" for i in shown)
    write_whole(folder / PICTURE_PROMPTS, prompts)
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
        sessions=sessions,
        environment=environment(container.device(), settings.run.seed),
    )
    write_report(folder / REPORT, report)


def _held_out_prompts(container: RunContainer) -> Sequence[str] | None:
    """Those of the evaluations inside the run; None where another measure does not say."""
    measure = getattr(container.intervals(), "measure", None)
    return [each.text for each in measure.prompts] if isinstance(measure, HeldOutMeasure) else None


def _before_after(evaluated: Evaluated, shown: list[int]) -> Tensor:
    """Some pictures in a row, and the same prompts and noise after training below."""
    pictures = torch.cat([evaluated.before[shown], evaluated.after[shown]])
    larger, smaller = _SIDE // pictures.shape[-1], -(-pictures.shape[-1] // _SIDE)
    pictures = avg_pool2d(upscale(pictures, max(1, larger)), smaller)
    return grid(pictures, columns=len(shown))

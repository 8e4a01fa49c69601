"""What a run shows of its model before training and after, and how it is loaded elsewhere."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from flowbp.adapters import Backbone, WithLoading, WithPlainSampling
from flowbp.cli.run.folder import (
    COMPARISON,
    PICTURE,
    PICTURE_PROMPTS,
    REPORT,
    configuration_text,
    replaced_providers,
)
from flowbp.cli.timings import Timings
from flowbp.evaluation import (
    Comparison,
    HeldOutMeasure,
    Report,
    ScoreRow,
    counted,
    environment,
    even_sample,
    grid,
    labelled_png,
    to_json,
    upscale,
    write_report,
)
from flowbp.files import write_atomically
from flowbp.settings import RunContainer, Settings
from flowbp.significant_digits import written
from flowbp.training import Checkpoints, EarlyStop, HeldOutEvaluation, HeldOutMetrics, load_trained

_SHOWN, _SIDE = 12, 128


@attrs.frozen(eq=False)
class Evaluated:
    """Both evaluations with their pictures."""

    comparison: Comparison
    before: Tensor
    after: Tensor
    steps: int
    end: EarlyEnd | None = None

    def picture(self, row: ScoreRow) -> Tensor:
        """The picture (3, H, W) of a row of the comparison's scores."""
        places = [each.number for each in self.comparison.before.rows]
        pictures = self.before if row.model == "before" else self.after
        return pictures[places.index(row.number)]


def write_results(container: RunContainer, evaluated: Evaluated, timings: Timings) -> None:
    """Write `comparison.json`, `before_after.png` with its prompts, and `report.html`."""
    settings, method = container.settings(), type(container.method()).__name__
    folder, end = settings.run.folder, evaluated.end
    steps, note = (evaluated.steps, "") if end is None else (end.judged, f". {end.note}")
    write_atomically(folder / COMPARISON, to_json(evaluated.comparison) + "\n")
    rows = evaluated.comparison.before.rows
    shown = even_sample(rows, _SHOWN)
    own = {"prompts": json.dumps([rows[i].prompt for i in shown], ensure_ascii=False)}
    sheet = labelled_png(_before_after(evaluated, shown), {**container.shown_facts(), **own})
    write_atomically(folder / PICTURE, sheet)
    prompts = "".join(f"{rows[i].prompt}\n" for i in shown)
    write_atomically(folder / PICTURE_PROMPTS, prompts)
    history = container.history()
    # What came after the model that the page is of says nothing of it.
    held_out = [row for row in history.held_out if row.step <= steps]
    report = Report(
        title=f"{method} on {settings.backbone.name}",
        subtitle=f"{counted(steps, 'optimizer step')} of "
        f"{counted(settings.batching.total, 'sample')}, towards the "
        f"reward {settings.reward.name}{note}",
        scores=evaluated.comparison.scores,
        picture=evaluated.picture,
        trained={evaluated.comparison.after.label: ["reward"]},
        metrics=history.rows,
        held_out=[{"step": row.step, **row.figures} for row in held_out],
        held_out_each=[row.each for row in held_out],
        held_out_prompts=_held_out_prompts(container.held_out_evaluation()),
        held_out_signs={name: sign for row in held_out for name, sign in row.signs.items()},
        configuration=configuration_text(
            settings, container.tuned(), container.device(), replaced_providers(container)
        ),
        timings=timings.sums,
        sessions=timings.sessions,
        environment=environment(container.device(), settings.run.seed),
    )
    write_report(folder / REPORT, report)


def _held_out_prompts(intervals: HeldOutEvaluation | None) -> Sequence[str] | None:
    """Those of the evaluations inside the run; None where another measure does not say."""
    measure = getattr(intervals, "measure", None)
    return [each.text for each in measure.prompts] if isinstance(measure, HeldOutMeasure) else None


def _before_after(evaluated: Evaluated, shown: list[int]) -> Tensor:
    """Some pictures in a row, and the same prompts and noise after training below."""
    pictures = torch.cat([evaluated.before[shown], evaluated.after[shown]])
    larger, smaller = _SIDE // pictures.shape[-1], -(-pictures.shape[-1] // _SIDE)
    pictures = avg_pool2d(upscale(pictures, max(1, larger)), smaller)
    return grid(pictures, columns=len(shown))


def guidance_scales(settings: Settings) -> dict[str, float]:
    """The scales of guidance that a run samples with, by their keys."""
    scales = {"sampling.guidance": settings.sampling.guidance}
    if settings.evaluation is not None and settings.evaluation.guidance is not None:
        scales["evaluation.guidance"] = settings.evaluation.guidance
    return scales


def loading_advice(model: Backbone, settings: Settings, best: str | None = None) -> str:
    """How the models of a run are loaded elsewhere, and sampled as in training."""
    if not isinstance(model, WithLoading):
        return ""
    folder, sampling = settings.run.folder / "checkpoints", _sampling_advice(model, settings)
    places = {"the best, in Python": best, "the last, in Python": "final"} if best else {}
    return "".join(
        f"\n{what}\n{textwrap.indent(model.loading(folder / name) + sampling, '  ')}\n"
        for what, name in (places or {"in Python": "final"}).items()
    )


def _sampling_advice(model: Backbone, settings: Settings) -> str:
    """How plain diffusers samples as the run did: grid, guidance, size."""
    if not isinstance(model, WithPlainSampling):
        return ""
    sampling = settings.sampling
    size = {"height": sampling.height, "width": sampling.width}
    lines = model.sampling(
        sampling.grid.sigmas_of(model, sampling.steps, **size),
        guidance=sampling.guidance,
        negative_prompt=sampling.negative_prompt,
        **size,
    )
    return f"\n{lines}"


@attrs.frozen
class Best:
    """The best evaluation inside a run, by the metric that stops it early."""

    metric: str
    evaluation: HeldOutMetrics
    checkpoint: str | None
    """The name of the one that holds its model; None of the last or of nothing trained."""

    @property
    def value(self) -> str:
        """Of the metric, rounded."""
        return written(self.evaluation.figures[self.metric], 4)

    @property
    def description(self) -> dict[str, str]:
        """Of its checkpoint, by its path in the run's folder."""
        if self.checkpoint is None:
            return {}
        what = (
            f"the model at its best {self.metric}, {self.value} after step {self.evaluation.step}"
        )
        return {f"checkpoints/{self.checkpoint}": what}


def find_best(
    rule: EarlyStop, held_out: Sequence[HeldOutMetrics], checkpoints: Checkpoints, *, done: int
) -> Best | None:
    """The best evaluation of a run that is over, after `done` steps; None without any."""
    best = rule.best(held_out)
    if best is None:
        return None
    saved = None if best.step in (0, done) else checkpoints.of_step(best.step)
    return Best(rule.metric, best, saved)


@attrs.frozen(kw_only=True)
class EarlyEnd:
    """The end of a run before its last step."""

    done: int
    best: int
    place: Path | None
    explanation: str

    @property
    def judged(self) -> int:
        """The step whose model the results are of: the best, or the last if the best is none."""
        return self.done if self.place is None else self.best

    @property
    def note(self) -> str:
        """What a reader of the results must know."""
        if self.place is None:
            return f"The results are of the last model. The run {self.explanation}."
        return (
            f"The results are of the best model, that of step {self.best}. It was chosen by the "
            "held-out prompts that score it here, so these numbers are optimistic. The run "
            f"{self.explanation}."
        )


def early_end(
    settings: Settings, best: Best | None, *, done: int, less_is_better: bool
) -> EarlyEnd | None:
    """Why a run ended before its last step, and where the best of it is; None if it did not."""
    stop, total = settings.early_stop, settings.training.steps
    if stop is None or best is None or done >= total:
        return None
    step, folder = best.evaluation.step, settings.run.folder / "checkpoints"
    place = folder / (best.checkpoint or "final") if step else None
    changed = "fallen" if less_is_better else "risen"
    return EarlyEnd(
        done=done,
        best=step,
        place=place,
        explanation=f"ended early, after step {done} of {total}: {stop.metric} has not {changed} "
        f"by more than {stop.min_delta:g} for {counted(stop.patience, 'evaluation')}; the best, "
        f"{best.value}, is that of step {step}, "
        f"{'the model before training' if place is None else f'in {place}'}",
    )


def load_best(backbone: Backbone, end: EarlyEnd | None) -> None:
    """Have the backbone be the best model of a run that ended early, if that is not the last."""
    if end is not None and end.place is not None and end.best != end.done:
        load_trained(backbone.trainable(), end.place)

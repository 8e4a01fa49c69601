"""What a run shows of its model before training and after, and how it is loaded elsewhere."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from flowbp.adapters import Backbone, WithLoading, WithPlainSampling
from flowbp.adapters.sharding import sharding_of
from flowbp.cli.run.built_run import BuiltRun
from flowbp.cli.run.folder import (
    COMPARISON,
    PICTURE,
    PICTURE_PROMPTS,
    REPORT,
    configuration_text,
)
from flowbp.cli.timings import Timings
from flowbp.evaluation import (
    Comparison,
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
from flowbp.settings import Settings
from flowbp.significant_digits import written
from flowbp.training import Checkpoints, HeldOutEvaluation, HeldOutMetrics, load_trained

_SHOWN, _SIDE = 12, 128


@attrs.frozen(eq=False)
class Evaluated:
    """Both evaluations with their pictures."""

    comparison: Comparison
    before: Tensor
    after: Tensor
    end: Ending

    def picture(self, row: ScoreRow) -> Tensor:
        """The picture (3, H, W) of a row of the comparison's scores."""
        places = [each.number for each in self.comparison.before.rows]
        pictures = self.before if row.model == "before" else self.after
        return pictures[places.index(row.number)]


def write_results(
    run: BuiltRun,
    evaluated: Evaluated,
    timings: Timings,
    *,
    method: str,
    inside: HeldOutEvaluation | None,
    facts: Mapping[str, str],
) -> None:
    """Write `comparison.json`, `before_after.png` with its prompts, and `report.html`."""
    settings, history, end = run.settings, run.history, evaluated.end
    folder = settings.run.folder
    steps, note = end.judged, f". {end.note}" if end.early else ""
    write_atomically(folder / COMPARISON, to_json(evaluated.comparison) + "\n")
    rows = evaluated.comparison.before.rows
    shown = even_sample(rows, _SHOWN)
    own = {"prompts": json.dumps([rows[i].prompt for i in shown], ensure_ascii=False)}
    sheet = labelled_png(_before_after(evaluated, shown), {**facts, **own})
    write_atomically(folder / PICTURE, sheet)
    prompts = "".join(f"{rows[i].prompt}\n" for i in shown)
    write_atomically(folder / PICTURE_PROMPTS, prompts)
    # What came after the model that the page is of says nothing of it.
    held_out = [row for row in history.held_out if row.step <= steps]
    report = Report(
        title=f"{method} on {settings.backbone.name}",
        subtitle=f"{counted(steps, 'optimizer step')} of "
        f"{counted(settings.batching.total(run.ranks.size), 'sample')}, towards the "
        f"reward {settings.reward.name}{note}",
        scores=evaluated.comparison.scores,
        picture=evaluated.picture,
        trained={evaluated.comparison.after.label: ["reward"]},
        metrics=history.rows,
        held_out=[{"step": row.step, **row.means} for row in held_out],
        held_out_each=[row.each for row in held_out],
        held_out_prompts=None if inside is None else inside.prompts,
        held_out_signs={name: sign for row in held_out for name, sign in row.signs.items()},
        configuration=configuration_text(
            settings, run.tuned, run.device, run.replaced, processes=run.ranks.size
        ),
        timings=timings.sums,
        sessions=timings.sessions,
        environment=environment(run.device, settings.run.seed),
    )
    write_report(folder / REPORT, report)


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
    folder, sampling = settings.run.folder / "checkpoints", sampling_advice(model, settings)
    places = {"the best, in Python": best, "the last, in Python": "final"} if best else {}
    return "".join(
        f"\n{what}\n{textwrap.indent(model.loading(folder / name) + sampling, '  ')}\n"
        for what, name in (places or {"in Python": "final"}).items()
    )


def sampling_advice(model: Backbone, settings: Settings) -> str:
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


@attrs.frozen(kw_only=True)
class Ending:
    """How the training of a run ended, and which of its models the results are of."""

    done: int
    # The step of its best evaluation; 0 is the model before training, None if nothing chose.
    best: int | None = None
    # The name of the best one's checkpoint and what it is; none of the last or of nothing trained.
    checkpoint: str | None = None
    description: str = ""
    # Why it ended before its last step; empty if it did not.
    early: str = ""

    @property
    def judged(self) -> int:
        """The step whose model the results are of: the best if it ended early, or the last."""
        return self.best if self.early and self.best else self.done

    @property
    def note(self) -> str:
        """What a reader of the results of a run that ended early must know."""
        if not self.best:
            return f"The results are of the last model. The run {self.early}."
        return (
            f"The results are of the best model, that of step {self.best}. It was chosen by the "
            "held-out prompts that score it here, so these numbers are optimistic. The run "
            f"{self.early}."
        )


def ending(
    settings: Settings, held_out: Sequence[HeldOutMetrics], checkpoints: Checkpoints, *, done: int
) -> Ending:
    """What the evaluations inside a run say of its end, after `done` steps."""
    stop, total = settings.early_stop, settings.training.steps
    best = None if stop is None else stop.best(held_out)
    if stop is None or best is None:
        return Ending(done=done)
    step, value = best.step, written(best.means[stop.metric], 4)
    saved = None if step in (0, done) else checkpoints.of_step(step)
    early = ""
    if done < total:
        changed = "fallen" if stop.less_is_better(held_out) else "risen"
        place = settings.run.folder / "checkpoints" / (saved or "final")
        early = (
            f"ended early, after step {done} of {total}: {stop.metric} has not {changed} by more "
            f"than {stop.min_delta:g} for {counted(stop.patience, 'evaluation')}; the best, "
            f"{value}, is that of step {step}, "
            f"{f'in {place}' if step else 'the model before training'}"
        )
    what = f"the model at its best {stop.metric}, {value} after step {step}"
    return Ending(done=done, best=step, checkpoint=saved, description=what, early=early)


def load_judged(backbone: Backbone, end: Ending, folder: Path) -> None:
    """Have the backbone be the model that the results are of, if that is not the last."""
    if end.judged != end.done:
        place = folder / "checkpoints" / (end.checkpoint or "final")
        load_trained(backbone.trainable(), place, sharding_of(backbone.module))

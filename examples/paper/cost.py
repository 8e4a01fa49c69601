"""What the runs take, calculated from steps that were measured on one H100."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from examples.paper.settings import Paper
from examples.paper.tasks import Training
from flowbp.cli.run.check import division_of, trained_parameters, tuned_sketch
from flowbp.evaluation import counted
from flowbp.settings.unloaded_model import named_model
from flowbp.training import Launch
from flowbp.training.division import Division, Needs

_DOCS = Path(__file__).parents[2] / "docs"
_GIB = 2**30
# Of a prompt at 512 tokens, see docs/gpu.md.
_EMBEDDING_MIB = {"sd35_medium": 4.6, "flux1_dev": 4.0, "flux2_klein": 12.0}
_BASIS = """\
Hours are calculated, not measured: from a step of Bridge on one H100 with random weights
(docs/gpu.md) and the times of the other methods relative to it (docs/performance.md), as if
several GPUs took no longer than one. Loading, encoding, compiling, saving and evaluations are
not measured, and come on top."""


@attrs.frozen
class Size:
    """How large a model is, what it needs of each GPU, and how it is divided."""

    trained: int
    needs: Needs
    division: Division

    @property
    def saved(self) -> int:
        """Bytes of the network in a checkpoint."""
        return self.needs.weights

    @property
    def state(self) -> int:
        """Bytes of the training state beside it: parameters, optimizer, average."""
        return self.needs.gradients + self.needs.optimizer + self.needs.average


def overview(paper: Paper) -> str:
    """What is done, what is left, and what it takes."""
    lines = []
    for model in dict.fromkeys(task.model for task in paper.tasks):
        trainings = [each for each in paper.trainings if each.model == model]
        size = size_of(trainings[0])
        lines += [f"{model}", *_sizes(size, trainings), ""]
        hours = {each.name: hours_of(each, size) for each in trainings}
        for task in paper.tasks:
            if task.model == model:
                known = hours.get(task.name)
                told = "hours not measured" if known is None else f"{known:.1f} hours"
                lines.append(f"  {task.name:<36}{'done' if task.done else f'left, {told}'}")
        lines.append("")
    return "\n".join([*lines, *_sum(paper), _BASIS])


def size_of(training: Training) -> Size | None:
    """The size of a model of ours, found without weights; None of others."""
    settings = training.settings
    if named_model(settings.backbone) is None:
        return None
    model = tuned_sketch(settings.backbone, settings.tuning)
    launch = Launch(size=training.gpus, local_size=training.gpus)
    division, needs = division_of(settings, model, settings.optimizer, launch)
    return Size(trained_parameters(model), needs, division)


def hours_of(training: Training, size: Size | None) -> float | None:
    """Hours of a run's steps; None where no such step was measured."""
    row, settings = _measured(training, size), training.settings
    relative = _relative(training.model).get(training.method)
    if row is None or relative is None:
        return None
    each = settings.batching.total(training.gpus) / training.gpus
    seconds = row["seconds"] * relative * each / row["batch"]
    return float(settings.training.steps * seconds / 3600)


def _sizes(size: Size | None, trainings: Sequence[Training]) -> Iterator[str]:
    if size is None:
        yield "  a model of others: its size is not known"
        return
    first, gpus = trainings[0], trainings[0].gpus
    processes = f"{gpus} processes, {size.division.shared(gpus)}" if gpus > 1 else "one process"
    yield f"  trained     {size.trained:,} parameters, in {processes}"
    yield f"  memory      {size.division.described(size.needs, gpus)}"
    row = _measured(first, size)
    if row is not None:
        yield f"              measured on one GPU with all of it: {row['peak']:.1f} GiB at most"
    left, during = size.saved / _GIB, 2 * (size.saved + size.state) / _GIB
    yield (
        f"  disk        {left:.3g} GiB of network for each run, {during:.3g} GiB while one "
        "trains, besides text encoders and decoder in each checkpoint"
    )
    prompts = getattr(first.settings.prompts, "__len__", None)
    if prompts is not None and first.settings.backbone.arguments.get("text_length") == 512:
        most = max(t.settings.training.steps * t.settings.batching.total(gpus) for t in trainings)
        count = min(prompts(), most)
        gib = count * _EMBEDDING_MIB[first.model] / 1024
        yield f"              {gib:.3g} GiB of embeddings of {count:,} training prompts, once"


def _sum(paper: Paper) -> Iterator[str]:
    left = [each for each in paper.trainings if not each.done]
    sizes = {m: size_of(next(t for t in left if t.model == m)) for m in {t.model for t in left}}
    hours = [hours_of(each, sizes[each.model]) for each in left]
    known = [each for each in hours if each is not None]
    rows = sum(not row.done for row in paper.rows)
    yield (
        f"left: {counted(len(left), 'run')} and {counted(rows, 'evaluation')}; "
        f"{sum(known):.1f} hours of {counted(len(known), 'run')}, the rest not measured"
    )
    place = paper.settings.folder.absolute()
    there = next(each for each in (place, *place.parents) if each.exists())
    yield f"free on the disk of {place}: {shutil.disk_usage(there).free / _GIB:,.0f} GiB"


def _measured(training: Training, size: Size | None) -> Mapping[str, Any] | None:
    """The measured step of just this model, tuning and size of pictures."""
    settings = training.settings
    if size is None or settings.sampling.steps != 25:
        return None
    wanted = {
        "model": training.model,
        "trained": size.trained,
        "method": "bridge",
        "compiled": settings.run.compile,
        "changed": "",
    }
    sides = {settings.sampling.height, settings.sampling.width}
    for row in _rows("backbones_h100.json"):
        if sides == {row["side"]} and all(row[key] == value for key, value in wanted.items()):
            return row
    return None


def _relative(model: str) -> Mapping[str, float]:
    """Seconds of the methods by those of Bridge, where they were measured on a model."""
    if model != "sd35_medium":
        return {"bridge": 1.0}
    bridge = next(row for row in _rows("reference_h100.json", "steps") if row["at"] == 25)
    times = {row["name"]: row["seconds"][0] for row in _rows("reference_h100.json", "method")}
    return {"bridge": 1.0} | {n: each / bridge["seconds"][0] for n, each in times.items()}


@functools.cache
def _rows(name: str, *section: str) -> Sequence[Mapping[str, Any]]:
    found = json.loads((_DOCS / name).read_text(encoding="utf-8"))
    for key in section:
        found = found[key]
    rows: Sequence[Mapping[str, Any]] = found["rows"]
    return rows

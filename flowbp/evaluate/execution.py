"""An evaluation from its container: generate what is missing, measure, write."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import torch

from flowbp.configuration import ConfigurationError, DamagedError, Problem
from flowbp.evaluate.container import EvaluationContainer
from flowbp.evaluate.generating import generate_missing, refuse_damaged
from flowbp.evaluate.measuring import measured
from flowbp.evaluate.readiness import refuse_unready
from flowbp.evaluate.results import listing, write_comparison, write_scores
from flowbp.evaluate.resuming import CONFIGURATION, refuse_others
from flowbp.evaluate.schema import EvaluateSettings, ModelSection
from flowbp.evaluation import Scores, counted, scores_table
from flowbp.files import write_whole
from flowbp.run.advice import warn_of_guidance
from flowbp.run.families import named_model
from flowbp.run.lock import locked
from flowbp.run.overview import told_embeddings, told_grid
from flowbp.run.timings import Timings, read_timings
from flowbp.settings import free_folder, occupied, resolved
from flowbp.settings.needs import readings


def overview(settings: EvaluateSettings) -> str:
    """Say what an evaluation would do.

    Args:
        settings: of the evaluation.

    Returns:
        The lines, without a newline at the end.

    Example:
        See `flowbp.evaluate.main`, of which it is `--check`.
    """
    count, seeds = len(settings.prompts.prompts()), settings.evaluation.seeds
    sampling, models = settings.sampling, settings.models
    lines = {
        "backbone": settings.backbone.name,
        "models": ", ".join(
            label if model.checkpoint is None else f"{label} ({_model(model)})"
            for label, model in models.items()
        ),
        "prompts": f"{count}, each from {counted(len(seeds), 'seed')}: "
        f"{', '.join(map(str, seeds))}",
        "pictures": f"{count * len(seeds) * len(models)}, {sampling.height}x{sampling.width} "
        f"pixels, {sampling.steps} steps{told_grid(sampling)}, guidance {sampling.guidance:g}",
        "metrics": ", ".join(
            label if label == metric.name else f"{label} ({metric.name})"
            for label, metric in settings.metrics.items()
        )
        or "none",
        "embeddings": told_embeddings(settings.embeddings),
        "folder": str(settings.evaluation.folder),
    }
    listed = [f"  {name:<12}{text}" for name, text in lines.items()]
    for label, metric in settings.metrics.items():
        listed += [f"  {label} reads {place}" for place in readings(metric)]
    return "\n".join(listed)


def _model(model: ModelSection) -> str:
    scale = "" if model.scale == 1 else f", scale {model.scale:g}"
    return f"{model.checkpoint}{scale}{'' if model.averaged else ', not averaged'}"


def _sampled(container: EvaluationContainer) -> tuple[object, Mapping[str, float]]:
    settings = container.settings()
    # One that was put in its place is not known before it is built.
    named = None if container.backbone.overridden else named_model(settings.backbone)
    return named, {"sampling.guidance": settings.sampling.guidance}


def _no_report(settings: EvaluateSettings) -> str:
    why = "no metric has figures of two models for the same picture"
    if len(settings.models) == 1:
        (label,) = settings.models
        why = (
            f"`{label}` is the only model; add another to compare, such as models.aligned="
            "{checkpoint: runs/a/checkpoints/final}, and --resume"
        )
    return f"  no report.html, for {why}"


def check(container: EvaluationContainer, *, resume: bool = False) -> None:
    """Print what an evaluation would do, and do nothing of it.

    Args:
        container: of the evaluation.
        resume: whether it would go on in its folder.

    Raises:
        ConfigurationError: it cannot go on, its pictures cannot be drawn, or a metric lacks what it
            reads.

    Example:
        See `flowbp.evaluate.main`, of which it is `--check`.
    """
    if resume:
        refuse_others(container.settings(), container.digests())
    print(overview(container.settings()), flush=True)
    refuse_unready(container, tried=True)
    warn_of_guidance(*_sampled(container))
    refuse_damaged(container.settings().models)
    print("checked; nothing was run")


def execute(container: EvaluationContainer, *, resume: bool = False) -> Scores:
    """Evaluate: everything that is made goes into the settings' `evaluation.folder`.

    Args:
        container: of the evaluation; providers may have been overridden.
        resume: go on with the evaluation in that folder. Pictures that are there and whole are
            not made again, nor judged again by a metric that is configured as it was; metrics,
            models and seeds may have been added. On the CPU in float32 the result is that of an
            evaluation that never stopped, bit for bit.

    Returns:
        The scores.

    Raises:
        ConfigurationError: the backbone cannot be built or cannot draw pictures of the size, the
            folder is another evaluation's, or a metric lacks what it reads.
        EvaluateError: a checkpoint is of another model, a picture of another evaluation, or a
            metric failed and the settings say to stop then.
        OSError: a file could not be written, or the folder is taken or in use.

    Example:
        See `EvaluationContainer`; then ``execute(container)``.
    """
    settings, timings = container.settings(), Timings()
    earlier: tuple[Mapping[str, float], ...] = ()
    folder = settings.evaluation.folder
    if settings.evaluation.threads is not None:
        torch.set_num_threads(settings.evaluation.threads)
    with ExitStack() as stack:
        if resume:
            refuse_others(settings, container.digests())
            earlier = _sessions(folder)
        print(overview(settings), flush=True)
        refuse_unready(container)
        warn_of_guidance(*_sampled(container))
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError as error:
            problem = Problem("evaluation.folder", str(error.strerror), "")
            raise ConfigurationError([problem]) from error
        if not resume and occupied(folder):
            raise FileExistsError(
                f"`evaluation.folder` {folder} is not empty; name another, such as "
                f"evaluation.folder={free_folder(folder)}"
            )
        write_whole(folder / CONFIGURATION, resolved(settings))
        timings.keep_in(folder, earlier)
        with timings.phase("generate"):
            generate_missing(container)
        with timings.phase("measure"):
            for scores in measured(container):
                write_scores(folder, scores)
                container.digests().keep()
        compared = write_comparison(container, scores, timings)
    print(f"\n{scores_table(scores)}\n\nwritten to {folder}\n{listing(folder)}")
    if not compared:
        print(_no_report(settings))
    print(f"\n{timings}")
    return scores


def _sessions(folder: Path) -> tuple[Mapping[str, float], ...]:
    try:
        return read_timings(folder)
    except DamagedError as error:
        raise ConfigurationError([Problem("evaluation.folder", str(error), "")]) from error

"""An evaluation from its container: generate what is missing, measure, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from flowbp.adapters import Backbone
from flowbp.adapters.attention_kernels import CHOICES
from flowbp.cli.console import listing
from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.generation import generate_missing, missing_pictures, refuse_damaged
from flowbp.cli.evaluate.measurement import Measurement, free_memory
from flowbp.cli.evaluate.pictures import Pictures
from flowbp.cli.evaluate.preflight import run_preflight
from flowbp.cli.evaluate.results import DESCRIPTIONS, write_comparison, write_scores
from flowbp.cli.evaluate.resume import CONFIGURATION, refuse_another_evaluation
from flowbp.cli.evaluate.settings import EvaluateSettings, ModelSection
from flowbp.cli.overview import embeddings_text, grid_text
from flowbp.cli.rehearsal import as_problem_of
from flowbp.cli.timings import Timings, read_timings
from flowbp.config import ConfigurationError, DamagedError, Problem
from flowbp.evaluation import Scores, counted, scores_table
from flowbp.files import write_atomically
from flowbp.prompts import CachedBackbone
from flowbp.settings import free_folder, occupied, resolved
from flowbp.settings.component_needs import locations_read
from flowbp.settings.folder import locked
from flowbp.settings.unloaded_model import named_model, warn_about_guidance


def overview(settings: EvaluateSettings) -> str:
    """What an evaluation would do, in a dozen lines."""
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
        f"pixels, {sampling.steps} steps{grid_text(sampling)}, guidance {sampling.guidance:g}",
        "metrics": ", ".join(
            label if label == metric.name else f"{label} ({metric.name})"
            for label, metric in settings.metrics.items()
        )
        or "none",
        "embeddings": embeddings_text(settings.embeddings),
        "folder": str(settings.evaluation.folder),
    }
    found = [f"  {name:<12}{text}" for name, text in lines.items()]
    named = named_model(settings.backbone)
    files = {} if named is None else named.locations
    found += [f"  backbone.{key} reads {place}" for key, place in files.items()]
    for label, metric in settings.metrics.items():
        found += [f"  {label} reads {place}" for place in locations_read(metric)]
    return "\n".join(found)


def _model(model: ModelSection) -> str:
    scale = "" if model.scale == 1 else f", scale {model.scale:g}"
    return f"{model.checkpoint}{scale}{'' if model.averaged else ', not averaged'}"


def _sampled(container: EvaluationContainer) -> tuple[object, Mapping[str, float]]:
    settings = container.settings()
    # One that was put in its place is not known before it is built.
    named = None if container.backbone.overridden else named_model(settings.backbone)
    return named, {"sampling.guidance": settings.sampling.guidance}


def _no_report(settings: EvaluateSettings) -> str:
    why = "no metric has values of two models for the same picture"
    if len(settings.models) == 1:
        (label,) = settings.models
        why = (
            f"`{label}` is the only model; add another to compare, such as models.aligned="
            "{checkpoint: runs/a/checkpoints/final}, and --resume"
        )
    return f"  no report.html, because {why}"


def check(container: EvaluationContainer, *, resume: bool = False) -> None:
    """Print what an evaluation would do, and do nothing of it."""
    settings = container.settings()
    if resume:
        refuse_another_evaluation(settings, container.digests())
    print(overview(settings), flush=True)
    run_preflight(container, tried=True)
    warn_about_guidance(*_sampled(container))
    refuse_damaged(settings.models)
    print("checked; nothing was run")


def execute(container: EvaluationContainer, *, resume: bool = False) -> Scores:
    """Evaluate; everything is written into the settings' `evaluation.folder`.

    With `resume` the evaluation in that folder goes on. Pictures that are there and whole are not
    made again, nor judged again by a metric that is configured as it was; metrics, models and
    seeds may have been added. On the CPU in float32 the result is that of an evaluation that never
    stopped, bit for bit.
    """
    settings, digests, timings = container.settings(), container.digests(), Timings()
    earlier: tuple[Mapping[str, float], ...] = ()
    folder = settings.evaluation.folder
    if settings.evaluation.threads is not None:
        torch.set_num_threads(settings.evaluation.threads)
    if resume:
        refuse_another_evaluation(settings, digests)
        earlier = _sessions(folder)
    print(overview(settings), flush=True)
    run_preflight(container)
    warn_about_guidance(*_sampled(container))
    with _claimed(folder, resume=resume):
        write_atomically(folder / CONFIGURATION, resolved(settings))
        timings.keep_in(folder, earlier)
        with timings.phase("generate"):
            _generate(container)
        with timings.phase("measure"):
            pictures = Pictures(settings, container.prompts(), container.device())
            run = Measurement(settings, pictures, container.metric, container.towers(), digests)
            for scores in run.run():
                write_scores(folder, scores)
                digests.keep()
        compared = write_comparison(settings, container.device(), scores, timings)
    print(f"\n{scores_table(scores)}\n\nwritten to {folder}\n{listing(folder, DESCRIPTIONS)}")
    if not compared:
        print(_no_report(settings))
    print(f"\n{timings}")
    return scores


@contextmanager
def _claimed(folder: Path, *, resume: bool) -> Iterator[None]:
    """Lock a folder, which must be empty unless its evaluation goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
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
        yield


def _generate(container: EvaluationContainer) -> None:
    settings = container.settings()
    missing = missing_pictures(settings, container.prompts())
    if missing:
        with CHOICES.restored():
            backbone, model = _loaded(container)
            generate_missing(settings, missing, backbone, model, container.digests())
        del backbone, model
        # Metrics may need the memory.
        container.model.reset()
        container.backbone.reset()
        free_memory()


def _loaded(container: EvaluationContainer) -> tuple[Backbone, CachedBackbone]:
    with as_problem_of("backbone"):
        backbone = container.backbone()
    with as_problem_of("embeddings"):
        return backbone, container.model()


def _sessions(folder: Path) -> tuple[Mapping[str, float], ...]:
    try:
        return read_timings(folder)
    except DamagedError as error:
        raise ConfigurationError([Problem("evaluation.folder", str(error), "")]) from error

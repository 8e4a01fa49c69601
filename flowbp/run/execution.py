"""A run from its container: build, evaluate, train, evaluate again, write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor

from flowbp.components import blamed, during, passes
from flowbp.configuration import ConfigurationError, Problem
from flowbp.container import RunContainer
from flowbp.evaluation import Comparison, Evaluation, evaluate, table
from flowbp.files import write_whole
from flowbp.run.advice import guidance_scales, loading_advice, warn_of_guidance
from flowbp.run.artefacts import (
    CONFIGURATION,
    claim,
    configuration_text,
    listing,
    replaced,
    write_finished,
)
from flowbp.run.before import read_before, write_before
from flowbp.run.calibrating import calibrate
from flowbp.run.checking import counted_parameters, refuse_processes
from flowbp.run.counting import trained_parameters
from flowbp.run.encoding import encode_prompts
from flowbp.run.ending import best_checkpoint, ending, take_best, told_best
from flowbp.run.lock import locked
from flowbp.run.overview import overview
from flowbp.run.readiness import unready
from flowbp.run.rehearsal import PICTURES, made_up_pictures, try_all
from flowbp.run.rehearsal_saving import rehearse_optimizer, rehearse_saving
from flowbp.run.results import Evaluated, write_results
from flowbp.run.resuming import Resumption, resumption
from flowbp.run.telling import told_progress
from flowbp.run.timings import Timings
from flowbp.settings import SOURCES, decisive, sources_of, write_sources
from flowbp.training import Streams
from flowbp.training.prompts import drawn

# The part of the configuration that is at fault when a provider cannot build.
_SECTIONS = {
    "backbone": "backbone",
    "reward": "reward",
    "judge": "judge",
    "metrics": "evaluation.metrics",
    "observers": "observers",
    "snapshots": "samples",
}


class RunError(RuntimeError):
    """A run cannot go on, for a reason outside this library that the message tells."""


def execute(container: RunContainer, *, resume: bool = False) -> Comparison | None:
    """Run: everything that is made goes into the settings' `run.folder`.

    Args:
        container: of the run; providers may have been overridden.
        resume: go on with the run in that folder, from its newest checkpoint. On the CPU in
            float32 the result is that of a run that never stopped, bit for bit.

    Returns:
        The evaluations before and after, None if the settings ask for none.

    Raises:
        ConfigurationError: a part cannot be built from its settings, or the run cannot go on.
        RunError: the scales of a reward cannot be measured.
        DamagedError: what is left of the evaluation before training is damaged.
        ComponentError: a part of the run, maybe of others, failed or returned what it must not.
        NonFiniteError: a training step met a number that is not finite.
        EvaluationError: an evaluation inside the run gave no figures that can be used.
        OSError: a file could not be written, or the folder is taken or in use.
        KeyboardInterrupt: Ctrl-C; during training its notes say where the model was saved.

    Example:
        See `RunContainer`; then ``execute(container)``.
    """
    refuse_processes(container)
    settings, timings = container.settings(), Timings()
    folder = settings.run.folder
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    problems = unready(container)
    if problems:
        # Raises, with what is wrong of the model besides.
        counted_parameters(container, problems)
    with ExitStack() as stack:
        found = _resumed(container, stack) if resume else None
        with timings.phase("load"), during("the construction of its parts"):
            _build(container)
        trained = trained_parameters(container.tuned())
        print(overview(settings, trained, replaced=replaced(container)), flush=True)
        warn_of_guidance(container.tuned(), guidance_scales(settings))
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        # Before the folder is claimed, so that the same command can be given again.
        with timings.phase("rehearse"):
            _rehearse(container)
        if found is None:
            claim(folder, configuration_text(container))
            timings.keep_in(folder)
            # Files of a model are many gigabytes.
            with timings.phase("load"):
                write_sources(folder, sources_of(decisive(settings)))
        else:
            print(*found.notes, sep="\n", flush=True)
            write_whole(folder / CONFIGURATION, configuration_text(container))
            timings.keep_in(folder, found.sessions)
            if not (folder / SOURCES).exists():
                write_sources(folder, sources_of(decisive(settings)))
                # The identity that checkpoints carry has these digests in it.
                container.checkpoints.reset()
        return _finish(container, found, timings)


def _resumed(container: RunContainer, stack: ExitStack) -> Resumption:
    folder = container.settings().run.folder
    if folder.is_dir():
        try:
            stack.enter_context(locked(folder))
        except BlockingIOError as error:
            raise ConfigurationError([Problem("run.folder", str(error.strerror), "")]) from error
        container.checkpoints().recover()
    return resumption(container)


def _finish(
    container: RunContainer, found: Resumption | None, timings: Timings
) -> Comparison | None:
    settings = container.settings()
    folder, comparison = settings.run.folder, None
    with timings.phase("encode"), during("the encoding of the prompts"):
        encode_prompts(container, listed_in=folder)
    with (
        timings.phase("calibrate"),
        during("the calibration of the reward"),
        _stopping("the calibration of the reward stopped"),
    ):
        calibrate(container, found)
    with timings.phase("evaluate before"):
        before = _before(container, folder)
    if settings.run.compile:
        print(
            "compiling: until the second step there may be nothing to see for minutes", flush=True
        )
    with timings.phase("train"), during("the training"):
        done = container.trainer().run(resume=found.checkpoint if found else None)
    with _trained_stays(container):
        end = ending(container, done)
        take_best(container, end)
        with timings.phase("evaluate after"):
            after = _evaluated(container, "after")
        if before is not None and after is not None:
            comparison = Comparison(before[0], after[0])
            with timings.phase("write"), during("the writing of the report"):
                evaluated = Evaluated(comparison, before[1], after[1], done, end)
                write_results(container, evaluated, timings.sums, sessions=timings.sessions)
            print(f"\n{table(comparison)}")
    write_finished(folder, done, ended_early=end is not None)
    if end is not None:
        print(f"\n{end.note if comparison is not None else end.told}")
    print(f"\nwritten to {folder}\n{listing(folder, told_best(container, done))}")
    print(loading_advice(container, best_checkpoint(container, done)), end="")
    print(f"\n{timings}")
    return comparison


def _before(container: RunContainer, folder: Path) -> tuple[Evaluation, Tensor] | None:
    kept = read_before(folder)
    if kept is not None:
        return kept
    # The backbone still is as it was built: a checkpoint is loaded when training begins.
    before = _evaluated(container, "before")
    if before is not None:
        write_before(folder, *before)
    return before


def _build(container: RunContainer) -> None:
    failures = list(_failures(container, _SECTIONS))
    # These need the others, and would only repeat their problems.
    for name, section in (
        ("tuned", "tuning"),
        ("model", "embeddings"),
        ("anchor", "anchor"),
        ("step", "sampling"),
    ):
        failures = failures or list(_failures(container, {name: section}))
    if failures:
        problems = [Problem(section, _told(error), "") for section, error in failures]
        # The errors themselves go along, as only they know the line of a third party's code.
        causes = BaseExceptionGroup(
            "parts that could not be built", [error for _, error in failures]
        )
        raise ConfigurationError(problems) from causes


def _rehearse(container: RunContainer) -> None:
    """Try what scores pictures, and a save and a load, before hours depend on them."""
    settings = container.settings()
    own = container.own_prompts()
    stream = iter(own.stream(Streams.of(settings.run.seed).prompts))
    try_all(
        container.reward(),
        container.judge(),
        container.metrics(),
        images=made_up_pictures(settings.sampling, container.model().device),
        training=drawn(own, stream, PICTURES),
        held_out=container.held_out(),
    )
    rehearse_optimizer(container.optimizer(), container.tuned().trainable())
    rehearse_saving(container.tuned(), settings.run.folder)


def _told(error: BaseException) -> str:
    return str(blamed(error) or "; ".join([str(error), *getattr(error, "__notes__", ())]))


def _failures(
    container: RunContainer, sections: dict[str, str]
) -> Iterator[tuple[str, BaseException]]:
    for name, section in sections.items():
        try:
            container.providers[name]()
        # Building runs code of others, and whatever it raises is a problem of its section.
        except BaseException as error:
            ours = isinstance(error, ValueError | TypeError | OSError | ModuleNotFoundError)
            if not ours and (passes(error) or blamed(error) is None):
                raise
            yield section, error


def _evaluated(container: RunContainer, label: str) -> tuple[Evaluation, Tensor] | None:
    sampling = container.evaluation_sampling()
    if sampling is None:
        return None
    prompts = container.held_out()
    with (
        during(f"the evaluation {label} training"),
        _stopping(f"the evaluation {label} training stopped"),
        told_progress(f"evaluating {label} training", len(prompts)) as progress,
    ):
        return evaluate(
            container.model(),
            container.calibrated(),
            container.judge(),
            prompts,
            sampling=sampling,
            noise_seed=container.settings().evaluation.noise_seed,
            label=label,
            progress=progress,
        )


@contextmanager
def _stopping(what: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        stop = RunError(f"{what}: {error}")
        for note in getattr(error, "__notes__", ()):
            stop.add_note(note)
        raise stop from error


@contextmanager
def _trained_stays(container: RunContainer) -> Iterator[None]:
    """Say of whatever goes wrong after the training that its model is there."""
    try:
        yield
    except Exception as error:
        final = container.settings().run.folder / "checkpoints" / "final"
        if final.is_dir():
            error.add_note(f"the trained model is saved in {final}; --resume goes on from there")
        raise

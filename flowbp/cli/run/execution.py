"""A run from its container: build, evaluate, train, evaluate again, write."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from flowbp.cli.console import listing
from flowbp.cli.lock import locked
from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.run.folder import (
    CONFIGURATION,
    DESCRIPTIONS,
    claim_folder,
    configuration_text,
    replaced_providers,
    write_finished,
)
from flowbp.cli.run.overview import overview
from flowbp.cli.run.phases import (
    calibrate,
    run_prompts,
    score_before,
    score_held_out,
    stopping_on_errors,
)
from flowbp.cli.run.preflight import (
    counted_parameters,
    refuse_processes,
    trained_parameters,
    unmet_needs,
)
from flowbp.cli.run.results import (
    Evaluated,
    early_end,
    find_best,
    guidance_scales,
    load_best,
    loading_advice,
    write_results,
)
from flowbp.cli.run.resume import Resumption, resumption
from flowbp.cli.timings import Timings
from flowbp.cli.trial_calls import (
    PICTURES,
    made_up_pictures,
    problem_of,
    try_optimizer,
    try_saving,
    try_scorers,
)
from flowbp.cli.unloaded_model import warn_about_guidance
from flowbp.component_errors import during
from flowbp.config import ConfigurationError, Problem
from flowbp.evaluation import Comparison, table
from flowbp.files import write_atomically
from flowbp.settings import SOURCES, RunContainer, decisive, sources_of, write_sources
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
# These need the others, and would only repeat their problems.
_DEPENDENT = {"tuned": "tuning", "model": "embeddings", "anchor": "anchor", "step": "sampling"}


def execute(container: RunContainer, *, resume: bool = False) -> Comparison | None:
    """Run; everything is written into the settings' `run.folder`.

    Args:
        container: of the run; providers may have been overridden.
        resume: continue the run in that folder, from its newest checkpoint. On the CPU in float32
            the result is that of a run that never stopped, bit for bit.

    Returns:
        The evaluations before and after, None if the settings ask for none.
    """
    refuse_processes(container.shard().world_size)
    settings, timings = container.settings(), Timings()
    folder = settings.run.folder
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    replaced = replaced_providers(container)
    problems = unmet_needs(settings, replaced)
    if problems:
        # Raises, with what is wrong of the model besides.
        counted_parameters(container, problems)
    with ExitStack() as stack:
        found = _resumed(container, stack) if resume else None
        with timings.phase("load"), during("the construction of its parts"):
            _build(container)
        trained = trained_parameters(container.tuned())
        print(overview(settings, trained, replaced=replaced), flush=True)
        warn_about_guidance(container.tuned(), guidance_scales(settings))
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        # Before the folder is claimed, so that the same command can be given again.
        with timings.phase("rehearse"):
            _try_components(container)
        _write_beginning(container, found, timings)
        return _finish(container, found, timings)


def _write_beginning(container: RunContainer, found: Resumption | None, timings: Timings) -> None:
    """Write what a run is made of into its folder, which a new run claims by it."""
    settings, model = container.settings(), container.tuned()
    folder, replaced = settings.run.folder, replaced_providers(container)
    configuration = configuration_text(settings, model, container.device(), replaced)
    if found is None:
        claim_folder(folder, configuration)
        timings.keep_in(folder)
        # Files of a model are many gigabytes.
        with timings.phase("load"):
            write_sources(folder, sources_of(decisive(settings)))
        return
    print(*found.notes, sep="\n", flush=True)
    write_atomically(folder / CONFIGURATION, configuration)
    timings.keep_in(folder, found.sessions)
    if not (folder / SOURCES).exists():
        write_sources(folder, sources_of(decisive(settings)))
        # The identity that checkpoints carry has these digests in it.
        container.checkpoints.reset()


def _resumed(container: RunContainer, stack: ExitStack) -> Resumption:
    settings = container.settings()
    if settings.run.folder.is_dir():
        try:
            stack.enter_context(locked(settings.run.folder))
        except BlockingIOError as error:
            raise ConfigurationError([Problem("run.folder", str(error.strerror), "")]) from error
        container.checkpoints().recover()
    return resumption(settings, container.checkpoints(), replaced_providers(container))


def _finish(
    container: RunContainer, found: Resumption | None, timings: Timings
) -> Comparison | None:
    settings = container.settings()
    folder, comparison = settings.run.folder, None
    checkpoint = found.checkpoint if found else None
    with timings.phase("encode"), during("the encoding of the prompts"):
        encode_prompts(container.model(), run_prompts(container), listed_in=folder)
    with (
        timings.phase("calibrate"),
        during("the calibration of the reward"),
        stopping_on_errors("the calibration of the reward stopped"),
    ):
        calibrate(container, begun=checkpoint is not None)
    with timings.phase("evaluate before"):
        before = score_before(container, folder)
    if settings.run.compile:
        print("compiling: the first two steps may take several minutes", flush=True)
    with timings.phase("train"), during("the training"):
        done = container.trainer().run(resume=checkpoint)
    with _note_of_trained_model(folder):
        best = end = None
        if settings.early_stop is not None:
            rule, held_out = settings.early_stop.rule, container.history().held_out
            best = find_best(rule, held_out, container.checkpoints(), done=done)
            less = rule.less_is_better(held_out)
            end = early_end(settings, best, done=done, less_is_better=less)
        load_best(container.tuned(), end)
        with timings.phase("evaluate after"):
            after = score_held_out(container, "after")
        if before is not None and after is not None:
            comparison = Comparison(before[0], after[0])
            with timings.phase("write"), during("the writing of the report"):
                evaluated = Evaluated(comparison, before[1], after[1], done, end)
                write_results(container, evaluated, timings)
            print(f"\n{table(comparison)}")
    write_finished(folder, done, ended_early=end is not None)
    if end is not None:
        print(f"\n{end.note if comparison is not None else end.explanation}")
    descriptions = DESCRIPTIONS | (best.description if best else {})
    print(f"\nwritten to {folder}\n{listing(folder, descriptions)}")
    print(loading_advice(container.tuned(), settings, best.checkpoint if best else None), end="")
    print(f"\n{timings}")
    return comparison


def _build(container: RunContainer) -> None:
    problems, causes = _build_parts(container, _SECTIONS)
    for name, section in _DEPENDENT.items():
        if not problems:
            problems, causes = _build_parts(container, {name: section})
    if problems:
        # The errors themselves go along, as only they know the line of a third party's code.
        raise ConfigurationError(problems) from BaseExceptionGroup(
            "parts that could not be built", causes
        )


def _build_parts(
    container: RunContainer, sections: Mapping[str, str]
) -> tuple[list[Problem], list[BaseException]]:
    problems, causes = [], []
    for name, section in sections.items():
        try:
            container.providers[name]()
        # Building runs code of others, and whatever it raises is a problem of its section.
        except BaseException as error:
            problem = problem_of(section, error)
            if problem is None:
                raise
            problems.append(problem)
            causes.append(error)
    return problems, causes


def _try_components(container: RunContainer) -> None:
    """Try what scores pictures, a step, a save and a load, before hours depend on them."""
    settings = container.settings()
    own = container.own_prompts()
    stream = iter(own.stream(Streams.of(settings.run.seed).prompts))
    try_scorers(
        container.reward(),
        container.judge(),
        container.metrics(),
        images=made_up_pictures(settings.sampling, container.model().device),
        training=drawn(own, stream, PICTURES),
        held_out=container.held_out(),
    )
    try_optimizer(container.optimizer(), container.tuned().trainable())
    try_saving(container.tuned(), settings.run.folder)


@contextmanager
def _note_of_trained_model(folder: Path) -> Iterator[None]:
    """Add to whatever goes wrong after the training that its model is saved."""
    try:
        yield
    except Exception as error:
        final = folder / "checkpoints" / "final"
        if final.is_dir():
            error.add_note(f"the trained model is saved in {final}; --resume continues from there")
        raise

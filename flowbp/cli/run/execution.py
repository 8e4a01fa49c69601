"""A run from its container: build, evaluate, train, evaluate again, write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import attrs
import torch

from flowbp.adapters.attention_kernels import CHOICES
from flowbp.adapters.capabilities import copy_for_saving_of
from flowbp.cli.console import listing
from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.rehearsal import (
    PICTURES,
    made_up_pictures,
    saving_tried,
    try_observer,
    try_optimizer,
    try_scorers,
)
from flowbp.cli.run.built_run import BuiltRun, build_run, replaced_providers
from flowbp.cli.run.check import division_of, trained_parameters
from flowbp.cli.run.folder import (
    CONFIGURATION,
    DESCRIPTIONS,
    claim_folder,
    configuration_text,
    write_finished,
)
from flowbp.cli.run.model_card import complete_card, with_cards
from flowbp.cli.run.other_ranks import divide, follow, meet, share_judged, share_scales
from flowbp.cli.run.overview import overview
from flowbp.cli.run.phases import calibrate, run_prompts, score_before, score_held_out
from flowbp.cli.run.results import (
    Evaluated,
    ending,
    guidance_scales,
    loading_advice,
    write_results,
)
from flowbp.cli.run.resume import Resumption, resumption
from flowbp.cli.timings import Timings
from flowbp.component_errors import during
from flowbp.config import ConfigurationError, Problem
from flowbp.evaluation import Comparison, table
from flowbp.files import write_atomically
from flowbp.rewards import UncalibratedReward
from flowbp.settings import SOURCES, RunContainer, decisive, sources_of, write_sources
from flowbp.settings.folder import locked
from flowbp.settings.loader import problems_of
from flowbp.settings.preflight import reading_checks
from flowbp.settings.unloaded_model import warn_about_guidance
from flowbp.training import Streams
from flowbp.training.frozen_files import FrozenFiles
from flowbp.training.launch import refuse_several
from flowbp.training.prompts import drawn


def execute(container: RunContainer, *, resume: bool = False) -> Comparison | None:
    """Run; everything is written into the settings' `run.folder`.

    Providers of the container may have been overridden. With `resume` the run in that folder goes
    on from its newest checkpoint; on the CPU in float32 the result is that of a run that never
    stopped, bit for bit. Returns the evaluations before and after, if the settings ask for any.

    Of several processes the first prints and writes; the others take part in the encoding, the
    sampling, the scoring and the training.

    Raises:
        LaunchError: torchrun has started several, and the container has no `ranks` of them.
    """
    refuse_several(
        "write `with joined(Launch.of()) as ranks: execute(RunContainer(settings=…, ranks=ranks))`"
        ", or start without torchrun",
        container.ranks().size,
    )
    with CHOICES.restored(), container.ranks().together():
        if not container.ranks().first:
            follow(container)
            return None
        return _execute(container, resume=resume)


def _execute(container: RunContainer, *, resume: bool) -> Comparison | None:
    settings, timings = container.settings(), Timings()
    folder, replaced = settings.run.folder, replaced_providers(container)
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    found, problems = None, list(problems_of(reading_checks(replaced), settings))
    with ExitStack() as stack:
        try:
            found = _resumed(container, stack) if resume else None
        except ConfigurationError as error:
            problems += error.problems
        if problems:
            raise ConfigurationError(problems)
        loading = timings.phase("load", "loading the model and all that scores its pictures")
        with loading, during("the construction of its parts"):
            run = build_run(container)
        trained, size = trained_parameters(run.tuned), run.ranks.size
        chosen = division_of(settings, run.tuned, run.optimizer)
        shown = overview(
            settings,
            trained,
            replaced=replaced,
            processes=size,
            division=chosen,
            copied=copy_for_saving_of(run.tuned) is not None,
        )
        print(shown, flush=True)
        warn_about_guidance(run.tuned, guidance_scales(settings))
        if found is None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(folder))
        # Before the folder is claimed, so that the same command can be given again.
        with timings.phase("rehearse", "rehearsing: scores, an optimizer step, a checkpoint"):
            _try_components(run)
            frozen = stack.enter_context(saving_tried(run.tuned, folder))
        _write_beginning(run, found, timings)
        # The identity that checkpoints carry has the digests in it that were just written.
        container.checkpoints.reset()
        return _finish(container, run, found, timings, frozen)


def _write_beginning(run: BuiltRun, found: Resumption | None, timings: Timings) -> None:
    """Write what a run is made of into its folder, which a new run claims by it."""
    settings = run.settings
    folder = settings.run.folder
    configuration = configuration_text(
        settings, run.tuned, run.device, run.replaced, processes=run.ranks.size
    )
    if found is None:
        claim_folder(folder, configuration)
        timings.keep_in(folder)
    else:
        print(*found.notes, sep="\n", flush=True)
        write_atomically(folder / CONFIGURATION, configuration)
        timings.keep_in(folder, found.sessions)
    if not (folder / SOURCES).exists():
        # Files of a model are many gigabytes.
        with timings.phase("load", "reading the files that the run is made of, for their digests"):
            write_sources(folder, sources_of(decisive(settings)))


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
    container: RunContainer,
    run: BuiltRun,
    found: Resumption | None,
    timings: Timings,
    frozen: FrozenFiles,
) -> Comparison | None:
    settings, comparison = run.settings, None
    folder, checkpoint = settings.run.folder, found.checkpoint if found else None
    meet(run, checkpoint)
    with timings.phase("load"), during("the division of the model"):
        divide(run)
    encoding = timings.phase("encode", "looking for the prompts' embeddings")
    with encoding, during("the encoding of the prompts"):
        encode_prompts(run.model, run_prompts(run), listed_in=folder, ranks=run.ranks)
    measuring = isinstance(run.reward, UncalibratedReward)
    with timings.phase("calibrate") if measuring else nullcontext():
        reward = calibrate(run, container.calibrated, begun=checkpoint is not None)
        share_scales(run, reward)
    with timings.phase("evaluate before"):
        before = score_before(run, reward)
    begun = "training"
    if settings.run.compile:
        begun += "; the first steps compile, for minutes where no run before has compiled the same"
    with timings.phase("train", begun), during("the training"):
        checkpoints = attrs.evolve(with_cards(container.checkpoints(), run), frozen=frozen)
        done = container.trainer(checkpoints=checkpoints).run(resume=checkpoint)
    with _note_of_trained_model(folder):
        end = ending(settings, run.history.held_out, container.checkpoints(), done=done)
        share_judged(run, end)
        with timings.phase("evaluate after"):
            after = score_held_out(run, reward, "after")
        if before is not None and after is not None:
            comparison = Comparison(before[0], after[0])
            with timings.phase("write"), during("the writing of the report"):
                evaluated = Evaluated(comparison, before[1], after[1], end)
                inside, facts = container.held_out_evaluation(), container.shown_facts()
                method = type(container.method()).__name__
                write_results(run, evaluated, timings, inside=inside, method=method, facts=facts)
                complete_card(run, comparison, inside, end)
            print(f"\n{table(comparison)}")
    write_finished(folder, done, ended_early=bool(end.early))
    if end.early:
        print(f"\n{end.note if comparison is not None else end.early}")
    best = {} if end.checkpoint is None else {f"checkpoints/{end.checkpoint}": end.description}
    print(f"\nwritten to {folder}\n{listing(folder, DESCRIPTIONS | best)}")
    print(loading_advice(run.tuned, settings, end.checkpoint), end="")
    print(f"\n{timings}")
    run.ranks.exchange(None)
    return comparison


def _try_components(run: BuiltRun) -> None:
    """Try what scores pictures, and a step, before hours depend on them."""
    settings = run.settings
    stream = iter(run.prompts.stream(Streams.of(settings.run.seed).prompts))
    try_scorers(
        run.reward,
        run.judge,
        run.metrics,
        images=made_up_pictures(settings.sampling, run.model.device),
        training=drawn(run.prompts, stream, PICTURES),
        held_out=run.held_out,
    )
    try_optimizer(run.optimizer, run.tuned.trainable())
    if "observers" not in run.replaced:
        for other in settings.observers.others:
            # One that takes no folder may write anywhere.
            if other.takes("folder"):
                try_observer(other, settings.training.steps)


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

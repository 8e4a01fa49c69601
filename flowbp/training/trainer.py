"""The loop around the training step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch

from flowbp.component_errors import during, shown, wrong
from flowbp.training.checkpoint import FINAL
from flowbp.training.device_memory import Memory, memory_of
from flowbp.training.ema import Averaging
from flowbp.training.failures import (
    NonFiniteError,
    nonfinite_error,
    refuse_nonfinite_parameters,
    save_after_exception,
)
from flowbp.training.hold_signals import held_back, uninterrupted
from flowbp.training.memory_fit import choose_portions, retry_on_out_of_memory
from flowbp.training.memory_stages import UPDATE, in_stage
from flowbp.training.metrics import (
    Metrics,
    measure,
    warn_of_falling_reward,
    warn_of_no_gradient,
)
from flowbp.training.mid_run_evaluation import HeldOutEvaluation
from flowbp.training.observers import Observer, closed_after, notify
from flowbp.training.optimization import (
    Constant,
    OptimizerRecipe,
    Schedule,
    clip_gradients,
    gradient_norm,
    warn_of_coarse_weights,
)
from flowbp.training.optimizer_classes import set_rate, stepping
from flowbp.training.prompts import PromptSource
from flowbp.training.randomness import seeded
from flowbp.training.ranks import Ranks
from flowbp.training.restore import (
    frozen_fingerprint,
    refuse_differing_models,
    restore_training_state,
)
from flowbp.training.retention import Checkpoints
from flowbp.training.run_state import RunState
from flowbp.training.sample_pictures import Snapshots
from flowbp.training.sharded_state import StoppedTogether, network_of, serve, shard_number
from flowbp.training.step import TrainingStep
from flowbp.validators import integer, real

# Untyped, because mypy takes the type of a field from its default alone.
_optional: Any = attrs.validators.optional


@attrs.frozen(kw_only=True, eq=False)
class Trainer:
    """Trains a backbone to score higher on a reward.

    Each optimizer step draws prompts, runs `step`, checks that everything is finite, clips,
    updates parameters and their average, and notifies the observers. The host waits for the device
    once a step. A run is a pure function of its parts and `seed`, up to the device's own
    arithmetic.

    On a CUDA device, portions that the batching leaves to be chosen are fitted into its memory
    first. A step that runs out of memory is done again, with the same draws, in smaller portions,
    which stay so.

    Where the step has `ranks` of several processes, each runs a trainer of the same parts. The
    first one alone calls observers and saves; all of them sample and score held-out pictures.
    Metrics and clipping are of the whole batch, and a failure of one ends all.

    Args:
        step: computes the gradients.
        prompts: where prompts come from.
        optimizer: builds the optimizer of the backbone's trainable parameters.
        steps: optimizer steps, the schedule's horizon.
        schedule: factor of the learning rate for each step.
        clip: largest norm of all gradients together; None does not clip.
        averaging: average the parameters; None does not.
        seed: of prompts, surrogates, noise, copies and whatever draws from torch's own generators.
        observers: receive every step and picture, and are closed at the end, whatever happens.
        snapshots: sample pictures every so many steps, under the averaged weights; None does not.
        checkpoints: where to save; None never saves.
        held_out_evaluation: evaluates the model inside the run, and may end it; None does neither.
        clock: seconds from any origin.
        memory: of a device, for fitting; None fits nothing there.

    Raises:
        ValueError: a number is out of range, or the schedule does not fit into `steps`.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> from torch import nn
        >>> from flowbp.adapters import Conditioning
        >>> from flowbp.core import Linear, Sparse
        >>> from flowbp.training import AdamW, Batching, PromptList, TrainingSampling
        >>> weight = nn.Parameter(torch.zeros(()))
        >>> toy = SimpleNamespace(
        ...     device=torch.device("cpu"),
        ...     trainable=lambda: {"weight": weight},
        ...     encode=lambda prompts: Conditioning({"ones": torch.ones(len(prompts), 1)}),
        ...     noise=lambda count, *, height, width, generator: torch.randn(
        ...         count, 3, height, width, generator=generator
        ...     ),
        ...     sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1),
        ...     velocity=lambda conditioning: lambda latents, sigma: weight - latents,
        ...     decode=torch.sigmoid,
        ... )
        >>> step = TrainingStep(
        ...     backbone=toy,
        ...     reward=lambda images, prompts: images.mean((1, 2, 3)),
        ...     method=Sparse(active=2),
        ...     shape=Linear(),
        ...     sampling=TrainingSampling(steps=4, guidance=1, height=8, width=8),
        ...     batching=Batching(samples=2),
        ... )
        >>> prompts, optimizer = PromptList(["brighter"]), AdamW(learning_rate=0.01)
        >>> Trainer(step=step, prompts=prompts, optimizer=optimizer, steps=3).run()
        3
        >>> print(f"{weight.item():.2f}")
        -0.03

    Reference: arXiv 2606.11075, section 3.
    """

    step: TrainingStep
    prompts: PromptSource
    optimizer: OptimizerRecipe
    steps: int = attrs.field(validator=integer(1))
    schedule: Schedule = attrs.field(factory=Constant)
    clip: float | None = attrs.field(default=1.0, validator=_optional(real(0, above=True)))
    averaging: Averaging | None = None
    seed: int = attrs.field(default=0, validator=integer(0))
    observers: Sequence[Observer] = ()
    snapshots: Snapshots | None = None
    checkpoints: Checkpoints | None = None
    held_out_evaluation: HeldOutEvaluation | None = None
    clock: Callable[[], float] = time.perf_counter
    memory: Callable[[torch.device], Memory | None] = memory_of

    def __attrs_post_init__(self) -> None:
        """Refuse now what the schedule would refuse in the first step."""
        self.schedule.factor(0, self.steps, self.optimizer.learning_rate)

    def run(self, *, resume: Path | None = None) -> int:
        """Train for `steps` optimizer steps, or until `held_out_evaluation` ends the run.

        Afterwards the backbone holds what the last checkpoint does: the averaged parameters if
        the run averages, else those of the last step.

        From `resume`, a checkpoint of an earlier run of this trainer, the run goes on: on the CPU
        in float32 metrics and parameters are those of a run that never stopped, bit for bit.

        Returns how many optimizer steps are done. Whatever ends the run early is raised once the
        model is saved where `checkpoints` says: `interrupted-<step>` after a KeyboardInterrupt,
        never in the middle of an update, `stopped-<step>` after any other exception,
        `last-good-<step>` or `failed-<step>` with a NonFiniteError.
        """
        if self._own_checkpoints is not None and resume is None:
            self._own_checkpoints.refuse_taken(self.steps)
        with (
            seeded(self.seed, self.step.backbone.device),
            closed_after(self._own_observers) as close,
        ):
            with during("the start of the training"), self._ranks.together():
                run = self._start(resume)
            try:
                with self._ranks.together():
                    self._train(run)
                    close()
            except NonFiniteError:
                raise
            except BaseException as stop:
                if not isinstance(stop, StoppedTogether):
                    self._save_after(run, stop)
                else:
                    self._by_the_first(run, partial(self._save_after, run, stop))
                raise
            if run.average is not None:
                with uninterrupted():
                    run.average.copy_to_parameters()
        return run.done

    @property
    def _ranks(self) -> Ranks:
        return self.step.ranks

    @property
    def _own_observers(self) -> Sequence[Observer]:
        return self.observers if self._ranks.first else ()

    @property
    def _own_checkpoints(self) -> Checkpoints | None:
        return self.checkpoints if self._ranks.first else None

    def _save_after(self, run: RunState, stop: BaseException) -> None:
        if self._ranks.first:
            stop.add_note(save_after_exception(run, self._own_checkpoints, stop))

    def _by_the_first(self, run: RunState, act: Callable[[], object]) -> None:
        """Have the first process do something, for which a sharded model needs the others."""
        if self._ranks.first:
            act()
        if network_of(run) is not None:
            if self._ranks.first:
                self._ranks.exchange(None)
            else:
                serve(run)

    @contextmanager
    def _stopping_together(self, run: RunState) -> Iterator[None]:
        """Where the model is sharded: stop all at the end of the block if one was interrupted.

        None of them could save it without the others.
        """
        if network_of(run) is None:
            yield
            return
        with held_back() as held:
            yield
        if any(self._ranks.exchange(bool(held))):
            raise StoppedTogether

    def _train(self, run: RunState) -> None:
        with during("the start of the training"):
            notify(self._own_observers, "begin", tuple(run.rows))
            self._choose_portions(run)
        with self._stopping_together(run):
            self._catch_up(run)
        while run.done < self._end(run):
            with self._stopping_together(run):
                self._do_step(run)
        with _saving(run):
            if self._own_checkpoints is not None:
                self._own_checkpoints.wait()

    def _do_step(self, run: RunState) -> None:
        with _saving(run):
            if self._own_checkpoints is not None:
                self._own_checkpoints.check()
        with during(f"step {run.done + 1} of the training"):
            self._advance(run)
        # Before saving, so that a checkpoint holds the evaluation of its step and a run that goes
        # on from it ends where this one does.
        evaluated = self._evaluate(run)
        # First, so that no observer can lose the model.
        self._save(run)
        with during(f"the observers' turn after step {run.done}"):
            notify(self._own_observers, "row", run.rows[-1])
            if evaluated:
                notify(self._own_observers, "evaluations", tuple(run.evaluations))
        self._show(run)

    def _start(self, resume: Path | None) -> RunState:
        backbone, evaluation = self.step.backbone, self.held_out_evaluation
        parameters = backbone.trainable()
        warn_of_coarse_weights(parameters, self.optimizer.learning_rate)
        run = RunState.at_start(
            self.step, self.prompts, self.optimizer, self.averaging, seed=self.seed
        )
        if resume is not None or self.checkpoints is not None:
            run.frozen = frozen_fingerprint(backbone.module, parameters.values())
        if resume is not None:
            if evaluation is not None:
                evaluation.begin(first=self._ranks.first)
            restore_training_state(run, resume, self.optimizer)
            if evaluation is not None:
                evaluation.take_over(run, self.steps)
            if self._own_checkpoints is not None:
                self._own_checkpoints.prune(run.rows, run.best)
        if network_of(run) is None and self._ranks.size > 1:
            refuse_differing_models(backbone.module, self._ranks)
        return run

    def _choose_portions(self, run: RunState) -> None:
        if run.done < self._end(run):
            memory, observers = self.memory(run.device), self._own_observers
            choose_portions(
                run, self.prompts, self.optimizer, memory, seed=self.seed, observers=observers
            )

    def _catch_up(self, run: RunState) -> None:
        """Do what a process left undone that was stopped after the last step of the checkpoint."""
        evaluated = self._evaluate(run)
        if evaluated or run.evaluations:
            with during(f"the observers' turn after step {run.done}"):
                notify(self._own_observers, "evaluations", tuple(run.evaluations))
        self._show(run)
        place = run.checkpoint[1] if run.checkpoint else None
        if place is not None and place.name != FINAL and run.done == self._end(run):
            self._save(run)

    def _end(self, run: RunState) -> int:
        evaluation = self.held_out_evaluation
        ended = evaluation is not None and evaluation.ends(run.evaluations)
        return run.done if ended else self.steps

    def _evaluate(self, run: RunState) -> bool:
        evaluation = self.held_out_evaluation
        if evaluation is None or not evaluation.missing(run, self.steps):
            return False
        self._by_the_first(run, partial(refuse_nonfinite_parameters, run, self.checkpoints))
        with during(f"the evaluation after step {run.done}"):
            (evaluation.evaluate if self._ranks.first else evaluation.take_part)(run)
        found = self._ranks.exchange((run.evaluations, run.best))
        run.evaluations, run.best = found[0]
        return True

    def _advance(self, run: RunState) -> None:
        began = self.clock()
        self._ranks.reseed(self.seed, run.done)
        prompts = run.prompts.take(self.step.total)
        result = retry_on_out_of_memory(run, prompts, self._own_observers)
        norm = gradient_norm(run.parameters.values())
        rate = self._rate(run.done)
        metrics, broken = measure(
            result,
            norm,
            step=run.done + 1,
            learning_rate=rate,
            ranks=self._ranks,
            drawn=run.prompts.position().digest,
        )
        if broken is not None:
            whole = result.of_all(self._ranks)
            while not self._ranks.first:
                serve(run)
            raise nonfinite_error(run, self.checkpoints, broken, whole)
        if self.clip is not None:
            clip_gradients(run.parameters.values(), norm, self.clip)
        self._update(run, metrics, began)
        warn_of_no_gradient(run.rows, self.step.shape)
        warn_of_falling_reward(run.rows, self.steps)

    def _update(self, run: RunState, metrics: Metrics, began: float) -> None:
        ranks = self._ranks
        set_rate(run.optimizer, metrics.learning_rate)
        # An interrupt waits for the end: nothing may be half done.
        with uninterrupted():
            run.updating = True
            with in_stage(UPDATE, run.step.own):
                with (
                    ranks.drawing_alike(self.seed, run.done, run.device, shard_number(run)),
                    stepping(run.device),
                ):
                    run.optimizer.step()
                if run.average is not None:
                    run.average.update()
            run.rows.append(attrs.evolve(metrics, seconds=self.clock() - began))
            run.set_mark()
            run.updating = False
        run.optimizer.zero_grad(set_to_none=True)

    def _rate(self, done: int) -> float:
        rate = self.optimizer.learning_rate
        factor = self.schedule.factor(done, self.steps, rate)
        if not isinstance(factor, int | float) or not 0 <= factor < float("inf"):
            must = "must give a finite factor of at least 0"
            raise wrong("schedule", self.schedule, f"{must}, got {shown(factor)}")
        return rate * factor

    def _show(self, run: RunState) -> None:
        if self.snapshots is None or not self.snapshots.due(run.done, self.steps):
            return
        with during(f"the sample pictures after step {run.done}"):
            with run.averaged():
                images = self.snapshots.take(run.step)
            if images is not None:
                notify(self._own_observers, "pictures", run.done, images, self.snapshots.prompts)

    def _save(self, run: RunState) -> None:
        self._by_the_first(run, partial(self._write, run))

    def _write(self, run: RunState) -> None:
        end, best, name = self._end(run), run.best == run.done, None
        if self.checkpoints is not None:
            name = self.checkpoints.name(run.done, end, best=best)
        if name is None and run.done < end:
            return
        refuse_nonfinite_parameters(run, self.checkpoints)
        if self.checkpoints is not None and name is not None:
            with _saving(run):
                self.checkpoints.wait()
            with during(f"saving the model after step {run.done}"):
                place = self.checkpoints.save(run, name, beside=True)
            run.checkpoint = (run.done, place)


def _saving(run: RunState) -> AbstractContextManager[None]:
    """What raises in the block was saving the newest checkpoint, beside training perhaps."""
    step = run.checkpoint[0] if run.checkpoint else run.done
    return during(f"saving the model after step {step}")

"""The phases of a run besides training: encoding, calibration, and both evaluations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from flowbp.cli.progress import report_progress
from flowbp.cli.run.built_run import BuiltRun
from flowbp.cli.run.folder import read_before, write_before
from flowbp.component_errors import during
from flowbp.evaluation import Evaluation, evaluate
from flowbp.rewards import Reward, UncalibratedReward, WeightedReward
from flowbp.training import Streams
from flowbp.training.prompts import drawn


class RunError(RuntimeError):
    """A run cannot go on, for a reason outside this library that the message gives."""


def run_prompts(run: BuiltRun) -> tuple[str, ...]:
    """Every prompt that a run will encode, each once."""
    settings, evaluation = run.settings, run.evaluation_sampling
    # A source's stream is decided by its generator alone, so that the prompts of training are
    # drawn here as the trainer will draw them.
    stream = iter(run.prompts.stream(Streams.of(settings.run.seed).prompts))
    count = settings.training.steps * settings.batching.total(run.ranks.size)
    found = dict.fromkeys(prompt.text for prompt in run.held_out)
    found |= dict.fromkeys(run.snapshots.prompts if run.snapshots else ())
    found |= dict.fromkeys(run.calibration_prompts)
    if settings.sampling.guided or (evaluation is not None and evaluation.guidance != 1):
        found[settings.sampling.negative_prompt] = None
    return tuple(found | dict.fromkeys(drawn(run.prompts, stream, count)))


def calibrate(run: BuiltRun, measured: Callable[..., Reward], *, begun: bool) -> Reward:
    """The reward with the scales that it lacks, measured or read back; prints all of them."""
    path, reward = run.calibration.path, run.reward
    with (
        during("the calibration of the reward"),
        stopping_on_errors("the calibration of the reward stopped"),
    ):
        missing = isinstance(reward, UncalibratedReward) and not (path.exists() or begun)
        run.ranks.exchange(missing)
        if not isinstance(reward, UncalibratedReward):
            if isinstance(reward, WeightedReward):
                print(scales(reward, "the reward's scales, as given"), flush=True)
            return measured()
        if path.exists():
            heading = f"the reward's scales, from {path}"
            calibrated = measured()
        elif begun:
            raise ValueError(
                f"{path} is gone, and the steps that are done were trained with the scales in it; "
                "restore it from a copy, or begin a new run in another folder"
            )
        else:
            count = reward.prompts
            heading = f"the reward's scales, measured on {count} pictures and written to {path}"
            with report_progress("calibrating the reward", count) as progress:
                calibrated = measured(progress=progress)
        print(scales(calibrated, heading), flush=True)
        return calibrated


def scales(reward: Reward, heading: str) -> str:
    """The parts of a weighted sum with their weights and scales, a line each."""
    if not isinstance(reward, WeightedReward):
        raise TypeError(f"`reward` must be a WeightedReward, got {type(reward).__name__}")
    width = max(map(len, reward.parts))
    lines = [
        f"  {label:<{width}}  weight {reward.parts[label].weight:g}, mean {scale.mean:.5g}, "
        f"standard deviation {scale.std:.5g}"
        for label, scale in reward.normalisations.items()
    ]
    return "\n".join([heading, *lines])


def score_before(run: BuiltRun, reward: Reward) -> tuple[Evaluation, Tensor] | None:
    """The evaluation before training with its pictures, read back where it was finished."""
    folder = run.settings.run.folder
    kept = read_before(folder)
    run.ranks.exchange(kept is None)
    if kept is not None:
        return kept
    # The backbone still is as it was built: a checkpoint is loaded when training begins.
    before = score_held_out(run, reward, "before")
    if before is not None:
        write_before(folder, *before)
    return before


def score_held_out(run: BuiltRun, reward: Reward, label: str) -> tuple[Evaluation, Tensor] | None:
    """Sample and score the held-out prompts; None where the settings ask for no evaluation."""
    sampling, settings = run.evaluation_sampling, run.settings.evaluation
    if sampling is None or settings is None:
        return None
    prompts = run.held_out
    with (
        during(f"the evaluation {label} training"),
        stopping_on_errors(f"the evaluation {label} training stopped"),
        report_progress(f"evaluating {label} training", len(prompts)) as progress,
    ):
        return evaluate(
            run.model,
            reward,
            run.judge,
            prompts,
            sampling=sampling,
            noise_seed=settings.noise_seed,
            label=label,
            progress=progress,
            ranks=run.ranks,
        )


@contextmanager
def stopping_on_errors(what: str) -> Iterator[None]:
    """Raise what is wrong with a value as the end of the run."""
    try:
        yield
    except ValueError as error:
        stop = RunError(f"{what}: {error}")
        for note in getattr(error, "__notes__", ()):
            stop.add_note(note)
        raise stop from error

"""What the other processes of a run do while the first one runs it."""

from __future__ import annotations

from pathlib import Path

import torch

import flowbp
from flowbp.adapters.sharding import shard, sharding_of
from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.rehearsal import try_divided_optimizer
from flowbp.cli.run.built_run import BuiltRun, build_run, replaced_providers
from flowbp.cli.run.check import division_of
from flowbp.cli.run.phases import run_prompts, stopping_on_errors
from flowbp.cli.run.results import Ending, load_judged
from flowbp.component_errors import during
from flowbp.config import ConfigurationError
from flowbp.evaluation import scoring, take_part
from flowbp.rewards import Reward, UncalibratedReward, WeightedReward
from flowbp.settings import RunContainer
from flowbp.settings.loader import problems_of
from flowbp.settings.preflight import reading_checks
from flowbp.settings.run_identity import shared
from flowbp.training import RanksDifferError, take_part_in_calibration
from flowbp.training.restore import refuse_differing_models


def follow(container: RunContainer) -> None:
    """Take part in a run: encode, sample, score and train; all else is the first process's."""
    settings = container.settings()
    if settings.run.threads is not None:
        torch.set_num_threads(settings.run.threads)
    problems = list(problems_of(reading_checks(replaced_providers(container)), settings))
    if problems:
        raise ConfigurationError(problems)
    container.observers.override(())
    with during("the construction of its parts"):
        run = build_run(container)
    checkpoint = meet(run, None)
    with during("the division of the model"):
        divide(run)
    with during("the encoding of the prompts"):
        encode_prompts(run.model, run_prompts(run), ranks=run.ranks)
    what = "the calibration of the reward"
    with during(what), stopping_on_errors(f"{what} stopped"):
        # Where the first has no scales yet.
        if run.ranks.exchange(False)[0]:
            texts = run.calibration_prompts
            take_part_in_calibration(run.reward, run.model, texts, run.calibration, run.ranks)
    reward = share_scales(run, run.reward)
    if reward is not run.reward:
        container.calibrated.override(reward)
    scored = container.calibrated()
    # Where the first has not kept it.
    if run.ranks.exchange(False)[0]:
        _score_held_out(run, scored, "before")
    with during("the training"):
        container.trainer().run(resume=checkpoint)
    with during("the evaluation after training"):
        share_judged(run, None)
    _score_held_out(run, scored, "after")
    # The first has a report to make.
    run.ranks.exchange(None)


def _score_held_out(run: BuiltRun, reward: Reward, label: str) -> None:
    sampling, evaluation = run.evaluation_sampling, run.settings.evaluation
    if sampling is None or evaluation is None:
        return
    texts, what = [prompt.text for prompt in run.held_out], f"the evaluation {label} training"
    score, seed = scoring(texts, reward, run.judge), evaluation.noise_seed
    with during(what), stopping_on_errors(f"{what} stopped"):
        take_part(run.model, texts, seed, sampling, run.ranks, score=score)


def meet(run: BuiltRun, checkpoint: Path | None) -> Path | None:
    """Find out whether all have the same settings, and where the first goes on from."""
    own = {
        **shared(run.settings),
        "torch": str(torch.__version__),
        "flowbp": flowbp.__version__,
        "a device of the type": run.device.type,
    }
    checkpoints, theirs = zip(*run.ranks.exchange((checkpoint, own)), strict=True)
    for rank, settings in enumerate(theirs):
        differing = [k for k in theirs[0] | settings if settings.get(k) != theirs[0].get(k)]
        if differing:
            key = differing[0]
            raise RanksDifferError(
                f"rank {rank} has {key} {settings.get(key, 'not at all')}, and rank 0 "
                f"{theirs[0].get(key, 'not at all')}; give every process the same files and "
                "overrides"
            )
    found: Path | None = checkpoints[0]
    return found


def divide(run: BuiltRun) -> None:
    """Divide the model among the processes, as the first one's memory asks for."""
    ranks, network = run.ranks, run.tuned.module
    if ranks.size == 1:
        return
    own, _ = division_of(run.settings, run.tuned, run.optimizer)
    # The first one's, as another may have a GPU of another size.
    chosen = ranks.exchange(own)[0]
    if chosen.shard > 1:
        refuse_differing_models(network, ranks)
        mesh = ranks.mesh(chosen.shard, run.device)
        try_divided_optimizer(run.optimizer, mesh, run.device)
        shard(network, mesh, keep=chosen.keep)


def share_judged(run: BuiltRun, end: Ending | None) -> None:
    """Have all hold the model that the results are of, which the first one names."""
    judged = run.ranks.exchange(end)[0]
    assert judged is not None
    sharded = sharding_of(run.tuned.module) is not None
    if run.ranks.first or sharded:
        load_judged(run.tuned, judged, run.settings.run.folder)
    if judged.judged != judged.done and not sharded:
        run.ranks.spread(run.tuned.trainable().values())


def share_scales(run: BuiltRun, reward: Reward | UncalibratedReward) -> Reward | UncalibratedReward:
    """The reward of the first process, whose scales may just have been measured."""
    own = isinstance(run.reward, UncalibratedReward)
    weighted = reward if own and isinstance(reward, WeightedReward) else None
    scales = None if weighted is None else dict(weighted.normalisations)
    (measured, *_) = run.ranks.exchange(scales)
    if not isinstance(reward, UncalibratedReward) or measured is None:
        return reward
    return reward.calibrated({label: measured[label] for label in reward.missing})

"""The schema of a run's YAML: one class for each section, checked as it is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from flowbp import limits
from flowbp.adapters import Backbone, Full, Tuning
from flowbp.configuration import Component
from flowbp.core import LossShape, Method, Plan
from flowbp.core._validators import integer, real
from flowbp.embeddings import BATCH
from flowbp.evaluation import Judge
from flowbp.rewards import Reward
from flowbp.settings.evaluation import EarlyStopSettings, EvaluationSettings
from flowbp.settings.running import RunSettings
from flowbp.training import (
    AdamW,
    Averaging,
    Batching,
    Constant,
    Observer,
    OptimizerRecipe,
    PromptSource,
    Sampling,
    Schedule,
    check_retention,
)

# Untyped, because mypy takes the type of a field from its default alone.
_optional: Any = attrs.validators.optional


@attrs.frozen(kw_only=True)
class EmbeddingSettings:
    """Where text embeddings are kept; every prompt of a run is encoded before it starts.

    Args:
        folder: shared by all runs and models; null keeps them in memory, for this run only.
        batch: prompts encoded together; more than one is faster on a GPU, and then which prompts
            come together changes how they round.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> EmbeddingSettings(folder=None).batch
        1
    """

    folder: Path | None = attrs.field(
        factory=lambda: Path("~/.cache/flowbp/embeddings").expanduser()
    )
    batch: int = attrs.field(default=BATCH, validator=integer(1, limits.BATCH))


@attrs.frozen(kw_only=True)
class TrainingSettings:
    """How long and how carefully parameters are updated.

    The defaults are the published ones, but for the average's warm-up.

    Args:
        steps: optimizer steps.
        clip: largest norm of all gradients together; null does not clip.
        averaging: average the parameters, with a warm-up unless said otherwise; null does not.
            What is saved and evaluated in the end is the average, so that a run is refused in
            which the starting weights would make up more than half of it.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> TrainingSettings(averaging=None).steps
        300

    Reference: arXiv 2606.11075.
    """

    steps: int = attrs.field(default=300, validator=integer(1, limits.STEPS))
    clip: float | None = attrs.field(default=1.0, validator=_optional(real(0, above=True)))
    averaging: Averaging | None = attrs.field(factory=lambda: Averaging(warmup=True))


@attrs.frozen(kw_only=True)
class AnchorSettings:
    """What holds the model near its reference, against reward hacking.

    Under LoRA the reference is the base model without any adapter, also where `start` named one, so
    that the distance is not zero at the start then; otherwise it is the model before training.

    Args:
        strength: factor of the mean squared distance of their velocities at the active steps.

    Raises:
        ValueError: the strength is not a finite number above 0.

    Example:
        >>> AnchorSettings(strength=0.01).strength
        0.01
    """

    strength: float = attrs.field(validator=real(0, above=True))


@attrs.frozen(kw_only=True)
class SampleSettings:
    """The same pictures at intervals, to see the model change.

    They are those of the first held-out prompts, or of training prompts without an evaluation.

    Args:
        every: optimizer steps from one set to the next, besides one before and one at the end.
        count: how many pictures.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> SampleSettings(every=50).count
        12
    """

    every: int = attrs.field(validator=integer(1, limits.STEPS))
    count: int = attrs.field(default=12, validator=integer(1, limits.SHOWN))


@attrs.frozen(kw_only=True)
class CheckpointSettings:
    """How often the model is saved, and how many of the checkpoints stay; the last step always is.

    A run can go on (`--resume`) from any of them.

    Args:
        every: optimizer steps from one checkpoint to the next; null writes only the last.
        keep: how many of the newest stay, besides `final`; null keeps all.
        best: `reward` or `loss`; the checkpoint before which its mean over `every` steps was best
            stays too.

    Raises:
        ValueError: a number is below 1, `best` is another word, or one of them would be ignored.

    Example:
        >>> CheckpointSettings(every=100, keep=2, best="reward").every
        100
    """

    every: int | None = attrs.field(default=None, validator=_optional(integer(1, limits.STEPS)))
    keep: int | None = attrs.field(default=None, validator=_optional(integer(1, limits.STEPS)))
    best: str | None = None

    def __attrs_post_init__(self) -> None:
        """Refuse what would have no effect."""
        check_retention(self.every, self.keep, self.best)


@attrs.frozen(kw_only=True)
class ObserverSettings:
    """Who is told of every step, besides the progress bar.

    Args:
        json_lines: write `metrics.jsonl`, and `evaluations.jsonl` of those inside the run.
        tensorboard: write event files to `tensorboard/`.
        others: observers by entry point or dotted path; they are offered `folder` and `steps`.

    Example:
        >>> ObserverSettings(tensorboard=False).json_lines
        True
    """

    json_lines: bool = True
    tensorboard: bool = True
    others: tuple[Component[Observer], ...] = ()


@attrs.frozen(kw_only=True)
class Settings:
    """A whole run.

    Args:
        run: folder, seed and device.
        backbone: the model that is trained.
        tuning: what of it is trained.
        reward: what its pictures are to score high on.
        prompts: what it is trained on.
        method: draws the surrogate of each step.
        loss: makes a loss of each reward.
        sampling: grid, guidance and size of the pictures.
        batching: samples of a step and in what portions they are worked on.
        embeddings: where those of the prompts are kept.
        judge: the held-out verdict of the evaluation; null has none.
        evaluation: before and after; null evaluates nothing and writes no report.
        early_stop: ends the run on a held-out figure; null does not.
        optimizer: builds the optimizer.
        schedule: of the learning rate, over all steps.
        training: steps, clipping, averaging.
        anchor: holds the model near its reference; null does not.
        samples: pictures at intervals; null takes none.
        checkpoints: how often to save.
        observers: metrics as files, and those of others.

    Example:
        See `load`, which makes one from YAML.
    """

    run: RunSettings
    backbone: Component[Backbone]
    reward: Component[Reward]
    prompts: PromptSource
    method: Method[Plan]
    loss: LossShape
    sampling: Sampling
    batching: Batching
    tuning: Tuning = attrs.field(factory=Full)
    embeddings: EmbeddingSettings = attrs.field(factory=EmbeddingSettings)
    judge: Component[Judge] | None = None
    evaluation: EvaluationSettings | None = None
    early_stop: EarlyStopSettings | None = None
    optimizer: OptimizerRecipe = attrs.field(factory=AdamW)
    schedule: Schedule = attrs.field(factory=Constant)
    training: TrainingSettings = attrs.field(factory=TrainingSettings)
    anchor: AnchorSettings | None = None
    samples: SampleSettings | None = None
    checkpoints: CheckpointSettings = attrs.field(factory=CheckpointSettings)
    observers: ObserverSettings = attrs.field(factory=ObserverSettings)

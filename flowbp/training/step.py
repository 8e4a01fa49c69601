"""The streamed training step: sample, score, and send the cotangent back a velocity at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone, Conditioning
from flowbp.adapters.guided import guided_field
from flowbp.components import calling, is_ours
from flowbp.core import (
    FurtherCotangent,
    LossShape,
    Method,
    Plan,
    Pull,
    Trajectory,
    VelocityField,
    anchor_term,
    guided_pull,
    in_micro_batches,
    loss_weights,
    module_pull,
    read,
    renoise,
    residuals,
    rollout,
    sweep,
)
from flowbp.rewards.reward import Reward
from flowbp.training.anchor import Anchor
from flowbp.training.cost import cost
from flowbp.training.cotangent import Scorer, score
from flowbp.training.portions import velocity_in_portions
from flowbp.training.randomness import Streams
from flowbp.training.result import StepResult
from flowbp.training.sampling import Batching, Sampling
from flowbp.training.sizes import Portions
from flowbp.training.stages import ENCODING, SAMPLING, SCORING, SWEEP, running


@attrs.frozen(kw_only=True, eq=False)
class TrainingStep:
    """One step of reward backpropagation, up to but without the optimizer.

    In this order: draw the plan, encode the prompts, draw noise for the whole batch, roll out as
    far as the plan needs, add renoised copies, score what the plan reads, and sweep the cotangent
    back. At no time is there more than one graph: of one portion of the decoder and reward, or of
    one velocity of one portion of the batch.

    The negative prompt is encoded once, at construction, where the method is also drawn from once
    to see that it fits the grid.

    Args:
        backbone: the model.
        reward: what its samples should score high on.
        method: draws the plan.
        shape: makes a loss of each reward.
        sampling: grid, guidance and size.
        batching: samples and portions.
        anchor: holds the model near a reference; None does not.
        portions: what a `Trainer` chose in place of those of `batching`; None takes them.

    Raises:
        ValueError: the backbone cannot draw this size, the method does not fit the grid, or the
            backbone has no trainable parameter.
        ExhaustedError: the negative prompt cannot be encoded in the device's memory.

    Example:
        See `Trainer`, which runs it.

    Reference: arXiv 2606.11075, section 3.
    """

    backbone: Backbone
    reward: Reward
    method: Method[Plan]
    shape: LossShape
    sampling: Sampling
    batching: Batching
    anchor: Anchor | None = None
    portions: Portions | None = None
    sigmas: Tensor = attrs.field(init=False)
    _negative: Conditioning | None = attrs.field(init=False)

    @sigmas.default
    def _sigmas(self) -> Tensor:
        sampling = self.sampling
        return sampling.grid.sigmas_of(
            self.backbone, sampling.steps, height=sampling.height, width=sampling.width
        )

    @_negative.default
    def _encoded_negative(self) -> Conditioning | None:
        if not self.sampling.guided:
            return None
        with torch.no_grad(), running(ENCODING, 1):
            return self.backbone.encode([self.sampling.negative_prompt])

    def __attrs_post_init__(self) -> None:
        """Find out now what would fail in the first step."""
        self.method.draw(self.sigmas, torch.Generator().manual_seed(0))
        if not self.backbone.trainable():
            raise ValueError(
                "`backbone` must have at least one trainable parameter, got none; "
                "set requires_grad=True on what should be trained"
            )

    def __call__(self, prompts: Sequence[str], streams: Streams) -> StepResult:
        """Run one step; the gradients are added to the parameters' `.grad`.

        Args:
            prompts: B of them, as many as `batching.total`.
            streams: the run's generators, each of which moves on.

        Returns:
            What was measured, on the device; nothing here waits for it.

        Raises:
            ValueError: another number of prompts, or a reward or network without gradient.
            StageOutOfMemoryError: a portion does not fit into the device's memory; an
                `ExhaustedError` where no smaller one would help.
        """
        if len(prompts) != self.batching.total:
            raise ValueError(
                f"`prompts` must hold {self.batching.total} prompts, as many as the batch has "
                f"samples, got {len(prompts)}"
            )
        plan = self.method.draw(self.sigmas, streams.plan)
        with running(SAMPLING, len(prompts)):
            trajectory, conditioning = self._sample(plan, prompts, streams)
        x = read(plan, trajectory)
        members = tuple(prompts) * (1 + plan.noised)
        with running(SCORING, len(members)):
            scores = score(self._scorer, x, members, loss_weights(plan, trajectory))
        conditioning = conditioning.repeat(1 + plan.noised)
        further, values = self._further(plan, trajectory, conditioning)
        with running(SWEEP, len(members)), self._pulling():
            sweep(plan, trajectory, scores.cotangent, self.pull(conditioning), further=further)
        samples = slice(0, len(prompts))
        parts = tuple(part[samples] for part in residuals(plan, trajectory))
        spent = cost(plan, self.sampling, anchored=self.anchor is not None)
        anchor = torch.stack(values).sum() if values else None
        return StepResult(plan, members, x, scores, parts, spent, anchor)

    @property
    def sizes(self) -> Portions:
        """The portions that the step works in."""
        return self.portions or self.batching.portions

    def _pulling(self) -> AbstractContextManager[None]:
        # A network of others may fail in its backward pass, where it leaves no frame of its own.
        inner = getattr(self.backbone, "backbone", None)
        if inner is None or is_ours(inner):
            return nullcontext()
        return calling("backward pass of the backbone", inner)

    @property
    def _scorer(self) -> Scorer:
        return Scorer(
            backbone=self.backbone,
            reward=self.reward,
            shape=self.shape,
            size=self.sizes.decode,
        )

    @torch.no_grad()
    def _sample(
        self, plan: Plan, prompts: Sequence[str], streams: Streams
    ) -> tuple[Trajectory, Conditioning]:
        with running(ENCODING, len(prompts)):
            conditioning = self.backbone.encode(list(prompts))
        noise = self.backbone.noise(
            len(prompts),
            height=self.sampling.height,
            width=self.sampling.width,
            generator=streams.noise,
        ).to(self.backbone.device)
        field = self._in_portions(self.backbone.velocity, conditioning)
        trajectory = rollout(field, noise, self.sigmas, stop=plan.horizon)
        return renoise(plan, trajectory, field, streams.copies), conditioning

    def _further(
        self, plan: Plan, trajectory: Trajectory, conditioning: Conditioning
    ) -> tuple[FurtherCotangent | None, list[Tensor]]:
        """The anchor's cotangents, and a list that its values come into as they are asked for."""
        values: list[Tensor] = []
        if self.anchor is None:
            return None, values
        strength = self.anchor.strength
        reference = self._in_portions(self.anchor.reference, conditioning)

        def further(step: int, /) -> Tensor:
            with running(SAMPLING, len(conditioning)):
                term = anchor_term(plan, trajectory, step, reference, strength)
            values.append(term.value)
            return term.cotangent

        return further, values

    def _in_portions(
        self, velocity_of: Callable[[Conditioning], VelocityField], conditioning: Conditioning
    ) -> VelocityField:
        negative, guidance = self._negative, self.sampling.guidance
        return velocity_in_portions(
            lambda part: guided_field(velocity_of, conditioning[part], negative, guidance),
            self.sizes.samples,
        )

    def pull(self, conditioning: Conditioning) -> Pull:
        """The pull of the velocity that is sampled with, in portions.

        Args:
            conditioning: of B samples.

        Returns:
            A pull of B samples, whose gradients are added to the parameters' `.grad`.
        """
        backbone, size, opposite = self.backbone, self.sizes.pull, self._negative
        positive = in_micro_batches(
            lambda part: module_pull(backbone.velocity(conditioning[part])), size
        )
        if opposite is None or self.sampling.detach_negative:
            return guided_pull(positive, None, self.sampling.guidance)
        negative = in_micro_batches(
            lambda part: module_pull(backbone.velocity(opposite.repeat(part.stop - part.start))),
            size,
        )
        return guided_pull(positive, negative, self.sampling.guidance)

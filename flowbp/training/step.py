"""The streamed training step: sample, score, and send the cotangent back a velocity at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone, Conditioning
from flowbp.adapters.guided import guided_field
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
from flowbp.training.cost import Cost, cost
from flowbp.training.cotangent import Scorer, Scores, score
from flowbp.training.portions import velocity_in_portions
from flowbp.training.randomness import Streams
from flowbp.training.sampling import Batching, Sampling


@attrs.frozen(eq=False)
class StepResult:
    """What one step measured; the gradients are in the parameters' `.grad`.

    M is the number of members, `B (1 + plan.noised)`: the B samples, then their renoised copies.

    Args:
        plan: what the method drew.
        prompts: the prompt of each member.
        latents: what the reward scored, (M, …).
        scores: rewards (M,), weighted losses (M,), cotangent (M, …), and the reward's parts (M,).
        residuals: (B,) for each segment of the plan; `nan` where none is defined.
        cost: network evaluations.
        anchor: the value of the reference anchor, 0-d; None without one.
    """

    plan: Plan
    prompts: tuple[str, ...]
    latents: Tensor
    scores: Scores
    residuals: tuple[Tensor, ...]
    cost: Cost
    anchor: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The mean of the losses, 0-d; the gradients are its, and the anchor's where there is one.

        The anchor's value is not in it.
        """
        return self.scores.losses.mean()

    @property
    def rewards(self) -> Tensor:
        """The rewards of the samples without their copies, (B,)."""
        return self.scores.rewards[: self._samples]

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """What a composed reward tells of the samples without their copies, (B,) each."""
        return {name: figures[: self._samples] for name, figures in self.scores.parts.items()}

    @property
    def _samples(self) -> int:
        return len(self.prompts) // (1 + self.plan.noised)


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

    Raises:
        ValueError: the backbone cannot draw this size, the method does not fit the grid, or the
            backbone has no trainable parameter.

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
    sigmas: Tensor = attrs.field(init=False)
    _negative: Conditioning | None = attrs.field(init=False)

    @sigmas.default
    def _sigmas(self) -> Tensor:
        sampling = self.sampling
        return self.backbone.sigmas(sampling.steps, height=sampling.height, width=sampling.width)

    @_negative.default
    def _encoded_negative(self) -> Conditioning | None:
        if not self.sampling.guided:
            return None
        with torch.no_grad():
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
        """
        if len(prompts) != self.batching.total:
            raise ValueError(
                f"`prompts` must hold {self.batching.total} prompts, as many as the batch has "
                f"samples, got {len(prompts)}"
            )
        plan = self.method.draw(self.sigmas, streams.plan)
        trajectory, conditioning = self._sample(plan, prompts, streams)
        x = read(plan, trajectory)
        members = tuple(prompts) * (1 + plan.noised)
        scores = score(self._scorer, x, members, loss_weights(plan, trajectory))
        conditioning = conditioning.repeat(1 + plan.noised)
        further, values = self._further(plan, trajectory, conditioning)
        sweep(plan, trajectory, scores.cotangent, self._pull(conditioning), further=further)
        samples = slice(0, len(prompts))
        parts = tuple(part[samples] for part in residuals(plan, trajectory))
        spent = cost(plan, self.sampling, anchored=self.anchor is not None)
        anchor = torch.stack(values).sum() if values else None
        return StepResult(plan, members, x, scores, parts, spent, anchor)

    @property
    def _scorer(self) -> Scorer:
        return Scorer(
            backbone=self.backbone,
            reward=self.reward,
            shape=self.shape,
            size=self.batching.decode_size,
        )

    @torch.no_grad()
    def _sample(
        self, plan: Plan, prompts: Sequence[str], streams: Streams
    ) -> tuple[Trajectory, Conditioning]:
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
            self.batching.samples,
        )

    def _pull(self, conditioning: Conditioning) -> Pull:
        backbone, size, opposite = self.backbone, self.batching.pull_size, self._negative
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

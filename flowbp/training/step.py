"""The streamed training step: sample, score, pull the cotangent back one velocity at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import attrs
import torch
from torch import Tensor

from flowbp.adapters.backbone import Backbone, Conditioning, guided_field
from flowbp.adapters.capabilities import Reference, checkpointing_of, rescale_of
from flowbp.component_errors import calling, is_ours, shown, wrong
from flowbp.core import (
    LossShape,
    Method,
    Pull,
    Surrogate,
    Trajectory,
    VelocityField,
    anchor_term,
    draw_surrogate,
    guided_pull,
    guided_velocity,
    in_micro_batches,
    loss_weights,
    module_pull,
    read,
    renoise,
    residuals,
    rollout,
    sweep,
)
from flowbp.rewards.reward import Reward, in_parts
from flowbp.training.batching import (
    Batching,
    Cost,
    Portions,
    TrainingSampling,
    cost,
    portion_slices,
)
from flowbp.training.memory_stages import ENCODING, SAMPLING, SCORING, SWEEP, in_stage
from flowbp.training.randomness import Streams
from flowbp.training.ranks import ALONE, Ranks
from flowbp.validators import real


def velocity_in_portions(velocity_of: Callable[[slice], VelocityField], size: int) -> VelocityField:
    """A field that evaluates a batch in portions of at most `size` samples."""

    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        return torch.cat(
            [velocity_of(part)(latents[part], sigma) for part in portion_slices(len(latents), size)]
        )

    return velocity


@attrs.frozen(kw_only=True, eq=False)
class Scorer:
    """Everything between latents and loss: `L = sum of w shape(reward(decode(x))) / B`."""

    backbone: Backbone
    reward: Reward
    shape: LossShape
    size: int


@attrs.frozen(eq=False)
class Scored:
    """What scoring leaves behind; nothing in it carries a gradient."""

    rewards: Tensor
    losses: Tensor
    # Of the loss, at the latents.
    cotangent: Tensor
    parts: Mapping[str, Tensor]


def score(
    scorer: Scorer,
    latents: Tensor,
    prompts: Sequence[str],
    weights: Tensor,
    *,
    whole: int | None = None,
) -> Scored:
    """Score latents and give the loss's cotangent at them, a few samples at a time.

    `whole` is the B of the loss where the latents are a part of the batch.
    """
    total = len(latents) if whole is None else whole
    scored = [
        _score(scorer, latents[part], list(prompts[part]), weights[part] / total)
        for part in portion_slices(len(latents), scorer.size)
    ]
    return Scored(
        torch.cat([each.rewards for each in scored]),
        torch.cat([each.losses for each in scored]) * total,
        torch.cat([each.cotangent for each in scored]),
        {name: torch.cat([each.parts[name] for each in scored]) for name in scored[0].parts},
    )


@torch.enable_grad()
def _score(scorer: Scorer, latents: Tensor, prompts: list[str], weights: Tensor) -> Scored:
    x = latents.detach().requires_grad_()
    found = in_parts(scorer.reward, scorer.backbone.decode(x), prompts)
    rewards = found.scores
    with calling("loss shape", scorer.shape):
        shaped = scorer.shape(rewards)
    if not isinstance(shaped, Tensor) or shaped.shape != rewards.shape:
        must = f"must return one loss per score, shape {tuple(rewards.shape)}"
        raise wrong("loss shape", scorer.shape, f"{must}, got {shown(shaped)}")
    losses = weights * shaped
    # Code of others may have a backward pass of its own, or change in place what that needs.
    with calling("gradient of the reward", scorer.reward, prompts):
        (cotangent,) = torch.autograd.grad(losses.sum(), x)
    parts = {name: values.detach() for name, values in found.parts.items()}
    return Scored(rewards.detach(), losses.detach(), cotangent, parts)


@attrs.frozen(eq=False)
class Anchor:
    """Adds `P = strength · mean (v(sg x_i) - v_ref(sg x_i))²` to the loss, at the active steps i.

    The mean is over all members, renoised copies included, all elements of their latents and the
    active steps. v is the velocity that is sampled with, guided if the sampler is, and v_ref is
    likewise. P reaches the parameters through each velocity alone, and is no part of
    `StepResult.loss`; see `flowbp.core.anchor_term`.
    """

    strength: float = attrs.field(validator=real(0, above=True))
    # Gives v_ref; `backbone.reference()`, asked before training.
    reference: Reference


@attrs.frozen(eq=False)
class StepResult:
    """What one step measured; the gradients are in the parameters' `.grad`.

    M is the number of members, `B (1 + surrogate.noised)`: the samples, then their renoised copies.
    Of several processes each has the result of its part of the batch.
    """

    surrogate: Surrogate
    # M of them.
    prompts: tuple[str, ...]
    # What the reward scored, (M, …).
    latents: Tensor
    # Rewards (M,), weighted losses (M,), cotangent (M, …), and the reward's parts (M,).
    scores: Scored
    # (B,) for each segment; `nan` where none is defined.
    residuals: tuple[Tensor, ...]
    cost: Cost
    # The value of the reference anchor, 0-d; None without one.
    anchor: Tensor | None = None

    @property
    def loss(self) -> Tensor:
        """The mean of the losses, 0-d, without the anchor's value."""
        return self.scores.losses.mean()

    @property
    def rewards(self) -> Tensor:
        """The rewards of the samples without their copies, (B,)."""
        return self.scores.rewards[: self._samples]

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """The parts of a composed reward, of the samples without their copies, (B,) each."""
        return {name: values[: self._samples] for name, values in self.scores.parts.items()}

    def of_all(self, ranks: Ranks) -> StepResult:
        """The result of the whole batch, on the CPU where there are several processes.

        The members are in the order of the ranks, each with its copies; residuals and the anchor
        are this part's.
        """
        if ranks.size == 1:
            return self
        scores, names = self.scores, list(self.scores.parts)
        tensors = [self.latents, scores.rewards, scores.losses, scores.cotangent]
        x, rewards, losses, cotangent, *parts = ranks.gathered([*tensors, *scores.parts.values()])
        prompts = tuple(prompt for each in ranks.exchange(self.prompts) for prompt in each)
        whole = Scored(rewards, losses, cotangent, dict(zip(names, parts, strict=True)))
        return attrs.evolve(self, prompts=prompts, latents=x, scores=whole)

    @property
    def _samples(self) -> int:
        return len(self.prompts) // (1 + self.surrogate.noised)


@attrs.frozen(kw_only=True, eq=False)
class TrainingStep:
    """One step of reward backpropagation, up to but without the optimizer.

    In this order: draw the surrogate, encode the prompts, draw noise for the whole batch, roll out
    as far as the surrogate needs, add renoised copies, score what it reads, and sweep the cotangent
    back. At no time is there more than one graph: of one portion of the decoder and reward, or of
    one velocity of one portion of the batch.

    Of several processes each works on its part of the batch; what is drawn is drawn for all of it,
    so that a sample has the same prompt, noise and copies whichever process it is on. The gradients
    are then this part's, and their sum over the `ranks` is the batch's.

    The negative prompt is encoded once, at construction, where the method is also drawn from once
    to see that it fits the grid.

    Reference: arXiv 2606.11075, section 3.
    """

    backbone: Backbone
    reward: Reward
    method: Method
    shape: LossShape
    sampling: TrainingSampling
    batching: Batching
    anchor: Anchor | None = None
    # Of the reward's cotangents, such as a `SampleClip`; None leaves them.
    sample_clip: Callable[..., Tensor] | None = None
    # What a `Trainer` chose in place of those of `batching`.
    portions: Portions | None = None
    ranks: Ranks = ALONE
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
        with torch.no_grad(), in_stage(ENCODING, 1):
            return self.backbone.encode([self.sampling.negative_prompt])

    def __attrs_post_init__(self) -> None:
        """Find out now what would fail in the first step."""
        draw_surrogate(self.method, self.sigmas, torch.Generator().manual_seed(0))
        self.batching.total(self.ranks.size)
        if not self.backbone.trainable():
            raise ValueError(
                "`backbone` must have at least one trainable parameter, got none; "
                "set requires_grad=True on what should be trained"
            )
        clip = self.sample_clip if self.ranks.size > 1 else None
        if clip is not None and "among" not in inspect.signature(clip).parameters:
            raise ValueError(
                "`sample_clip` must take `among`, which gives the norms of all samples, where "
                f"several processes train together, got {clip!r}; SampleClip does"
            )

    @property
    def total(self) -> int:
        """The samples of an optimizer step on all processes, without renoised copies."""
        return self.batching.total(self.ranks.size)

    @property
    def own(self) -> int:
        """Those of this process."""
        return self.total // self.ranks.size

    def __call__(self, prompts: Sequence[str], streams: Streams) -> StepResult:
        """Run one step; the gradients are added to the parameters' `.grad`.

        Takes as many prompts as `total`, and moves each of the run's generators on. What was
        measured stays on the device; nothing here waits for it, but for the norms of the other
        processes' cotangents where there are any and a `sample_clip`.
        """
        if len(prompts) != self.total:
            raise ValueError(
                f"`prompts` must hold {self.total} prompts, as many as the batch has "
                f"samples, got {len(prompts)}"
            )
        own = prompts[self.ranks.part(self.total)]
        with calling("method", self.method):
            surrogate = draw_surrogate(self.method, self.sigmas, streams.surrogate)
        with in_stage(SAMPLING, len(own)):
            trajectory, conditioning = self._sample(surrogate, own, streams)
        x = read(surrogate, trajectory)
        members = tuple(own) * (1 + surrogate.noised)
        with in_stage(SCORING, len(members)):
            scores = score(
                self.scorer(self.sizes.decode),
                x,
                members,
                loss_weights(surrogate, trajectory),
                whole=len(members) * self.ranks.size,
            )
        conditioning = conditioning.repeat(1 + surrogate.noised)
        anchor, values = self._anchor_cotangents(surrogate, trajectory, conditioning)
        with in_stage(SWEEP, len(members)), self._pulling():
            pull = self.pull(conditioning)
            sweep(
                surrogate,
                trajectory,
                scores.cotangent,
                pull,
                parameter_cotangent=anchor,
                clip=self._clip,
            )
        samples = slice(0, len(own))
        parts = tuple(part[samples] for part in residuals(surrogate, trajectory))
        spent = cost(
            surrogate,
            self.sampling,
            anchored=self.anchor is not None,
            rescaled=rescale_of(self.backbone) is not None,
        )
        penalty = torch.stack(values).sum() if values else None
        return StepResult(surrogate, members, x, scores, parts, spent, penalty)

    @property
    def sizes(self) -> Portions:
        """The portions that the step works in."""
        return self.portions or self.batching.portions

    def scorer(self, size: int) -> Scorer:
        """Decoder and reward for so many samples at a time."""
        return Scorer(backbone=self.backbone, reward=self.reward, shape=self.shape, size=size)

    @property
    def _clip(self) -> Callable[[Tensor], Tensor] | None:
        # The median is over the samples of all.
        if self.sample_clip is None or self.ranks.size == 1:
            return self.sample_clip
        return partial(self.sample_clip, among=self.ranks.among_all)

    def _pulling(self) -> AbstractContextManager[None]:
        # A network of others may fail in its backward pass, where it leaves no frame of its own.
        inner = getattr(self.backbone, "backbone", None)
        if inner is None or is_ours(inner):
            return nullcontext()
        return calling("backward pass of the backbone", inner)

    @torch.no_grad()
    def _sample(
        self, surrogate: Surrogate, prompts: Sequence[str], streams: Streams
    ) -> tuple[Trajectory, Conditioning]:
        with in_stage(ENCODING, len(prompts)):
            conditioning = self.backbone.encode(list(prompts))
        own = self.ranks.part(self.total)
        noise = self.backbone.noise(
            self.total,
            height=self.sampling.height,
            width=self.sampling.width,
            generator=streams.noise,
        )[own].to(self.backbone.device)
        field = self._in_portions(self.backbone.velocity, conditioning)
        trajectory = rollout(
            field,
            noise,
            self.sigmas,
            stop=surrogate.horizon,
            evaluate=self.sampling.evaluated_steps(surrogate),
        )
        whole = {"whole": self.total, "first": own.start}
        return renoise(surrogate, trajectory, field, streams.copies, **whole), conditioning

    def _anchor_cotangents(
        self, surrogate: Surrogate, trajectory: Trajectory, conditioning: Conditioning
    ) -> tuple[Callable[[int], Tensor] | None, list[Tensor]]:
        """The anchor's cotangents, and a list that its values come into as they are asked for."""
        values: list[Tensor] = []
        if self.anchor is None:
            return None, values
        # The mean is over the batch, of which this is a part.
        strength = self.anchor.strength / self.ranks.size
        reference = self._in_portions(self.anchor.reference, conditioning)

        def cotangent(step: int) -> Tensor:
            with in_stage(SAMPLING, len(conditioning)):
                term = anchor_term(surrogate, trajectory, step, reference, strength)
            values.append(term.value)
            return term.cotangent

        return cotangent, values

    def _in_portions(
        self, velocity_of: Callable[[Conditioning], VelocityField], conditioning: Conditioning
    ) -> VelocityField:
        negative, guidance = self._negative, self.sampling.guidance
        rescale = rescale_of(self.backbone)
        return velocity_in_portions(
            lambda part: guided_field(
                velocity_of, conditioning[part], negative, guidance, rescale=rescale
            ),
            self.sizes.samples,
        )

    def pull(self, conditioning: Conditioning) -> Pull:
        """The pull of the velocity that is sampled with, in portions."""
        backbone, size, opposite = self.backbone, self.sizes.pull, self._negative
        if opposite is not None and rescale_of(backbone) is not None:
            return in_micro_batches(
                lambda part: module_pull(self._rescaled(conditioning[part], opposite)), size
            )
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

    def _rescaled(self, conditioning: Conditioning, opposite: Conditioning) -> VelocityField:
        """The guided field of a model whose sampler rescales it, which has no linear pull."""
        backbone = self.backbone
        negative = backbone.velocity(opposite.repeat(len(conditioning)))
        if self.sampling.detach_negative:
            negative = torch.no_grad()(negative)
        positive, rescale = backbone.velocity(conditioning), rescale_of(backbone)
        return guided_velocity(positive, negative, self.sampling.guidance, rescale=rescale)


def in_portions(step: TrainingStep, portions: Portions) -> TrainingStep:
    """The same step in other portions; switches its backbone's gradient checkpointing to them."""
    able = checkpointing_of(step.backbone)
    if able is not None and portions.checkpointing is not None:
        able.checkpoint_gradients(portions.checkpointing)
    return attrs.evolve(step, portions=portions)


def starting_portions(step: TrainingStep) -> Portions:
    """The portions of a step for which nothing is measured."""
    able = checkpointing_of(step.backbone)
    on = None if able is None else able.gradient_checkpointing is True
    return attrs.evolve(step.sizes, checkpointing=on)

"""How a training step samples, its batch and the portions it works in, and what it costs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import attrs

from flowbp.adapters.sigmas import MODEL_GRID, Grid
from flowbp.core import Surrogate
from flowbp.limits import BATCH, GRID, SIDE
from flowbp.validators import Bounded, integer, real


@attrs.frozen(kw_only=True)
class Portions:
    """How many samples are worked on at a time in each stage of a step."""

    # In the forward pass; in the backward pass of the network; in the decoder and the reward.
    samples: int = attrs.field(validator=integer(1))
    pull: int = attrs.field(validator=integer(1))
    decode: int = attrs.field(validator=integer(1))
    # None if the backbone does not let gradient checkpointing be switched.
    checkpointing: bool | None = None

    def __str__(self) -> str:
        sizes = f"pull {self.pull}, decode {self.decode}"
        if self.checkpointing is None:
            return sizes
        return f"{sizes}, gradient checkpointing {_switched(self.checkpointing)}"

    def changed_from(self, other: Portions) -> str:
        """The differences, such as `pull 8 -> 4`, separated by commas."""
        names = ("samples", "pull", "decode")
        pairs = [(name, getattr(other, name), getattr(self, name)) for name in names]
        changes = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
        if self.checkpointing is not None and self.checkpointing != other.checkpointing:
            changes.append(f"gradient checkpointing {_switched(self.checkpointing)}")
        return ", ".join(changes)


def _switched(on: bool) -> str:
    return "on" if on else "off"


def portion_slices(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover `count` samples in order."""
    if size < 1:
        raise ValueError(f"`size` must be >= 1 samples, got {size}")
    for first in range(0, count, size):
        yield slice(first, min(first + size, count))


AUTO: Literal["auto"] = "auto"
"""A size that is chosen to fit the device's memory."""

Size = int | Literal["auto"]

# Untyped, because mypy takes the type of a field from its default alone.
_optional: Any = attrs.validators.optional


def _check_size(instance: Any, attribute: attrs.Attribute[Any], value: Size) -> None:
    if value == AUTO:
        return
    if not isinstance(value, int):
        raise ValueError(f"`{attribute.name}` must be an integer >= 1 or 'auto', got {value!r}")
    integer(1, BATCH)(instance, attribute, value)


_size = Bounded(_check_size, integer(1, BATCH).range)


def _or_null(value: int | None) -> str:
    return "null" if value is None else str(value)


_FIRST = 2
"""Steps that are always evaluated; velocities are extrapolated from two."""


@attrs.frozen
class TrainingSampling:
    """How the pictures that the reward scores are sampled.

    The velocity is `v⁻ + guidance (v⁺ - v⁻)`; with `guidance=1` it is `v⁺` alone and nothing is
    evaluated for the negative prompt.

    Args:
        steps: N, the number of Euler steps.
        guidance: s, the scale of classifier-free guidance; 1 switches it off.
        height: of the pictures, in pixels.
        width: of the pictures, in pixels.
        negative_prompt: the text whose velocity is `v⁻`, from which guidance leads away.
        detach_negative: leave `v⁻` out of the backward pass, where it is then not evaluated.
        grid: the sigmas of the steps; the model's own unless said otherwise.
        velocity_every: how many of these steps, in training, one evaluated velocity serves at most,
            besides the first two and those that the gradient or a prediction is made of; between
            them it is extrapolated (see `flowbp.core.rollout`). 1 evaluates all steps, as whatever
            shows or measures the model does.

    Reference: Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598.
    """

    steps: int = attrs.field(validator=integer(1, GRID))
    guidance: float = attrs.field(validator=real(float("-inf")))
    height: int = attrs.field(validator=integer(1, SIDE))
    width: int = attrs.field(validator=integer(1, SIDE))
    negative_prompt: str = attrs.field(default="", validator=attrs.validators.instance_of(str))
    detach_negative: bool = attrs.field(default=True, validator=attrs.validators.instance_of(bool))
    grid: Grid = MODEL_GRID
    velocity_every: int = attrs.field(default=1, validator=integer(1, GRID), kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Refuse what would be ignored, and a guidance that would train nothing."""
        self.grid.known(self.steps)
        if self.velocity_every > 1 and self.steps <= _FIRST:
            raise ValueError(
                f"`velocity_every` is {self.velocity_every}, but `steps` is {self.steps}, and the "
                "first two are evaluated in any case; leave it out, or take more steps"
            )
        if self.guidance == 0 and self.detach_negative:
            raise ValueError(
                "`guidance` must not be 0 while `detach_negative` is True, got 0: only the "
                "negative prompt would be sampled, without gradient; 1 switches guidance off"
            )
        if self.guided:
            return
        if self.negative_prompt:
            raise ValueError(
                f"`negative_prompt` is {self.negative_prompt!r} but `guidance` is 1, which never "
                "evaluates it; raise `guidance` or leave `negative_prompt` empty"
            )
        if not self.detach_negative:
            raise ValueError(
                "`detach_negative` is False but `guidance` is 1, which has no negative branch; "
                "raise `guidance` or leave `detach_negative` True"
            )

    def evaluated_steps(self, surrogate: Surrogate) -> tuple[int, ...]:
        """The steps of a rollout of training whose velocity is evaluated, in order."""
        exact, found = {*range(_FIRST), *surrogate.exact_steps}, list[int]()
        for i in range(surrogate.horizon):
            if i in exact or i - found[-1] == self.velocity_every:
                found.append(i)
        return tuple(found)

    @property
    def guided(self) -> bool:
        """Whether there is a negative branch."""
        return self.guidance != 1

    @property
    def branches(self) -> int:
        """Network evaluations of one velocity: 2 under guidance, else 1."""
        return 2 if self.guided else 1

    @property
    def pulled_branches(self) -> int:
        """Network evaluations of one velocity in the backward pass."""
        return 2 if self.guided and not self.detach_negative else 1


@attrs.frozen
class Batching:
    """How many samples an optimizer step has, and in what portions it works.

    The optimizer step is one large batch of `total` samples: one surrogate, one draw of prompts,
    noise and copies, one division of the loss by the number of samples. What the portions change is
    memory and speed; the gradient stays the same up to rounding. Several processes that train
    together each work on as many samples.

    Args:
        samples: samples at a time in the forward pass, on each process; under guidance the network
            gets both branches of them in one call.
        accumulate: how many such portions make an optimizer step, on each process; 1 unless said
            otherwise. What grows with it is the cached trajectory, 2N + 1 latents for each sample,
            and the encoded prompts.
        global_: the samples of an optimizer step on all processes, in place of `accumulate`.
        pull: samples at a time in the backward pass of the network. Under `auto` a `Trainer`
            chooses as many as fit into the memory of a CUDA device, at most `samples`, which it is
            elsewhere.
        decode: samples at a time in the decoder and the reward, chosen likewise under `auto`.

    Raises:
        ValueError: a number is out of range, or both `accumulate` and `global` are given.

    Example:
        >>> Batching(8, 4).total(), Batching(8, 4).total(2), Batching(8, global_=64).total(2)
        (32, 64, 64)

    Reference: arXiv 2606.11075, section 3.
    """

    samples: int = attrs.field(validator=integer(1, BATCH))
    global_: int | None = attrs.field(
        default=None, validator=_optional(integer(1, BATCH)), kw_only=True
    )
    accumulate: int | None = attrs.field(validator=_optional(integer(1, BATCH)))
    pull: Size = attrs.field(default=AUTO, validator=_size, kw_only=True)
    decode: Size = attrs.field(default=AUTO, validator=_size, kw_only=True)

    @accumulate.default
    def _accumulate(self) -> int | None:
        return 1 if self.global_ is None else None

    def __attrs_post_init__(self) -> None:
        """Refuse a size that is given twice, or not at all."""
        if (self.global_ is None) == (self.accumulate is None):
            cure = "one of the two must be null" if self.accumulate else "one must be given"
            raise ValueError(
                f"`accumulate` is {_or_null(self.accumulate)} and `global` is "
                f"{_or_null(self.global_)}, which both say how many samples a step has; {cure}"
            )

    def total(self, processes: int = 1) -> int:
        """B, the samples of an optimizer step of so many processes, without renoised copies.

        Raises:
            ValueError: the processes cannot have `global` samples together.
        """
        together = self.samples * processes
        if self.global_ is None:
            return together * (self.accumulate or 1)
        if self.global_ % together:
            below = self.global_ // together * together
            near = " or ".join(str(each) for each in (below, below + together) if each)
            each_of = f" on each of {processes} processes" if processes > 1 else ""
            own, rest = divmod(self.global_, processes)
            fewer = max((n for n in range(1, self.samples) if own % n == 0), default=0)
            cure = "" if rest or not fewer else f", or keep it with `samples` {fewer}"
            raise ValueError(
                f"`global` must be a multiple of {together}, as `samples` is {self.samples}"
                f"{each_of}, got {self.global_}; the nearest is {near}{cure}"
            )
        return self.global_

    @property
    def pull_size(self) -> int:
        """Samples at a time in the backward pass of the network, as long as none is chosen."""
        return self.samples if self.pull == AUTO else self.pull

    @property
    def decode_size(self) -> int:
        """Samples at a time in the decoder and the reward, as long as none is chosen."""
        return self.samples if self.decode == AUTO else self.decode

    @property
    def portions(self) -> Portions:
        """These sizes, as long as none is chosen."""
        return Portions(samples=self.samples, pull=self.pull_size, decode=self.decode_size)


@attrs.frozen
class Cost:
    """Network evaluations of one optimizer step, counted for each sample of the batch."""

    # Without gradient: in the rollout, for renoised copies and for an anchor.
    forward: int
    # With gradient; each is a forward and a backward pass. An anchor's second backward pass over a
    # graph, where the reward's gradient passes on through the latents, is not counted.
    backward: int
    pictures: int

    @property
    def velocity_calls(self) -> int:
        """All evaluations of the network."""
        return self.forward + self.backward


def cost(
    surrogate: Surrogate,
    sampling: TrainingSampling,
    *,
    anchored: bool = False,
    rescaled: bool = False,
) -> Cost:
    """Count evaluations for each sample of the batch; renoised copies are samples too.

    Of a model whose sampler has `rescaled` the guided velocity, a pull needs a detached branch too.
    """
    active = len(surrogate.active_steps)
    evaluated = len(sampling.evaluated_steps(surrogate))
    members = 1 + surrogate.noised
    reference = active * members if anchored else 0
    detached = sampling.branches - sampling.pulled_branches if rescaled else 0
    return Cost(
        forward=(evaluated + surrogate.noised + reference) * sampling.branches
        + active * members * detached,
        backward=active * members * sampling.pulled_branches,
        pictures=members,
    )

"""A training step of a model without weights, run in parts to see what they take of a device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Backbone, Conditioning, guided_field
from flowbp.adapters.capabilities import checkpointing_of, rescale_of
from flowbp.adapters.compilation import blocks_of
from flowbp.adapters.dtype_policy import DtypePolicy
from flowbp.core import Surrogate
from flowbp.rewards.reward import Reward
from flowbp.training.batching import AUTO, Batching, TrainingSampling
from flowbp.training.compiled_memory import CompiledMemory
from flowbp.training.device_memory import CAUTION, RESERVE, even_size
from flowbp.training.device_rules import DeviceRules
from flowbp.training.live_memory import LiveMemory
from flowbp.training.memory_fit import COMPILED_DECODES, COMPILED_PULLS, ENOUGH
from flowbp.training.peak_memory import Stages

UNSEEN = 1.15
"""By what sizes are multiplied that are chosen to fit: kernels allocate for themselves too.

Chosen so that the portions are those of docs/backbones_h100.json."""

CONTEXT = 2**30
"""What CUDA and its libraries take of a device: assumed, not measured."""


@attrs.frozen(kw_only=True)
class StepSketch:
    """A training step of a model without weights, which is run in parts to see what they take.

    Args:
        backbone: on the meta device, tuned.
        reward: likewise; None leaves it out.
        others: likewise what judges and measures pictures, which is there and not called.
        sampling: of the step.
        batching: its sizes.
        own: the samples of a step on this process.
        surrogate: an example of the method's draw.
        device: the type of the device that it will run on.
        activations: the share that compiled blocks keep; None where nothing is compiled.
    """

    backbone: Backbone
    reward: Reward | None
    sampling: TrainingSampling
    batching: Batching
    own: int
    surrogate: Surrogate
    device: str
    activations: float | None
    others: Sequence[Reward] = ()

    def stages(self, free: int | None, *, lockstep: bool = False) -> Stages:
        """What the stages of the step take, in the portions that are set or, where `auto`, chosen.

        Args:
            free: bytes besides the model in training; None where nothing is fitted.
            lockstep: whether the model is gathered block by block.
        """
        parts, others = (sum(t.nbytes for t in each) for each in (self._parts(), self._others()))
        cached, room = self.cached(), None
        if free is not None:
            share = (1 - (CAUTION if lockstep else RESERVE)) / UNSEEN
            room = int(max(free - CONTEXT - parts - others - cached, 0) * share)
        decode, scoring = self._decode(room, lockstep=lockstep)
        pull, checkpointing, pulled = self._pull(room, lockstep=lockstep)
        portions = attrs.evolve(
            self.batching.portions, pull=pull, decode=decode, checkpointing=checkpointing
        )
        return Stages(
            portions=portions,
            parts=parts,
            cached=cached,
            sampling=self.sampled(min(self.batching.samples, self.own)),
            scoring=scoring,
            pull=pulled,
            others=others,
        )

    def cached(self) -> int:
        """Bytes of the path and the prompts of the whole batch."""
        latents, conditioning = self._inputs(1)
        path = (2 * self.sampling.steps + 1) * latents.nbytes
        prompts = sum(tensor.nbytes for tensor in conditioning.tensors.values())
        return self.own * (1 + self.surrogate.noised) * (path + prompts)

    def sampled(self, count: int) -> int:
        """The peak of one velocity of so many samples, without gradient."""
        x, conditioning = self._inputs(count)
        negative = self._inputs(1)[1] if self.sampling.guided else None
        guidance, rescale = self.sampling.guidance, rescale_of(self.backbone)

        def sample() -> None:
            field = guided_field(
                self.backbone.velocity, conditioning, negative, guidance, rescale=rescale
            )
            with torch.no_grad():
                field(x, torch.tensor(0.5))

        return self._peak(sample, x, *conditioning.tensors.values())

    def pulled(self, count: int, *, checkpointing: bool = False) -> int:
        """The peak of one pull of so many samples."""
        x, conditioning = self._inputs(count)
        able = checkpointing_of(self.backbone)
        if able is not None:
            able.checkpoint_gradients(checkpointing)
        x.requires_grad_()
        cotangent = torch.empty_like(x, requires_grad=False)
        policy = getattr(self.backbone, "policy", None)
        low = None
        if isinstance(policy, DtypePolicy) and policy.weights != policy.compute:
            low = policy.compute
        blocks = blocks_of(self.backbone.module)

        def pull() -> None:
            v = self.backbone.velocity(conditioning)(x, torch.tensor(0.5))
            torch.autograd.backward(v, cotangent)

        shares: dict[nn.Module, float] = {}
        if self.activations is not None and not checkpointing:
            shares = dict.fromkeys(blocks, self.activations)
        with self._gradients():
            return self._peak(
                pull,
                x,
                *conditioning.tensors.values(),
                cotangent,
                shares=shares,
                again=blocks if checkpointing else (),
                low=low,
            )

    def scored(self, count: int) -> int:
        """The peak of decoding and scoring so many samples, with the gradient at the latents."""
        x = self._inputs(count)[0].requires_grad_()
        vae = getattr(getattr(self.backbone, "decoder", None), "vae", None)
        decoder = [] if vae is None else [vae.decoder]
        compiled = self.activations is not None

        def score() -> None:
            images = self.backbone.decode(x)
            scores = images if self.reward is None else self.reward(images, [""] * count)
            torch.autograd.grad(scores.sum(), x)

        shares = dict.fromkeys(decoder, 1.0) if compiled else {}
        return self._peak(score, x, shares=shares, again=() if compiled else decoder)

    def _decode(self, room: int | None, *, lockstep: bool) -> tuple[int, int]:
        batching, most = self.batching, self.batching.decode_size
        if batching.decode != AUTO:
            return most, self.scored(most)
        compiled = COMPILED_DECODES if self.activations is not None else None
        most = 1 if lockstep and room is None else most
        return _largest(self.scored, most, room, compiled)

    def _pull(self, room: int | None, *, lockstep: bool) -> tuple[int, bool | None, int]:
        batching, able = self.batching, checkpointing_of(self.backbone)
        most, wish = batching.pull_size, None if able is None else able.gradient_checkpointing
        on = wish is True or (wish == AUTO and lockstep)
        may_switch = wish == AUTO and room is not None and not lockstep
        compiled: Sequence[int] | None = COMPILED_PULLS if self.activations is not None else None
        if batching.pull != AUTO:
            size = self.pulled(most, checkpointing=on)
            if may_switch and room is not None and size > room:
                on, size = True, self.pulled(most, checkpointing=True)
            return most, None if able is None else on, size
        # Where no step can be repeated and nothing is measured, what takes least is taken.
        most = 1 if lockstep and room is None else most
        count, size = _largest(lambda n: self.pulled(n, checkpointing=on), most, room, compiled)
        if may_switch and count < min(ENOUGH, most):
            on = True
            count, size = _largest(lambda n: self.pulled(n, checkpointing=on), most, room, compiled)
        return count, None if able is None else on, size

    def _inputs(self, count: int) -> tuple[Tensor, Conditioning]:
        size = {"height": self.sampling.height, "width": self.sampling.width}
        noise = self.backbone.noise(count, generator=torch.Generator(), **size)
        with torch.no_grad(), DeviceRules(self.device).active():
            conditioning = self.backbone.encode(["a picture"]).repeat(count)
        return noise, conditioning

    def _parts(self) -> Iterator[Tensor]:
        """What is on the device besides the network's parameters; text encoders are not."""
        yield from self.backbone.module.buffers()
        vae = getattr(getattr(self.backbone, "decoder", None), "vae", None)
        yield from _tensors(vae, self.reward)

    def _others(self) -> Iterator[Tensor]:
        yield from _tensors(*self.others)

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """Context in which there are gradients, as of an earlier pull."""
        trained = list(self.backbone.trainable().values())
        try:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter)
            yield
        finally:
            for parameter in trained:
                parameter.grad = None

    def _peak(
        self,
        work: Callable[[], None],
        *given: Tensor,
        shares: Mapping[nn.Module, float] | None = None,
        again: Sequence[nn.Module] = (),
        low: torch.dtype | None = None,
    ) -> int:
        parameters = list(self.backbone.module.parameters())
        gradients = [each.grad for each in parameters if each.grad is not None]
        live = LiveMemory([*parameters, *gradients, *self._parts(), *given])
        rules = DeviceRules(self.device)
        compiled = CompiledMemory(live, rules, shares or {})
        with rules.active(), rules.in_backward(again, low), compiled(), live:
            work()
        return round(live.peak)


def _tensors(*parts: Any) -> Iterator[Tensor]:
    """What the networks of some parts keep."""
    for network in (each for part in parts for each in _networks(part)):
        yield from (*network.parameters(), *network.buffers())


def _networks(part: Any) -> Iterator[nn.Module]:
    """The networks of a reward, or of what it is made of."""
    if isinstance(part, nn.Module):
        yield part
    elif attrs.has(type(part)):
        for field in attrs.fields(type(part)):
            yield from _networks(getattr(part, field.name))


def _largest(
    peak: Callable[[int], int], most: int, room: int | None, compiled: Sequence[int] | None
) -> tuple[int, int]:
    """The samples at a time that are chosen to fit, and what they take, as `memory_fit` does it."""
    if compiled is not None and room is not None:
        sizes = list(dict.fromkeys(even_size(each, most) for each in compiled))
    else:
        sizes = [most]
    for count in sizes:
        found = peak(count)
        if room is None or found <= room or count == 1:
            return count, found
    if compiled is not None or room is None:
        return count, found
    first = peak(1)
    each = max((found - first) // (most - 1), 1)
    count = even_size(max(1, min(most, 1 + (room - first) // each)), most)
    return count, first + (count - 1) * each

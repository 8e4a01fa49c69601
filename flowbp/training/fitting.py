"""The portions of a step that fit into the memory of its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch

from flowbp.adapters.checkpointing import WithCheckpointing, checkpointing_of
from flowbp.adapters.compiling import is_compiled
from flowbp.training.cotangent import Scorer, score
from flowbp.training.fits import Fit, even, fit, fit_downwards
from flowbp.training.memory import GIB, Memory, release
from flowbp.training.randomness import generator, generator_states, set_generator_states
from flowbp.training.sampling import AUTO
from flowbp.training.sizes import Portions
from flowbp.training.stages import ENCODING, running
from flowbp.training.step import TrainingStep

_ENOUGH = 4
"""Samples at a time from which on gradient checkpointing would save no time."""

_COMPILED_PULLS = (8, 4, 2, 1)
_COMPILED_DECODES = (4, 2, 1)
"""What is tried of compiled code, which takes long for each; more at a time is not faster."""


def fitted(
    step: TrainingStep, prompts: Sequence[str], memory: Memory, *, owed: int = 0
) -> tuple[Portions, str]:
    """Choose what the batching, or the backbone's checkpointing, leaves to be chosen.

    Pulls, and decoder and reward, are tried with one sample and with two. A compiled backbone,
    where every size takes long, is tried with what is wanted of it, eight and four samples at the
    most, and with half of that where it does not fit. Checkpointing stays off if without it the
    wanted pull fits, or under `auto` at least four samples or all there are. No gradient is left
    behind, and no generator has moved.

    Args:
        step: whose portions are chosen.
        prompts: of the run, as many as are tried: two, or one of a batch of one.
        memory: of its device.
        owed: bytes that the optimizer is going to allocate.

    Returns:
        The portions, and a line that tells them; it is empty where nothing was left to be chosen.

    Raises:
        ExhaustedError: the prompts cannot be encoded in the device's memory.

    Example:
        See `Trainer`.
    """
    device, states = step.backbone.device, generator_states(step.backbone.device)
    try:
        return _Fitting(step, prompts, memory, owed).portions()
    finally:
        for parameter in step.backbone.trainable().values():
            parameter.grad = None
        set_generator_states(states, device)
        release(device)


class _Fitting:
    def __init__(
        self, step: TrainingStep, prompts: Sequence[str], memory: Memory, owed: int
    ) -> None:
        size = {"height": step.sampling.height, "width": step.sampling.width}
        source, backbone = generator(0, "fitting"), step.backbone
        self.step, self.memory = step, memory
        self.compiled = is_compiled(backbone.module)
        # As many as are ever tried at a time.
        copies = _COMPILED_PULLS[0] if self.compiled and len(prompts) > 1 else 1
        with torch.no_grad(), running(ENCODING, len(prompts)):
            self.conditioning = backbone.encode(list(prompts)).repeat(copies)
        self.prompts = list(prompts) * copies
        drawn = backbone.noise(len(self.prompts), generator=source, **size)
        self.latents = drawn.to(backbone.device)
        self.owed = owed + self._cached()

    def _cached(self) -> int:
        # What a step keeps for the whole batch while it works on portions of it.
        plan = self.step.method.draw(self.step.sigmas, generator(0, "fitting"))
        members = self.step.batching.total * (1 + plan.noised)
        prompts = sum(tensor[:1].nbytes for tensor in self.conditioning.tensors.values())
        path = (2 * self.step.sampling.steps + 1) * self.latents[:1].nbytes
        return members * (path + prompts)

    def portions(self) -> tuple[Portions, str]:
        """See `fitted`."""
        batching, able = self.step.batching, checkpointing_of(self.step.backbone)
        wish = able.gradient_checkpointing if able is not None else None
        on = None if able is None else wish is True
        pulls = decodes = None
        pull, decode = batching.pull_size, batching.decode_size
        # A batch of one has no second sample to try.
        alone = len(self.prompts) == 1
        if AUTO in (batching.pull, wish):
            pulls, on = self._pulls(able, on, 1 if alone else pull, may_switch=wish == AUTO)
            pull = even(max(pulls.count, 1), pull) if batching.pull == AUTO else pull
        if batching.decode == AUTO:
            decodes = self._fit(self._score, 1 if alone else decode, _COMPILED_DECODES)
            decode = even(max(decodes.count, 1), decode)
        chosen = attrs.evolve(batching.portions, pull=pull, decode=decode, checkpointing=on)
        found = pulls or decodes
        if found is None:
            return chosen, ""
        free, each = (f"{size / GIB:.1f} GiB" for size in (found.free, found.each))
        return chosen, f"{chosen}: {free} free, {each} a sample"

    def _pulls(
        self, able: WithCheckpointing | None, on: bool | None, most: int, *, may_switch: bool
    ) -> tuple[Fit, bool | None]:
        if able is not None:
            able.checkpoint_gradients(bool(on))
        wished = self.step.batching.pull == AUTO
        needed = min(_ENOUGH, most) if wished else most
        sizes = _COMPILED_PULLS if wished else (most,)
        switchable = able is not None and may_switch
        found = self._fit(self._pull, most, sizes, least=needed if switchable else 1)
        if able is None or not may_switch or found.count >= needed:
            return found, on
        able.checkpoint_gradients(True)
        return self._fit(self._pull, most, sizes), True

    def _fit(
        self, work: Callable[[int], object], most: int, compiled: Sequence[int], *, least: int = 1
    ) -> Fit:
        if self.compiled:
            sizes = dict.fromkeys(even(size, most) for size in compiled)
            wanted = [size for size in sizes if size >= least]
            found = fit_downwards(self.memory, work, wanted, owed=self.owed)
        else:
            found = fit(self.memory, work, most, owed=self.owed)
        release(self.step.backbone.device)
        return found

    def _pull(self, count: int) -> None:
        x = self.latents[:count]
        # What a method may ask of a pull at the most: the cotangent of the latents, and under an
        # anchor one that goes to the parameters only.
        further = None if self.step.anchor is None else torch.zeros_like(x)
        pull = self.step.pull(self.conditioning[:count])
        pull(x, self.step.sigmas[0], torch.zeros_like(x), through_latents=True, further=further)

    def _score(self, count: int) -> None:
        step = self.step
        scorer = Scorer(backbone=step.backbone, reward=step.reward, shape=step.shape, size=count)
        x = self.latents[:count]
        score(scorer, x, self.prompts[:count], torch.ones(count, device=x.device))

"""Portions that fit into the memory of a device, found by trying one sample and two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import torch

from flowbp.adapters.checkpointing import WithCheckpointing, checkpointing_of
from flowbp.training.cotangent import Scorer, score
from flowbp.training.memory import GIB, Memory, release
from flowbp.training.randomness import generator, generator_states, set_generator_states
from flowbp.training.sampling import AUTO
from flowbp.training.sizes import Portions
from flowbp.training.step import TrainingStep

RESERVE = 0.1
"""The share of the free memory that is left free: for fragments, and for what varies."""

_ENOUGH = 4
"""Samples at a time from which on gradient checkpointing would save no time."""


@attrs.frozen
class Fit:
    """How many samples fit at a time.

    Args:
        count: of them; 0 if not even one does.
        free: bytes that were there for them.
        each: bytes that one more takes.

    Example:
        >>> Fit(count=4, free=2**30, each=2**28).count
        4
    """

    count: int
    free: int
    each: int


def fit(memory: Memory, work: Callable[[int], object], most: int, *, owed: int = 0) -> Fit:
    """Find how many samples fit at a time, from the memory that one and two of them take.

    `peak(n) = fixed + n each`, and the largest n with `peak(n) <= (1 - RESERVE) (free - owed)`.

    Args:
        memory: of the device.
        work: works on so many samples at a time.
        most: the largest number that is wanted, at least 1.
        owed: bytes that will be allocated later by something else.

    Returns:
        What was found, at most `most`.

    Example:
        >>> class Toy:
        ...     def free(self):
        ...         return 1000
        ...     def peak(self, work):
        ...         return work()
        >>> fit(Toy(), lambda count: 100 + 150 * count, 8)
        Fit(count=5, free=1000, each=150)
    """
    free, peaks = max(memory.free() - owed, 0), list[int]()
    try:
        # Once unmeasured: kernels are chosen, and gradients allocated that then stay.
        work(1)
        free = max(memory.free() - owed, 0)
        for count in (1, 2)[:most]:
            peaks.append(memory.peak(partial(work, count)))
    except torch.OutOfMemoryError:
        # That many do not fit, which is all there was to find out.
        return Fit(len(peaks), free, peaks[0] if peaks else free)
    usable = int(free * (1 - RESERVE))
    if most == 1:
        return Fit(int(peaks[0] <= usable), free, peaks[0])
    first, second = peaks
    each = max(second - first, 1)
    count = (usable - max(first - each, 0)) // each
    return Fit(min(most, max(count, 0)), free, each)


def even(largest: int, samples: int) -> int:
    """A size at most `largest` that parts `samples` well: a divisor of it if one is near.

    Args:
        largest: at least 1.
        samples: of the whole.

    Returns:
        The size.

    Example:
        >>> even(7, 8), even(3, 8), even(6, 7), even(9, 8), even(5, 10)
        (4, 2, 4, 8, 5)
    """
    largest = min(largest, samples)
    divisor = next(size for size in range(largest, 0, -1) if samples % size == 0)
    parts = -(-samples // largest)
    return divisor if 2 * divisor > largest else -(-samples // parts)


def fitted(
    step: TrainingStep, prompts: Sequence[str], memory: Memory, *, owed: int = 0
) -> tuple[Portions, str]:
    """Choose what the batching, or the backbone's checkpointing, leaves to be chosen.

    Pulls, and decoder and reward, are tried with one sample and with two. Checkpointing stays off
    if without it the wanted pull fits, or under `auto` at least four samples or all there are. No
    gradient is left behind, and no generator has moved.

    Args:
        step: whose portions are chosen.
        prompts: of the run, as many as are tried: two, or one of a batch of one.
        memory: of its device.
        owed: bytes that the optimizer is going to allocate.

    Returns:
        The portions, and a line that tells them; it is empty where nothing was left to be chosen.

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
        self.step, self.memory, self.prompts = step, memory, list(prompts)
        with torch.no_grad():
            self.conditioning = backbone.encode(self.prompts)
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
        alone = len(self.prompts) < 2
        if AUTO in (batching.pull, wish):
            pulls, on = self._pulls(able, on, 1 if alone else pull, may_switch=wish == AUTO)
            pull = even(max(pulls.count, 1), pull) if batching.pull == AUTO else pull
        if batching.decode == AUTO:
            decodes = self._fit(self._score, 1 if alone else decode)
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
        found = self._fit(self._pull, most)
        needed = min(_ENOUGH, most) if self.step.batching.pull == AUTO else most
        if able is None or not may_switch or found.count >= needed:
            return found, on
        able.checkpoint_gradients(True)
        return self._fit(self._pull, most), True

    def _fit(self, work: Callable[[int], object], most: int) -> Fit:
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

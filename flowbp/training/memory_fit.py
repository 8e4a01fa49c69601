"""The portions of a step that fit into its device's memory, and smaller ones where they do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs
import torch

from flowbp.adapters.backbone import Backbone
from flowbp.adapters.capabilities import WithCheckpointing, checkpointing_of
from flowbp.adapters.compilation import is_compiled
from flowbp.adapters.sharding import (
    gathered,
    own_part,
    sharding_of,
    sum_gradients,
    with_gradient,
)
from flowbp.core import Cotangents, draw_surrogate
from flowbp.training.batching import AUTO, Portions
from flowbp.training.device_memory import (
    GIB,
    Fit,
    Memory,
    even_size,
    first_fit,
    largest_fit,
    lockstep_fit,
    release_memory,
)
from flowbp.training.memory_stages import (
    ENCODING,
    SCORING,
    SWEEP,
    ExhaustedError,
    StageOutOfMemoryError,
    in_stage,
)
from flowbp.training.observers import Observer, notify_portions
from flowbp.training.optimization import OptimizerRecipe, state_bytes
from flowbp.training.prompts import PromptFeed, PromptSource
from flowbp.training.randomness import Streams, generator, generator_states, set_generator_states
from flowbp.training.ranks import Ranks
from flowbp.training.run_state import RunState
from flowbp.training.sharded_state import network_of
from flowbp.training.step import (
    StepResult,
    TrainingStep,
    in_portions,
    score,
    starting_portions,
)

ENOUGH = 4
"""Samples at a time from which on gradient checkpointing would save no time."""

COMPILED_PULLS = (8, 4, 2, 1)
COMPILED_DECODES = (4, 2, 1)
"""What is tried of compiled code, which takes long for each; more at a time is not faster."""


def fit_portions(
    step: TrainingStep, prompts: Sequence[str], memory: Memory, *, owed: int = 0
) -> tuple[Portions, str]:
    """Choose what the batching, or the backbone's checkpointing, leaves to be chosen.

    Pulls, and decoder and reward, are tried with one sample and with two. A compiled backbone,
    where every size takes long, is tried with what is wanted of it, eight and four samples at the
    most, and with half of that where it does not fit. Checkpointing stays off if without it the
    wanted pull fits, or under `auto` at least four samples or all there are. No gradient is left
    behind, and no generator has moved.

    A model that is gathered block by block must be called alike by all processes, none of which may
    run out of memory in that: see `lockstep_fit`. Checkpointing is on there unless set.

    Tries the `prompts`, two, or one of a batch of one; `owed` are the bytes that the optimizer is
    going to allocate. Returns the portions and a message, empty where nothing was to be chosen.
    """
    device, states = step.backbone.device, generator_states(step.backbone.device)
    try:
        return _Fitting(step, prompts, memory, owed).portions()
    finally:
        for parameter in step.backbone.trainable().values():
            parameter.grad = None
        set_generator_states(states, device)
        release_memory(device)
        if device.type == "cuda":
            # What was tried is no peak of the steps to come.
            torch.cuda.reset_peak_memory_stats(device)


class _Fitting:
    def __init__(
        self, step: TrainingStep, prompts: Sequence[str], memory: Memory, owed: int
    ) -> None:
        size = {"height": step.sampling.height, "width": step.sampling.width}
        source, backbone = generator(0, "fitting"), step.backbone
        self.step, self.memory = step, memory
        self.compiled = is_compiled(backbone.module)
        self.lockstep = in_lockstep(backbone)
        # As many as are ever tried at a time.
        most = COMPILED_PULLS[0] if self.compiled else 1
        if self.lockstep:
            most = max(step.batching.pull_size, step.batching.decode_size)
        copies = most if len(prompts) > 1 else 1
        with torch.no_grad(), in_stage(ENCODING, len(prompts)):
            self.conditioning = backbone.encode(list(prompts)).repeat(copies)
        self.prompts = list(prompts) * copies
        drawn = backbone.noise(len(self.prompts), generator=source, **size)
        self.latents = drawn.to(backbone.device)
        self.owed = owed + self._cached()

    def _cached(self) -> int:
        # What a step keeps for the whole batch while it works on portions of it.
        surrogate = draw_surrogate(self.step.method, self.step.sigmas, generator(0, "fitting"))
        members = self.step.own * (1 + surrogate.noised)
        prompts = sum(tensor[:1].nbytes for tensor in self.conditioning.tensors.values())
        path = (2 * self.step.sampling.steps + 1) * self.latents[:1].nbytes
        return members * (path + prompts)

    def portions(self) -> tuple[Portions, str]:
        batching, able = self.step.batching, checkpointing_of(self.step.backbone)
        wish = able.gradient_checkpointing if able is not None else None
        on = None if able is None else wish is True or (self.lockstep and wish == AUTO)
        pulls = decodes = None
        pull, decode = batching.pull_size, batching.decode_size
        # A batch of one has no second sample to try.
        alone = len(self.prompts) == 1
        if self.lockstep and able is not None:
            able.checkpoint_gradients(bool(on))
        may_switch = wish == AUTO and not self.lockstep
        if batching.pull == AUTO or may_switch:
            pulls, on = self._pulls(able, on, 1 if alone else pull, may_switch=may_switch)
            pull = even_size(max(pulls.count, 1), pull) if batching.pull == AUTO else pull
        if batching.decode == AUTO:
            decodes = self._fit(self._score, 1 if alone else decode, COMPILED_DECODES)
            decode = even_size(max(decodes.count, 1), decode)
        chosen = attrs.evolve(batching.portions, pull=pull, decode=decode, checkpointing=on)
        found = pulls or decodes
        if found is None:
            why = f"{chosen}: as {_IN_BLOCKS}"
            return chosen, why if self.lockstep and wish == AUTO else ""
        free, each = (f"{size / GIB:.1f} GiB" for size in (found.free, found.each))
        why = f", with caution, as {_IN_BLOCKS}" if self.lockstep else ""
        return chosen, f"{chosen}: {free} free, {each} a sample{why}"

    def _pulls(
        self, able: WithCheckpointing | None, on: bool | None, most: int, *, may_switch: bool
    ) -> tuple[Fit, bool | None]:
        wished = self.step.batching.pull == AUTO
        needed = min(ENOUGH, most) if wished else most
        sizes = COMPILED_PULLS if wished else (most,)
        if able is not None:
            able.checkpoint_gradients(bool(on))
        found = self._fit(self._pull, most, sizes, least=needed if may_switch else 1)
        if able is None or not may_switch or found.count >= needed:
            return found, on
        able.checkpoint_gradients(True)
        return self._fit(self._pull, most, sizes), True

    def _fit(
        self, work: Callable[[int], object], most: int, compiled: Sequence[int], *, least: int = 1
    ) -> Fit:
        if self.lockstep:
            tried = compiled if self.compiled else range(most, 0, -1)
            wanted = sorted({even_size(size, most) for size in tried}, reverse=True)
            try:
                found = lockstep_fit(self.memory, work, wanted, self.step.ranks, owed=self.owed)
            except StageOutOfMemoryError as error:
                stage, count = error.stage, error.count
                if count > 1:
                    stage = attrs.evolve(stage, cure=f"{_ONCE}: {_SET}, for less than {count}")
                raise ExhaustedError(stage, count, error.cause) from error
        elif self.compiled:
            sizes = dict.fromkeys(even_size(size, most) for size in compiled)
            wanted = [size for size in sizes if size >= least]
            found = first_fit(self.memory, work, wanted, owed=self.owed)
        else:
            found = largest_fit(self.memory, work, most, owed=self.owed)
        release_memory(self.step.backbone.device)
        return found

    def _pull(self, count: int) -> None:
        x = self.latents[:count]
        # What a method may ask of a pull at the most: the cotangent of the latents, and under an
        # anchor one that goes to the parameters only.
        anchor = None if self.step.anchor is None else torch.zeros_like(x)
        pull = self.step.pull(self.conditioning[:count])
        cotangents = Cotangents(torch.zeros_like(x), anchor, through_latents=True)
        with in_stage(SWEEP, count):
            pull(x, self.step.sigmas[0], cotangents)

    def _score(self, count: int) -> None:
        x, weights = self.latents[:count], torch.ones(count, device=self.latents.device)
        with in_stage(SCORING, count):
            score(self.step.scorer(count), x, self.prompts[:count], weights)


_ONCE = "a model that is gathered block by block cannot repeat a step that runs out of memory"
_SET = "set `pull` and `decode` of the batching and `gradient_checkpointing` of the backbone"
_IN_BLOCKS = f"{_ONCE}; where more fits, {_SET}"


def in_lockstep(backbone: Backbone) -> bool:
    """Whether every call of a backbone's network is one of all processes."""
    sharding = sharding_of(getattr(backbone, "module", None))
    return sharding is not None and not sharding.keep


def choose_portions(
    run: RunState,
    prompts: PromptSource,
    optimizer: OptimizerRecipe,
    memory: Memory | None,
    *,
    seed: int,
    observers: Sequence[Observer],
) -> None:
    """Give a run the portions that it begins with; those that were lowered before stay."""
    if run.lowered:
        return
    if memory is None:
        if in_lockstep(run.step.backbone):
            _use_portions(run, *_smallest(run.step), observers)
            return
        able = checkpointing_of(run.step.backbone)
        if able is not None:
            # A run before this one may have switched it.
            able.checkpoint_gradients(able.gradient_checkpointing is True)
        return
    # The run's own first prompts, from a stream apart: they are encoded already.
    first = PromptFeed(prompts, Streams.of(seed).prompts).take(min(2, run.step.own))
    parameters = map(own_part, run.parameters.values())
    owed = 0 if run.optimizer.state else state_bytes(optimizer, parameters)
    with gathered(network_of(run)):
        portions, message = fit_portions(run.step, first, memory, owed=owed)
    _use_portions(run, *_agreed(run.step.ranks, portions, message), observers)


def _use_portions(
    run: RunState, portions: Portions, message: str, observers: Sequence[Observer]
) -> None:
    """Begin with some portions, and say so on the first process if any were chosen."""
    run.step = in_portions(run.step, portions)
    if message and run.step.ranks.first:
        notify_portions(observers, run.done + 1, portions, message)


def _smallest(step: TrainingStep) -> tuple[Portions, str]:
    """What takes least memory, where none is measured and no step can be repeated.

    Returns a message too, empty where nothing was to be chosen.
    """
    batching, able = step.batching, checkpointing_of(step.backbone)
    wish = None if able is None else able.gradient_checkpointing
    portions = attrs.evolve(
        batching.portions,
        pull=1 if batching.pull == AUTO else batching.pull,
        decode=1 if batching.decode == AUTO else batching.decode,
        checkpointing=None if wish is None else wish is not False,
    )
    if AUTO not in (batching.pull, batching.decode, wish):
        return portions, ""
    return portions, (
        f"{portions}: what takes least memory, as none is measured here, and {_IN_BLOCKS}"
    )


def _sum_gradients(run: RunState) -> None:
    """Sum the gradients of all processes, once none of them has run out of memory."""
    ranks, network = run.step.ranks, network_of(run)
    if network is None:
        ranks.sum_gradients(run.parameters.values())
        return
    sharding = sharding_of(network)
    found = ranks.exchange(with_gradient(network))
    if sharding is not None and sharding.keep:
        sum_gradients(network, sorted({name for names in found for name in names}))
        ranks.settle(run.device)


def _agreed(ranks: Ranks, portions: Portions, message: str) -> tuple[Portions, str]:
    """Portions that fit everywhere, where processes have found different ones."""
    found = ranks.exchange(portions)
    smallest = {n: min(getattr(each, n) for each in found) for n in ("samples", "pull", "decode")}
    agreed = attrs.evolve(portions, **smallest)
    if any(each.checkpointing for each in found):
        agreed = attrs.evolve(agreed, checkpointing=True)
    return agreed, message if agreed == portions else f"{agreed}: as another process has less free"


def retry_on_out_of_memory(
    run: RunState, prompts: Sequence[str], observers: Sequence[Observer]
) -> StepResult:
    """Run a step until it fits: what runs out of memory is made smaller, and stays so.

    The gradients are then those of the whole batch, summed over all processes. What runs out of
    memory on one is made smaller on all, and all repeat the step.

    A repeated step is the same step: generators are put back to where they were, and its gradient
    is the same up to rounding. Only what the network itself draws, for dropout say, may change, as
    it is drawn portion by portion.
    """
    streams, own, ranks = run.streams.states(), generator_states(run.device), run.step.ranks
    while True:
        try:
            with gathered(network_of(run)):
                result = run.step(prompts, run.streams)
                _sum_gradients(run)
            return result
        except StageOutOfMemoryError as error:
            if in_lockstep(run.step.backbone):
                # The others are waiting for this one to gather with them.
                raise
            agreed = ranks.agree_on(error)
            stage, count, cause = agreed.stage, agreed.count, agreed.cause
            del agreed
        # Past the handler, because the error's traceback keeps alive what the step had allocated.
        run.optimizer.zero_grad(set_to_none=True)
        release_memory(run.device)
        now = run.step.portions or starting_portions(run.step)
        smaller = stage.lowered(now, count)
        if smaller is None:
            raise ExhaustedError(stage, count, cause)
        run.streams.set_states(streams)
        set_generator_states(own, run.device)
        run.step, run.lowered = in_portions(run.step, smaller), True
        change = smaller.changed_from(now)
        message = f"out of memory in {stage.doing}: {change} from here on; the step is repeated"
        if is_compiled(run.step.backbone.module):
            message = f"{message}, and compiled for that first, which takes a while"
        if ranks.first:
            notify_portions(observers, run.done + 1, smaller, message)

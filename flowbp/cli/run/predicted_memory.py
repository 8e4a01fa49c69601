"""The peak of a run's step, predicted from the configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import attrs
import torch

from flowbp.adapters import Backbone
from flowbp.cli.run.built_run import replaced_providers
from flowbp.rewards import Reward
from flowbp.settings import RunContainer, Settings, chosen_device
from flowbp.settings.component_needs import in_words
from flowbp.settings.device import Gpus
from flowbp.settings.schema import example_surrogate
from flowbp.settings.unloaded_reward import other_scorers, reward_sketch
from flowbp.training import AdamW
from flowbp.training.division import Division, Needs
from flowbp.training.peak_memory import Peak, peak_of
from flowbp.training.step_sketch import StepSketch


def memory_bytes(device: torch.device) -> int | None:
    """What a GPU has in all; None of another device."""
    if device.type != "cuda":
        return None
    found: int = torch.cuda.get_device_properties(device).total_memory
    return found


def peak_text(
    container: RunContainer,
    model: Backbone,
    found: tuple[Division, Needs],
    gpus: Gpus | None = None,
) -> str:
    """The peak of a step here or on `gpus`, or why it is not known; that fails no check."""
    settings, reward = container.settings(), None
    device, replaced = chosen_device(settings.run.device), replaced_providers(container)
    kind = "cuda" if gpus else device.type
    if "reward" not in replaced:
        # What is wrong with its files is reported by what loads it.
        with suppress(Exception):
            reward = reward_sketch(settings.reward)
    try:
        # Of what torch or a model of others does to tensors without data anything may fail.
        return predicted_peak(
            settings,
            model,
            reward,
            found,
            processes=gpus.count if gpus else container.ranks().size,
            device=kind,
            memory=gpus.memory if gpus else memory_bytes(device),
            others=other_scorers(settings, replaced),
        ).described()
    except Exception as error:
        return f"activations: not known ({in_words(error).splitlines()[0]})"


def predicted_peak(
    settings: Settings,
    model: Backbone,
    reward: Reward | None,
    found: tuple[Division, Needs],
    *,
    processes: int,
    device: str,
    memory: int | None,
    others: tuple[Sequence[Reward], Sequence[str]] = ((), ()),
) -> Peak:
    """The peak of a step, of a model and a reward without weights; None leaves a reward out.

    On devices of a type, which have so many bytes each. `others` are what judges and measures
    pictures there, and names of those whose sizes are not known.
    """
    division, needs = found
    whole = division.total(needs)
    own = settings.batching.total(processes) // processes
    sketch = StepSketch(
        backbone=model,
        reward=reward,
        sampling=settings.sampling,
        batching=settings.batching,
        own=own,
        surrogate=example_surrogate(settings, settings.run.seed),
        device=device if device == "cuda" else "cpu",
        activations=settings.run.kept_activations if settings.run.compile else None,
        others=others[0],
    )
    free = None if memory is None else max(memory - whole, 0)
    stages = sketch.stages(free, lockstep=not division.keep)
    if not isinstance(settings.optimizer, AdamW):
        # torch's own, but for the fused ones, go through all parameters together.
        stages = attrs.evolve(stages, update=needs.gradients // division.shard)
    without = [*([] if reward is not None else ["the reward"]), *others[1]]
    return peak_of(needs, division, stages, device=device, memory=memory, without=without)

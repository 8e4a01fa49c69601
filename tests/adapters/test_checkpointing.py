"""Gradient checkpointing is switched between two steps, and changes no gradient."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from flowbp.adapters import Lora, checkpointing_of
from flowbp.core import Bridge, Linear
from flowbp.prompts import cached
from flowbp.training import AdamW, Batching, PromptList, Streams, TrainingSampling, TrainingStep
from flowbp.training.memory_fit import retry_on_out_of_memory
from flowbp.training.run_state import RunState
from flowbp.training.step import in_portions, starting_portions

from ..training.short import Listener
from .adapted import attached
from .families import FAMILIES

PROMPTS = ["a red box", "two dots"]
each_family = pytest.mark.parametrize(
    "name", ["sd3", "flux1 dev", "flux2 klein-base", "z_image", "qwen_image"]
)


def step_of(backbone) -> TrainingStep:
    return TrainingStep(
        backbone=backbone,
        reward=lambda images, prompts: images[:, 0].mean((1, 2)),
        method=Bridge(active=3),
        shape=Linear(),
        sampling=TrainingSampling(steps=4, guidance=1.0, height=16, width=16),
        batching=Batching(2),
    )


def gradient(backbone) -> torch.Tensor:
    parts = [p.grad.flatten() for p in backbone.trainable().values() if p.grad is not None]
    for parameter in backbone.trainable().values():
        parameter.grad = None
    return torch.cat(parts)


@each_family
def test_auto_is_off_until_it_is_switched(name):
    backbone = FAMILIES[name].backbone(deepcopy(FAMILIES[name].pipeline()))
    assert backbone.gradient_checkpointing == "auto"
    for on in (False, True, False):
        if on is not backbone.transformer.is_gradient_checkpointing:
            checkpointing_of(backbone).checkpoint_gradients(on)
        assert backbone.transformer.is_gradient_checkpointing is on
    with pytest.raises(ValueError, match="'gradient_checkpointing' must be in"):
        FAMILIES[name].backbone(gradient_checkpointing="sometimes")


def test_who_has_none_works_as_well():
    assert checkpointing_of(object()) is None
    assert starting_portions(step_of(attached(FAMILIES["sd3"]))).checkpointing is False


@each_family
def test_a_step_that_needed_checkpointing_has_its_gradient(name):
    """In float32, the embeddings cached, with dropout in an adapter: masks are drawn again."""
    backbone = cached(attached(FAMILIES[name], Lora(rank=2, dropout=0.3)), None)
    for parameter in backbone.trainable().values():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(1))
    step = step_of(backbone)
    run = RunState.at_start(step, PromptList(PROMPTS), AdamW(), None, seed=0)
    run.step = in_portions(step, starting_portions(step))
    torch.manual_seed(0)
    step(PROMPTS, Streams.of(0))
    expected, plain = gradient(backbone), backbone.velocity

    def velocity(conditioning):
        field = plain(conditioning)

        def short(latents, sigma):
            v = field(latents, sigma)
            if v.requires_grad and not backbone.transformer.is_gradient_checkpointing:
                raise torch.OutOfMemoryError("no room for the activations")
            return v

        return short

    class Short:
        def __getattr__(self, wanted):
            return velocity if wanted == "velocity" else getattr(backbone, wanted)

    run.step = in_portions(step_of(Short()), run.step.sizes)
    torch.manual_seed(0)
    listener = Listener()
    retry_on_out_of_memory(run, PROMPTS, [listener])
    assert [p.checkpointing for _, p, _ in listener.told] == [False, True]
    found = gradient(backbone)
    assert expected.norm() > 0
    # A pull of one sample draws other masks than one of two, so that only those of the same size
    # are alike to the bit.
    alone = in_portions(step_of(backbone), listener.told[0][1])
    torch.manual_seed(0)
    alone(PROMPTS, Streams.of(0))
    assert (found - gradient(backbone)).norm() <= 1e-6 * expected.norm()

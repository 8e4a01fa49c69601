"""What the parts of a step take, and the portions that are chosen to fit."""

from __future__ import annotations

import attrs
import pytest
import torch

from flowbp.core import draw_surrogate
from flowbp.core.methods import Bridge
from flowbp.shapes.embedded import embedded_backbone
from flowbp.training import Batching, TrainingSampling
from flowbp.training.device_rules import DeviceRules
from flowbp.training.division import GIB
from flowbp.training.step_sketch import CONTEXT, StepSketch


def _sketch(**changed) -> StepSketch:
    sampling = TrainingSampling(steps=6, guidance=2.0, height=64, width=64)
    given = dict(
        backbone=embedded_backbone(device="meta"),
        reward=None,
        sampling=sampling,
        batching=Batching(8),
        own=8,
        surrogate=draw_surrogate(
            Bridge(active=2), torch.linspace(1, 0, 7), torch.Generator().manual_seed(0)
        ),
        device="cuda",
        activations=None,
    )
    return StepSketch(**given | changed)


def test_activations_grow_with_the_samples_and_nothing_is_left_behind() -> None:
    sketch = _sketch()
    one, two, four = (sketch.pulled(count) for count in (1, 2, 4))
    assert one < two < four
    assert four - two == pytest.approx(2 * (two - one), rel=0.05)
    assert sketch.sampled(4) < four
    assert 3.5 * sketch.scored(1) < sketch.scored(4) < 4.5 * sketch.scored(1)
    assert all(each.grad is None for each in sketch.backbone.module.parameters())
    half, least = (attrs.evolve(sketch, activations=share).pulled(4) for share in (0.5, 0.1))
    assert least < half < four


def test_portions_are_what_is_set_or_what_fits() -> None:
    sketch = _sketch()
    stages = sketch.stages(None)
    assert (stages.portions.pull, stages.portions.decode) == (8, 8)
    assert stages.pull == sketch.pulled(8)
    room = CONTEXT + stages.parts + stages.cached
    pull = attrs.evolve(sketch, batching=Batching(8, decode=1))
    tight = pull.stages(room + int(sketch.pulled(4) * 1.4))
    assert tight.portions.pull == 4
    assert tight.pull == pytest.approx(sketch.pulled(4), rel=0.05)
    decode = attrs.evolve(sketch, batching=Batching(8, pull=1))
    assert decode.stages(room + int(sketch.scored(4) * 1.4)).portions.decode == 4
    assert sketch.stages(room).portions.pull == 1
    fixed = attrs.evolve(sketch, batching=Batching(8, pull=2, decode=3))
    assert (fixed.stages(0).portions.pull, fixed.stages(0).portions.decode) == (2, 3)
    compiled = attrs.evolve(sketch, activations=0.5)
    assert compiled.stages(100 * GIB).portions.decode == 4
    # What takes least, where nothing is measured and no step can be repeated.
    assert sketch.stages(None, lockstep=True).portions.pull == 1


def test_the_path_and_prompts_of_the_whole_batch_are_counted() -> None:
    sketch = _sketch(own=16)
    latents = sketch.backbone.noise(1, height=64, width=64, generator=torch.Generator())
    with DeviceRules("cpu").active():
        prompts = sketch.backbone.encode(["a"]).tensors.values()
    size = 13 * latents.nbytes + sum(each.nbytes for each in prompts)
    assert sketch.cached() == 16 * size

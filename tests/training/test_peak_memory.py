"""The peak of a step: its stages, how they are put together, and what is chosen to fit."""

from __future__ import annotations

import attrs
import pytest
import torch

from flowbp.core import draw_surrogate
from flowbp.core.methods import Bridge
from flowbp.shapes.embedded import embedded_backbone
from flowbp.training import Batching, Portions, TrainingSampling
from flowbp.training.device_rules import DeviceRules
from flowbp.training.division import GIB, Division, Needs
from flowbp.training.memory_stages import SWEEP, UPDATE
from flowbp.training.peak_memory import Stages, peak_of
from flowbp.training.step_sketch import CONTEXT, StepSketch

NEEDS = Needs(weights=8 * GIB, gradients=8 * GIB, optimizer=16 * GIB, average=8 * GIB, largest=GIB)
STAGES = Stages(
    portions=Portions(samples=8, pull=8, decode=4),
    parts=2 * GIB,
    cached=GIB,
    sampling=3 * GIB,
    scoring=9 * GIB,
    pull=5 * GIB,
)


def test_gradients_come_after_scoring() -> None:
    found = peak_of(NEEDS, Division(), STAGES, device="cuda")
    # 32 without gradients and 9, or 40 and 5.
    assert found.stage.doing == "the backward pass of the network"
    assert found.total == (40 + 5 + 2 + 1) * GIB
    more = peak_of(NEEDS, Division(), attrs.evolve(STAGES, scoring=14 * GIB), device="cuda")
    assert more.stage.doing == "decoding and scoring"
    assert more.total == (32 + 14 + 2 + 1) * GIB
    update = peak_of(NEEDS, Division(), attrs.evolve(STAGES, update=8 * GIB), device="cuda")
    assert update.stage.doing == "the update of the parameters"
    assert update.total == (40 + 8 + 2 + 1) * GIB


def test_shards_have_a_step_s_weights_and_buffers_besides() -> None:
    found = peak_of(NEEDS, Division(8), STAGES, device="cuda")
    assert found.total == (4 + 16 + 5 + 3) * GIB
    small = attrs.evolve(STAGES, scoring=0, pull=0, sampling=0)
    summing = peak_of(NEEDS, Division(8), small, device="cuda")
    assert summing.stage.doing == "summing the gradients"
    assert summing.total == (4 + 16 + 3) * GIB + GIB + GIB // 8
    by_block = peak_of(NEEDS, Division(8, keep=False), STAGES, device="cuda")
    # Scoring without a share of the gradients.
    assert (by_block.stage.doing, by_block.total) == ("decoding and scoring", (4 + 3 + 9 + 3) * GIB)


def test_it_is_said_in_words() -> None:
    stages = attrs.evolve(STAGES, others=GIB)
    found = peak_of(NEEDS, Division(), stages, device="cuda", without=["the reward"])
    assert found.described() == (
        "about 49.0 GiB on cuda at the peak, in the backward pass of the network (pull 8, decode "
        "4): 5.0 GiB of activations, 8.0 GiB of weights, 8.0 GiB of gradients, 16.0 GiB of "
        "optimizer state, 8.0 GiB of averages, 2.0 GiB of decoder, reward and buffers, 1.0 GiB of "
        "judge and metrics, 1.0 GiB of path and prompts; without the reward, whose size is not "
        "known"
    )
    several = attrs.evolve(found, without=["the reward", "the judge", "the metric red"])
    assert several.described().endswith(
        "; without the reward, the judge and the metric red, whose sizes are not known"
    )


@pytest.mark.parametrize(
    ("memory", "portions", "cure"),
    [
        (48, STAGES.portions, None),
        (47, STAGES.portions, "pull 8 -> 4 takes less"),
        (47, Portions(samples=8, pull=1, decode=4, checkpointing=True), SWEEP.cure),
        # No portion helps, as what is always there is 43 GiB.
        (42, STAGES.portions, UPDATE.cure),
    ],
)
def test_what_does_not_fit_is_said_with_what_helps(memory, portions, cure) -> None:
    stages = attrs.evolve(STAGES, portions=portions)
    found = peak_of(NEEDS, Division(), stages, device="cuda", memory=memory * GIB).described()
    if cure is None:
        assert "this device" not in found
    else:
        assert found.endswith(f"; more than the {memory}.0 GiB of this device: {cure}")


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

"""The peak of a step: its stages, how they are put together, and how it is said."""

from __future__ import annotations

import attrs
import pytest

from flowbp.training import Portions
from flowbp.training.division import GIB, Division, Needs
from flowbp.training.memory_stages import SWEEP, UPDATE
from flowbp.training.peak_memory import Stages, peak_of

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

"""A surrogate in characters and words: what the reward reads, and steps that two segments share."""

from __future__ import annotations

import attrs
import pytest
import torch

from flowbp.cli.run.overview import (
    drawing,
    extrapolated_text,
    joint_text,
    reward_input_text,
    weights_text,
)
from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    DRTune,
    LeapAlign,
    ReFL,
    Segment,
    Sparse,
    Surrogate,
    Variant,
    multistep,
)
from flowbp.training import TrainingSampling

GRID = torch.linspace(1, 0, 9)


def draw(method):
    return method.draw(GRID, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "method",
    [Sparse(), Bridge(), LeapAlign(), DRaFT(last=2), Variant(ReFL(last=3), reward_input="sample")],
)
def test_methods_that_read_the_sample(method):
    assert reward_input_text(draw(method)) == "the sample"


def test_copies_are_read_too():
    assert reward_input_text(draw(DRaFTLV(noised=3))) == "the sample, and 3 renoised copies of it"


@pytest.mark.parametrize(
    "method", [ReFL(last=1), DRTune(), Variant(LeapAlign(), reward_input="posterior_mean")]
)
def test_predictions_by_one_velocity(method):
    surrogate = draw(method)
    step = surrogate.segments[-1].start
    wanted = f"the sample as predicted at step {step} from the velocity of step {step}"
    assert reward_input_text(surrogate) == wanted


def test_predictions_by_many_velocities():
    surrogate = draw(Variant(Sparse(), reward_input="posterior_mean", quadrature=multistep))
    assert reward_input_text(surrogate).endswith(
        "at step 0 from the velocities of steps 0, 1, 2, 3, 4, 5, 6, 7"
    )
    last = Segment(0, 20, dict.fromkeys(range(20), -0.05), {3: 1.0})
    assert reward_input_text(Surrogate((last,), reward_input="posterior_mean")).endswith(
        "7 and 12 more"
    )


def test_supports_before_a_segment_are_drawn_where_they_are():
    early = Segment(2, 4, {2: -0.5, 1: 0.25}, {2: 1.0})
    late = Segment(4, 7, {4: -0.5, 3: 0.2, 0: 0.05}, {4: 1.0, 0: 1.0})
    assert drawing(Surrogate((early, late), alpha=0.5), 7) == "●·|●·|◆--|"
    assert drawing(Surrogate((late,)), 8) == "●  ·|●--| "


def test_extrapolated_velocities_are_counted():
    sampling = TrainingSampling(steps=8, guidance=1, height=8, width=8)
    surrogate = draw(DRaFT(last=2))
    assert not extrapolated_text(sampling, surrogate)
    # Of steps 2 to 5 every second one; the first two and the last two are needed.
    thinned = attrs.evolve(sampling, velocity_every=2)
    assert extrapolated_text(thinned, surrogate).startswith("; in training 2 of the velocities")


def test_a_surrogate_with_a_joint_is_drawn():
    early = Segment(1, 3, weights={1: -0.25, 2: -0.25}, active={2: 1.0})
    late = Segment(3, 5, weights={3: -0.5}, active={3: 0.25})
    surrogate = Surrogate((early, late), alpha=0.5)
    assert drawing(surrogate, 6) == " |·●|◆-| "
    assert joint_text(surrogate) == "joint at step 3, alpha 0.5"
    assert weights_text(surrogate) == "2: −0.2500, 3: −0.5000 x 0.250"
    assert joint_text(Surrogate((late,))) == "no joint, no Jacobian"

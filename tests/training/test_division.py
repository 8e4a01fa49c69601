"""How a model is divided so that it fits, from what it takes."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch import nn

from flowbp.training import AdamW, Averaging, Launch
from flowbp.training.division import GIB, ROOM, Division, Needs, chosen_division

NEEDS = Needs(
    weights=36 * GIB, gradients=36 * GIB, optimizer=72 * GIB, average=36 * GIB, largest=GIB
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 8, bias=False)])
        self.end = nn.Linear(8, 2, bias=False).to(torch.bfloat16)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_needs_are_counted_with_and_without_weights(device: str) -> None:
    net = Net().to(device)
    trained = {n: p for n, p in net.named_parameters() if n != "blocks.0.weight"}
    found = Needs.of(net, trained, AdamW(), Averaging())
    assert found == Needs(
        weights=4 * 48 + 2 * 16,
        gradients=4 * 32 + 2 * 16,
        # Two moments.
        optimizer=2 * (4 * 32 + 2 * 16),
        average=4 * 48,
        largest=4 * 32,
        saved=4 * 48 + 2 * 16,
    )
    # Parameters, moments, averages, and all of the model to use.
    assert found.copy == 160 + 320 + 192 + 224
    assert Needs.of(net, trained, AdamW(), None).average == 0


def test_the_anchor_s_reference_is_whole_on_every_device() -> None:
    needs = attrs.evolve(NEEDS, reference=18 * GIB)
    for each in (Division(), Division(8), Division(8, keep=False)):
        assert each.total(needs) == each.total(NEEDS) + 18 * GIB
        assert "18.0 GiB of the anchor's reference" in each.described(needs, 8)


def test_shards_are_smaller_and_a_step_has_the_whole() -> None:
    assert Division().total(NEEDS) == 180 * GIB
    assert Division(8).total(NEEDS) == (36 + 72 + 36) * GIB // 8 + 72 * GIB
    assert Division(8, keep=False).total(NEEDS) == 180 * GIB // 8 + 3 * GIB


@pytest.mark.parametrize(
    ("size", "local", "memory", "expected"),
    [
        (8, 8, None, Division(1)),
        (8, 8, 300, Division(1)),
        (8, 8, 150, Division(8)),
        (16, 8, 150, Division(8)),
        (2, 2, 140, Division(2, keep=False)),
        (16, 8, 60, Division(8, keep=False)),
        (16, 8, 30, Division(16, keep=False)),
        # The last resort, whether it fits or not.
        (2, 2, 10, Division(2, keep=False)),
        (1, 1, 10, Division(1)),
        (6, 4, 150, Division(6)),
    ],
)
def test_as_little_is_divided_as_fits(size, local, memory, expected) -> None:
    launch = Launch(0, size, 0, local)
    found = chosen_division("auto", NEEDS, launch, None if memory is None else memory * GIB)
    assert found == expected
    if memory is not None and memory > 20 and size > 1:
        assert found.total(NEEDS) <= ROOM * memory * GIB


def test_a_number_is_taken_as_it_is() -> None:
    launch = Launch(0, 8, 0, 8)
    assert chosen_division(2, NEEDS, launch, None) == Division(2)
    assert chosen_division(2, NEEDS, launch, 150 * GIB) == Division(2, keep=False)
    assert chosen_division(1, NEEDS, launch, GIB) == Division(1)


def test_it_is_said_in_words() -> None:
    assert Division().described(NEEDS, 1) == (
        "36.0 GiB of weights, 36.0 GiB of gradients, 72.0 GiB of optimizer state, 36.0 GiB of "
        "averages; besides activations, the decoder and the reward"
    )
    assert "on each process 18.0 GiB of shards, 36.0 GiB of a step's weights" in (
        Division(8).described(NEEDS, 8)
    )
    assert Division(4).shared(8) == "each 4 of which share one of 2 models, gathered once a step"
    assert Division(8, keep=False).shared(8) == "which share one model, gathered block by block"

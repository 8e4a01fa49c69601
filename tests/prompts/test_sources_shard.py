"""Shares of a stream: together everything, apart nothing in common, always the same."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from flowbp.prompts import ShapesPrompts, Shard, ShardedPrompts
from flowbp.training import PromptList


def drawn(source, rank, world, count, seed=0):
    stream = ShardedPrompts(source, Shard(rank, world)).stream(torch.Generator().manual_seed(seed))
    return list(islice(stream, count))


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [7, 12])
def test_shares_are_a_partition_of_every_epoch(world, size):
    source = PromptList([f"prompt {i}" for i in range(size)])
    shares = [drawn(source, rank, world, 2 * size) for rank in range(world)]
    dealt = [shares[i % world][i // world] for i in range(2 * size)]
    assert sorted(dealt[:size]) == sorted(source.texts) == sorted(dealt[size:])


def test_together_they_draw_what_one_process_draws():
    source = ShapesPrompts()
    whole = drawn(source, 0, 1, 24, seed=3)
    for world in (2, 4):
        shares = [drawn(source, rank, world, 24 // world, seed=3) for rank in range(world)]
        assert [p for turn in zip(*shares, strict=True) for p in turn] == whole


def test_shares_are_deterministic():
    source = PromptList(list("abcdef"))
    assert drawn(source, 1, 2, 9) == drawn(source, 1, 2, 9) != drawn(source, 1, 2, 9, seed=1)


def test_the_environment_is_that_of_torchrun():
    assert Shard.from_environment({}) == Shard(0, 1)
    assert Shard.from_environment({"RANK": "2", "WORLD_SIZE": "3"}) == Shard(2, 3)


@pytest.mark.parametrize(
    "environment",
    [
        {"RANK": "1"},
        {"WORLD_SIZE": "2"},
        {"RANK": "x", "WORLD_SIZE": "2"},
        {"RANK": "2", "WORLD_SIZE": "2"},
        {"RANK": "-1", "WORLD_SIZE": "2"},
    ],
)
def test_half_an_environment_is_refused(environment):
    with pytest.raises(ValueError, match=r"RANK and WORLD_SIZE must be .*unset both"):
        Shard.from_environment(environment)

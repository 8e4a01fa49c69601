"""What compiled blocks keep, against counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowbp.training.compiled_memory import CompiledMemory
from flowbp.training.device_rules import DeviceRules
from flowbp.training.live_memory import LiveMemory


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        # Of the gelu's input and output, 512 bytes each, a product reads the output.
        (1.0, 1024),
        # The input is enough for both.
        (0.5, 512),
        (0.75, 512),
        # There is no half of it.
        (0.25, 0),
        (0.0, 0),
    ],
)
def test_compiled_code_keeps_the_cheapest_that_its_share_has_room_for(share, kept) -> None:
    block = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)).to("meta")
    x = torch.empty(4, 8, device="meta", requires_grad=True)
    live, rules = LiveMemory([*block.parameters(), x]), DeviceRules("cuda")
    compiled = CompiledMemory(live, rules, {block: share})
    with rules.active(), compiled(), live:
        found = block(x)
        assert live.now - live.block_of(found).size == kept
        # What is computed again is there in the backward pass.
        found.sum().backward()
    assert live.peak >= kept
    assert "forward" not in vars(block)
    plain = LiveMemory([*block.parameters(), x])
    with rules.active(), plain:
        found = block(x)
    assert plain.now - plain.block_of(found).size == 1024

"""What the fingerprint of a frozen model sees, and what it does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from flowbp.training.restore import frozen_fingerprint


def network(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    layers.register_buffer("computed", torch.zeros(2), persistent=False)
    return layers.to(dtype)


def of(module: nn.Module, *trained: torch.Tensor) -> str:
    return frozen_fingerprint(module, trained)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_equal_networks_have_equal_ones(dtype):
    assert of(network(dtype)) == of(network(dtype))


def test_dtype_shape_and_name_count():
    other = network()
    other[2] = nn.Linear(4, 4, bias=False)
    renamed = nn.Sequential(*reversed(list(network())))
    found = [of(network()), of(network(torch.bfloat16)), of(other), of(renamed)]
    assert len(set(found)) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_bit_counts(dtype):
    changed = network(dtype)
    with torch.no_grad():
        weight = changed[2].weight
        weight[1, 2] = torch.nextafter(weight[1, 2], torch.tensor(9, dtype=dtype))
    assert of(changed) != of(network(dtype))


def test_saved_buffers_count_and_computed_ones_do_not():
    buffered, computed = network(), network()
    buffered[1].running_mean += 1
    computed.computed += 1
    assert of(buffered) != of(network()) == of(computed)


def test_what_is_trained_does_not_count_however_often_it_is_there():
    tied, changed = network(), network()
    for module in (tied, changed):
        module.register_parameter("again", nn.Parameter(torch.zeros(4, 4)))
        module[2].weight = module.again
    with torch.no_grad():
        changed.again += 1
    assert of(tied) != of(changed)
    assert of(tied, tied.again) == of(changed, changed.again)


def test_layout_in_memory_does_not_count():
    turned = network()
    with torch.no_grad():
        turned[0].weight.data = turned[0].weight.data.t().contiguous().t()
    assert of(turned) == of(network())

"""What stands in for autocast and attention, against torch's own on the CPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowbp.training.device_rules import DeviceRules


def test_products_are_in_less_precision_and_weights_are_cast_once() -> None:
    layer, before = nn.Linear(4, 4).to("meta"), torch.autocast
    rules, x = DeviceRules("cuda"), torch.empty(2, 4, device="meta")
    with rules.active():
        with torch.autocast("meta", dtype=torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
            assert F.layer_norm(layer(x), (4,)).dtype == torch.float32
            # Of weight and bias.
            assert len(rules.cast_weights) == 2
            with torch.autocast("meta", enabled=False):
                assert layer(x).dtype == torch.float32
        assert not rules.cast_weights
        assert layer(x).dtype == torch.float32
    assert torch.autocast is before


def test_it_is_known_by_torch_s_other_name_and_as_a_decorator() -> None:
    layer, before = nn.Linear(4, 4).to("meta"), torch.amp.autocast
    rules, x = DeviceRules("cuda"), torch.empty(2, 4, device="meta")
    with rules.active():

        @torch.amp.autocast("meta", dtype=torch.bfloat16)
        def product(times: int = 0) -> torch.Tensor:
            if times:
                product(times - 1)
            return layer(x)

        assert product().dtype == product(2).dtype == torch.bfloat16
        assert layer(x).dtype == torch.float32
        with torch.autocast("meta"), torch.amp.autocast("cuda", enabled=False):
            assert layer(x).dtype == torch.float32
    assert torch.amp.autocast is before
    assert rules.depth == 0
    cpu = DeviceRules("cpu")
    with cpu.active(), torch.autocast("meta"), torch.amp.autocast("cuda", enabled=False):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "dtype"),
    [("cpu", torch.float32), ("cuda", torch.bfloat16), ("cuda", torch.float32)],
)
def test_attention_is_one_kernel_that_keeps_no_square(device, dtype) -> None:
    q = torch.empty(2, 3, 40, 16, device="meta", dtype=dtype, requires_grad=True)
    shapes = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(t.shape), list)
    with DeviceRules(device).active(), hooks:
        found = F.scaled_dot_product_attention(q, q, q)
    assert found.shape == q.shape
    assert shapes and not any(shape[-2:] == (40, 40) for shape in shapes)


def test_tensors_with_data_are_left_to_torch() -> None:
    q = torch.randn(1, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    plain = F.scaled_dot_product_attention(q, q, q)
    with DeviceRules("cuda").active():
        assert torch.equal(F.scaled_dot_product_attention(q, q, q), plain)

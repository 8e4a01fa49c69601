"""Assigning weights, and building networks whose own are not drawn."""

from __future__ import annotations

import torch
from torch import nn

from flowbp.rewards.assigning import assign, unfilled


def test_assigned_tensors_take_the_modules_dtype(tmp_path):
    linear = nn.Linear(1, 2, dtype=torch.bfloat16)
    tensors = {"weight": torch.ones(2, 1), "bias": torch.ones(2)}
    assign(linear, tensors, path=tmp_path, what="a head")
    assert linear.weight.dtype == torch.bfloat16
    assert linear.weight.sum() == 2


def test_only_parameters_are_left_unfilled():
    class Buffered(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((2,), 3.0))
            nn.init.zeros_(self.weight)
            self.weight.requires_grad_(False)
            self.register_buffer("counts", torch.zeros(2).add_(1))

    with unfilled(torch.float64):
        module = Buffered()
    assert module.weight.tolist() == [3.0, 3.0]
    assert module.weight.dtype == torch.float64
    assert not module.weight.requires_grad
    assert module.counts.tolist() == [1.0, 1.0]
    assert torch.get_default_dtype() == torch.float32

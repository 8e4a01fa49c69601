"""A gradient with a fault, for tests that must find it."""

from __future__ import annotations

import torch


class Altered(torch.autograd.Function):
    """The same, with a fault in the gradient."""

    @staticmethod
    def forward(ctx, heads, fault):
        ctx.fault = fault
        return heads.view_as(heads)

    @staticmethod
    def backward(ctx, gradient):
        return ctx.fault(gradient), None

"""A right kernel is within the limits of a trial, whatever the shape, and a wrong one is not."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as right

from flowbp.adapters.attention_trial import (
    AttentionCall,
    Trial,
    by_position,
    exact_attention,
    layouts,
)

from .altered import Altered

CPU = torch.device("cpu")


def rounding_once(query, key, value):
    """As kernels of GPUs do: float32 inside, the output rounded, and read again in the backward."""
    return Fused.apply(query, key, value)


class Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v):
        shares = (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(-1)
        out = (shares @ v.float()).to(q.dtype)
        ctx.save_for_backward(q, k, v, out, shares)
        return out

    @staticmethod
    def backward(ctx, gradient):
        q, k, v, out, shares = (each.float() for each in ctx.saved_tensors)
        g = gradient.float()
        scores = shares * (g @ v.mT - (g * out).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5
        found = scores @ k, scores.mT @ q, shares.mT @ g
        return tuple(each.to(gradient.dtype) for each in found)


def plain(query, key, value):
    """By products of matrices that are rounded each."""
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1) @ value


RIGHT = {"torch": right, "rounding_once": rounding_once, "plain": plain}


@pytest.mark.parametrize("kernel", RIGHT.values(), ids=RIGHT)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keys", [1, 2, 3, 5, 77])
@pytest.mark.parametrize("queries", [1, 333])
def test_a_right_kernel_is_within_the_limits(queries, keys, dtype, kernel):
    """In the sizes of a model's heads, so that no right kernel is lost."""
    call = AttentionCall((1, 2, queries, 64), keys, dtype, CPU, gradient=True)
    assert Trial(call).fault(kernel) == ""


def of_changed(number, change):
    """A kernel whose gradient of its queries (0), keys or values is changed."""

    def kernel(*inputs):
        return right(
            *(Altered.apply(x, change) if i == number else x for i, x in enumerate(inputs))
        )

    return kernel


def test_a_gradient_that_is_not_nothing_is_wrong_for_one_key():
    """Where the right one is 0, so that it has no size to compare with."""
    trial = Trial(AttentionCall((1, 2, 33, 64), 1, torch.bfloat16, CPU, gradient=True))
    assert trial.fault(of_changed(0, torch.zeros_like)) == ""
    for number, name in enumerate(("queries", "keys")):
        assert name in trial.fault(of_changed(number, lambda gradient: gradient + 1))
    assert "values" in trial.fault(of_changed(2, torch.zeros_like))


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("keys", [2, 77, 1000])
def test_a_gradient_of_another_size_is_wrong(keys, number):
    trial = Trial(AttentionCall((1, 2, 33, 64), keys, torch.bfloat16, CPU, gradient=True))
    assert trial.fault(of_changed(number, lambda gradient: gradient * 1.1)).startswith("is off by ")


def test_exact_attention_is_that_of_float64():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, n, 8, generator=generator) for n in (5, 7, 7)]
    cotangent = torch.randn(2, 3, 5, 8, generator=generator)
    found = exact_attention(inputs, cotangent, gradient=True)
    leaves = [each.double().requires_grad_() for each in inputs]
    out = right(*leaves)
    gradients = torch.autograd.grad(out, leaves, cotangent.double())
    for ours, exact in zip(found, (out, *gradients), strict=True):
        torch.testing.assert_close(ours, exact.float(), rtol=1e-4, atol=1e-5)


def test_incoming_gradients_differ_in_strides_alone():
    cotangent = by_position(torch.randn(2, 3, 5, 8))
    found = layouts(cotangent)
    assert all(torch.equal(each, cotangent) for each in found)
    assert len({each.stride() for each in found}) == 3
    assert {by_position(each).stride() for each in found} == {cotangent.stride()}

"""Waits of the host are seen: on tensors without data, and by what torch reports of CUDA."""

from __future__ import annotations

import warnings

import pytest
import torch

from benchmarks.device_waits import host_waits


@pytest.mark.parametrize(
    ("fetch", "answer"),
    [
        (lambda x: x.sum().item(), 1.0),
        (lambda x: bool((x > 0).all()), True),
        (lambda x: int(x.argmax()), 1),
        (lambda x: x.tolist(), [1.0, 1.0]),
        (lambda x: x.cpu().sum().item(), 2.0),
        (lambda x: torch.empty(2).copy_(x).tolist(), [1.0, 1.0]),
        (lambda x: torch.equal(x, x + 1), True),
        (lambda x: torch.ones(2).to(x.device).is_meta, True),
        (lambda x: x.copy_(torch.zeros(2)).is_meta, True),
        (lambda x: torch.tensor([1.0, 2.0], device=x.device).is_meta, True),
        (lambda x: torch.as_tensor((1.0, 2.0), device="meta").is_meta, True),
        (lambda x: torch.as_tensor(torch.ones(2), device="meta").is_meta, True),
    ],
)
def test_what_needs_data_is_counted_and_answered(fetch, answer):
    x = torch.zeros(2, device="meta")
    with host_waits("meta") as waits:
        assert fetch(x) == answer
    assert waits.total() == 1


def test_what_stays_on_one_side_or_does_not_wait_is_not_counted():
    x, sigmas = torch.zeros(3, device="meta"), torch.linspace(1, 0, 3)
    with host_waits("meta") as waits:
        y = x * float(sigmas[1]) + sigmas[2] * x.double()
        y = torch.where(y > 0, y, x).sum() + torch.full((3,), sigmas[0].item(), device="meta")
        sigmas.to(torch.float64).tolist(), torch.equal(sigmas, sigmas)
        sigmas.to("meta", non_blocking=True)
        y.copy_(torch.ones(3), non_blocking=True)
    assert y.is_meta and not waits


def test_backward_passes_are_seen_too():
    class Asking(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * gradient.sum().item()

    x = torch.zeros(2, device="meta", requires_grad=True)
    with host_waits("meta") as waits:
        Asking.apply(x).sum().backward()
    assert waits.total() == 1 and x.grad.is_meta


def test_a_shape_made_of_data_is_torch_s_error():
    with pytest.raises(NotImplementedError, match="nonzero"), host_waits("meta"):
        torch.zeros(2, device="meta").nonzero()


def test_what_torch_tells_of_cuda_is_counted_however_often_and_all_else_is_passed_on(monkeypatch):
    modes = []
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.warns(UserWarning, match="another matter") as passed, host_waits("cuda") as waits:
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", UserWarning, stacklevel=1)
        warnings.warn("another matter", UserWarning, stacklevel=1)
    assert waits.total() == 3 and len(passed) == 1
    assert modes == ["warn", 0]


def test_a_device_that_tells_nothing_is_refused():
    with (
        pytest.raises(ValueError, match=r"`device` must be a CUDA device or 'meta', got 'cpu'"),
        host_waits("cpu"),
    ):
        pass

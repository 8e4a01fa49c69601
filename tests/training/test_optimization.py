from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flowbp.training import AdamW
from flowbp.training.optimization import (
    clip_gradients,
    gradient_norm,
    state_bytes,
    warn_of_coarse_weights,
)


def parameters(*gradients: list[float] | None) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        if gradient is not None:
            parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        made.append(parameter)
    return made


def test_norm_is_over_all_gradients_together() -> None:
    assert gradient_norm(parameters([1, 2], None, [2, 4])).item() == pytest.approx(5)
    assert gradient_norm(parameters(None)).item() == 0


def test_clipping_scales_to_the_largest_norm_and_keeps_the_direction() -> None:
    clipped = parameters([1, 2], None, [2, 4])
    clip_gradients(clipped, gradient_norm(clipped), 0.5)
    assert clipped[0].grad.tolist() == pytest.approx([0.1, 0.2])
    assert clipped[2].grad.tolist() == pytest.approx([0.2, 0.4])
    assert clipped[1].grad is None


@pytest.mark.parametrize("gradient", [[0.3, 0.4], [0, 0]])
def test_small_gradients_are_left_bit_for_bit(gradient: list[float]) -> None:
    clipped = parameters(gradient)
    before = clipped[0].grad.clone()
    clip_gradients(clipped, gradient_norm(clipped), 1.0)
    assert torch.equal(clipped[0].grad, before)


def test_adamw_hands_its_numbers_on() -> None:
    recipe = AdamW(1e-3, betas=[0.8, 0.9], weight_decay=0.1, eps=1e-6)
    defaults = recipe.build(parameters([1, 1])).defaults
    expected = {"lr": 1e-3, "betas": (0.8, 0.9), "weight_decay": 0.1, "eps": 1e-6}
    assert {name: defaults[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("places", "fused"), [([True, True], True), ([True, False], None), ([False], None)]
)
def test_adamw_is_one_kernel_where_all_parameters_are_on_cuda(
    monkeypatch: pytest.MonkeyPatch, places: list[bool], fused: bool | None
) -> None:
    seen = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda params, **kw: seen.append((params, kw)))
    trained = [SimpleNamespace(is_cuda=place) for place in places]
    AdamW().build(iter(trained))
    ((given, options),) = seen
    assert given == trained
    assert options["fused"] is fused


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"learning_rate": 0}, "learning_rate"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"betas": (0.9,)}, "betas"),
        ({"weight_decay": -1}, "weight_decay"),
        ({"eps": 0}, "eps"),
    ],
)
def test_illegal_adamw_is_refused(arguments: dict, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        AdamW(**arguments)


def test_the_state_of_an_optimizer_is_foreseen() -> None:
    assert state_bytes(AdamW(), [nn.Parameter(torch.zeros(1000))]) == 8000


def test_only_coarse_weights_are_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_coarse_weights({"weight": nn.Parameter(torch.zeros(2))}, 1e-5)
    coarse = {"weight": nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))}
    with pytest.warns(UserWarning, match="1 of 1 trainable parameters are bfloat16"):
        warn_of_coarse_weights(coarse, 1e-5)

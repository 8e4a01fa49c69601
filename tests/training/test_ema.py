from __future__ import annotations

import pytest
import torch
from torch import nn

from flowbp.training import Averaging


def weight(dtype: torch.dtype = torch.float64) -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -2.0, 1 / 3]).to(dtype))


@pytest.mark.parametrize("warmup", [False, True])
def test_average_is_the_weighted_sum_of_all_values(warmup: bool) -> None:
    parameter, averaging = weight(), Averaging(0.3, warmup=warmup)
    average = averaging.of({"w": parameter})
    expected = parameter.detach().clone()
    for update in range(5):
        parameter.data = torch.randn(3, dtype=torch.float64)
        average.update()
        decay = min(0.3, (1 + update) / (10 + update)) if warmup else 0.3
        expected = decay * expected + (1 - decay) * parameter.detach()
    torch.testing.assert_close(average.shadow["w"], expected, rtol=1e-14, atol=1e-15)


def test_warmup_ends_at_the_decay() -> None:
    averaging = Averaging(0.5, warmup=True)
    assert averaging.decay_at(0) == pytest.approx(0.1)
    assert averaging.decay_at(7) == pytest.approx(8 / 17)
    assert averaging.decay_at(8) == 0.5 == averaging.decay_at(1000)


def test_decay_zero_follows_the_parameters() -> None:
    parameter = weight()
    average = Averaging(0.0).of({"w": parameter})
    parameter.data.add_(1)
    average.update()
    assert torch.equal(average.shadow["w"], parameter.detach())


@pytest.mark.parametrize(
    ("dtype", "shadow"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_swap_restores_bit_for_bit(dtype: torch.dtype, shadow: torch.dtype) -> None:
    parameter = weight(dtype)
    average = Averaging(0.9).of({"w": parameter})
    start = parameter.detach().clone()
    parameter.data.mul_(1.7)
    trained = parameter.detach().clone()
    assert average.shadow["w"].dtype == shadow
    with average.swapped():
        assert torch.equal(parameter.detach(), start)
        assert parameter.dtype == dtype
    assert torch.equal(parameter.detach(), trained)


def test_swap_restores_after_an_exception() -> None:
    parameter = weight()
    average = Averaging(0.9).of({"w": parameter})
    parameter.data.mul_(1.7)
    trained = parameter.detach().clone()
    with pytest.raises(RuntimeError, match="inside"), average.swapped():
        raise RuntimeError("inside")
    assert torch.equal(parameter.detach(), trained)


def test_small_steps_of_bfloat16_parameters_are_not_lost() -> None:
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    average = Averaging(0.999).of({"w": parameter})
    parameter.data.fill_(2.0)
    for _ in range(100):
        average.update()
    assert average.shadow["w"].item() == pytest.approx(2 - 0.999**100, rel=1e-5)


def test_average_can_take_over() -> None:
    parameter = weight()
    average = Averaging(0.9).of({"w": parameter})
    parameter.data.mul_(3)
    average.update()
    average.copy_to_parameters()
    assert torch.equal(parameter.detach(), average.shadow["w"])
    assert parameter.requires_grad


@pytest.mark.parametrize("decay", [1, 1.5, -0.1, "0.9"])
def test_illegal_decay_is_refused(decay: object) -> None:
    with pytest.raises(ValueError, match="`decay` must be"):
        Averaging(decay)

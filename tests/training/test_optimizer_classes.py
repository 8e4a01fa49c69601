from __future__ import annotations

import attrs
import pytest
import torch
from torch import nn

from flowbp.training import AdamW, OptimizerClass, Snapshots
from flowbp.training.optimization import at_rate, state_bytes
from flowbp.training.optimizer_classes import set_rate

from .fakes import FakeBackbone, Recorder, make_step, make_trainer, same


class TrainMode(torch.optim.SGD):
    """Steps in its training mode only; the average that it keeps is half of the parameters."""

    mode = "none"

    def train(self) -> None:
        self.mode = "train"

    @torch.no_grad()
    def eval(self) -> None:
        if self.mode == "train":
            self.mode = "eval"
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(0.5)

    def step(self, closure=None):
        if self.mode != "train":
            raise RuntimeError("not in train mode")
        return super().step(closure)


class Rateless(torch.optim.SGD):
    def __init__(self, params, scale=2):
        super().__init__(params, lr=0.01 * scale)


def test_arguments_reach_the_class_under_its_own_names() -> None:
    recipe = OptimizerClass(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    built = recipe.build([nn.Parameter(torch.zeros(2))])
    assert type(built) is torch.optim.SGD
    assert (built.defaults["lr"], built.defaults["momentum"]) == (0.1, 0.9)
    assert recipe.learning_rate == 0.1 and OptimizerClass(torch.optim.SGD).learning_rate == 1e-3


def test_the_trainer_takes_the_rate_of_the_class() -> None:
    recorder, one, other = Recorder(), FakeBackbone(), FakeBackbone()
    recipe = OptimizerClass(torch.optim.AdamW, {"lr": 1e-2, "weight_decay": 1e-4})
    make_trainer(make_step(backbone=one), optimizer=recipe, observers=[recorder]).run()
    make_trainer(make_step(backbone=other), optimizer=AdamW(1e-2)).run()
    assert same(one.state(), other.state())
    assert {row.learning_rate for row in recorder.rows} == {1e-2}


def test_a_rate_is_set_where_it_stands() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=0.1)
    tensor = optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    set_rate(optimizer, 0.25)
    assert tensor == 0.25 and optimizer.param_groups[0]["lr"] is tensor
    del optimizer.param_groups[0]["lr"]
    set_rate(optimizer, 0.25)
    assert "lr" not in optimizer.param_groups[0]


def test_a_recipe_at_another_rate() -> None:
    assert at_rate(AdamW(1e-3, eps=1e-6), 0.5) == AdamW(0.5, eps=1e-6)
    found = at_rate(OptimizerClass(torch.optim.SGD, {"momentum": 0.9}), 0.5)
    assert found == OptimizerClass(torch.optim.SGD, {"momentum": 0.9, "lr": 0.5})
    assert at_rate(OptimizerClass(Rateless), 0.5) == OptimizerClass(Rateless)


def test_who_finds_its_rate() -> None:
    assert not OptimizerClass(torch.optim.SGD).finds_rate
    assert OptimizerClass(torch.optim.Adadelta).finds_rate
    assert OptimizerClass(Rateless).finds_rate and not OptimizerClass(Rateless).has_rate
    assert OptimizerClass(Rateless).learning_rate == 1


@pytest.mark.parametrize(
    ("target", "arguments", "match"),
    [
        (torch.optim.SGD, {"lr": -1.0}, r"`lr` is -1.0, which torch.optim.sgd:SGD refuses: Inv"),
        (
            torch.optim.SGD,
            {"weight_decay": -2.0, "momentum": -1.0},
            r"`momentum` is -1.0, .*; `weight_decay` is -2.0, ",
        ),
        (torch.optim.SGD, {"nesterov": True}, "`nesterov` is True, .*Nesterov momentum requires"),
        (torch.optim.SGD, {"rate": 1}, "refuses these keys: .*unexpected keyword argument 'rate'"),
        (torch.optim.LBFGS, {}, "cannot take a step along a gradient .*'closure'"),
        (torch.optim.SparseAdam, {}, "cannot take a step .* does not support dense gradients"),
    ],
)
def test_what_a_class_refuses_is_told_by_key(target, arguments, match) -> None:
    with pytest.raises(ValueError, match=match):
        OptimizerClass(target, arguments)


def test_an_average_of_the_optimizers_own_is_sampled_and_kept_from_the_training() -> None:
    recorder, one, other = Recorder(), FakeBackbone(), FakeBackbone()
    parts = {"optimizer": OptimizerClass(TrainMode, {"lr": 0.1}), "averaging": None}
    shown = Snapshots(["red"], 2)
    make_trainer(make_step(backbone=one), observers=[recorder], snapshots=shown, **parts).run()
    plain = Recorder()
    parts["optimizer"] = OptimizerClass(torch.optim.SGD, {"lr": 0.1})
    make_trainer(make_step(backbone=other), observers=[plain], snapshots=shown, **parts).run()
    rows = [[attrs.evolve(row, seconds=0) for row in each.rows] for each in (recorder, plain)]
    assert rows[0] == rows[1]
    assert same(one.state(), {name: each * 0.5 for name, each in other.state().items()})
    pairs = zip(recorder.shown, plain.shown, strict=True)
    assert not any(torch.equal(mine[1], theirs[1]) for mine, theirs in pairs)


def test_quantised_state_is_measured_by_what_it_takes() -> None:
    optim = pytest.importorskip("torchao.optim", reason="the extra `optimizers` is not installed")
    weights = torch.zeros(1000, 1000)
    found = state_bytes(OptimizerClass(optim.AdamW8bit), [weights])
    assert 2 * weights.numel() < found < 2.5 * weights.numel()

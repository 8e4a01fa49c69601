"""The optimizer check passes on sound optimizers, and finds each fault of a broken one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from prodigyopt import Prodigy
from schedulefree import AdamWScheduleFree

from flowbp.testing import check_optimizer
from flowbp.training import AdamW, OptimizerClass


@pytest.mark.parametrize(
    "recipe",
    [
        AdamW(learning_rate=1e-3),
        OptimizerClass(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        OptimizerClass(torch.optim.Adafactor),
        OptimizerClass(torch.optim.RMSprop),
        OptimizerClass(AdamWScheduleFree, {"lr": 1e-3}),
        OptimizerClass(Prodigy),
    ],
    ids=lambda recipe: getattr(recipe, "target", type(recipe)).__name__,
)
def test_a_sound_optimizer_passes(recipe):
    check_optimizer(recipe)


@attrs.frozen
class Recipe:
    """What a test builds."""

    build: Callable[[Any], Any]
    learning_rate: float = 0.1


class Descent(torch.optim.Optimizer):
    """Gradient descent; `update` may be another's."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})
        self.taken = 0

    @torch.no_grad()
    def step(self, closure=None):
        self.taken += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self.update(parameter, group)

    def update(self, parameter, group):
        parameter.sub_(group["lr"] * parameter.grad)


def test_descent_passes():
    check_optimizer(Recipe(Descent))


class NeedsClosure(Descent):
    def step(self, closure):
        closure()


class NeedsGradients(Descent):
    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.update(parameter, group)


class Normalised(Descent):
    def update(self, parameter, group):
        parameter.sub_(group["lr"] * parameter.grad / parameter.grad.norm())


class Idle(Descent):
    def update(self, parameter, group):
        pass


class FirstOnly(Descent):
    def update(self, parameter, group):
        if parameter.ndim > 1:
            super().update(parameter, group)


class Diverging(Descent):
    def update(self, parameter, group):
        parameter.mul_(1e30)


class OwnRate(Descent):
    """Reads its rate once."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, lr)
        self.rate = lr

    def update(self, parameter, group):
        parameter.sub_(self.rate * parameter.grad)


class OwnRateOfVectors(OwnRate):
    def update(self, parameter, group):
        rate = group["lr"] if parameter.ndim > 1 else self.rate
        parameter.sub_(rate * parameter.grad)


class Switched(OwnRate):
    """Stands still at the rate 0, and knows no other than its own."""

    def update(self, parameter, group):
        if group["lr"]:
            super().update(parameter, group)


class Counting(Descent):
    """A step counter that no state has."""

    def update(self, parameter, group):
        parameter.sub_(group["lr"] / self.taken * parameter.grad)


class Momentum(Descent):
    """A moment beside the state."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, lr)
        self.moments = {}

    def update(self, parameter, group):
        moment = self.moments.get(parameter, torch.zeros_like(parameter)) + parameter.grad
        self.moments[parameter] = moment
        parameter.sub_(group["lr"] * moment)


class Odd(Descent):
    """A state that no file without pickles holds."""

    def update(self, parameter, group):
        self.state[parameter]["seen"] = {1, 2}
        super().update(parameter, group)


class Noisy(Descent):
    def update(self, parameter, group):
        parameter.sub_(group["lr"] * (parameter.grad + NOISE()))


def NOISE():
    return torch.rand((), generator=GENERATOR)


GENERATOR = torch.Generator()


class Stuck(Descent):
    def load_state_dict(self, state_dict):
        raise KeyError("moments")


def in_groups_of_own_rates(parameters):
    first, *others = parameters
    return Descent([{"params": [first], "lr": 0.01}, {"params": others}])


def looped_twice(parameters):
    matrices = [each for each in parameters if each.ndim > 1]
    vectors = [each for each in parameters if each.ndim == 1]
    return Descent([{"params": matrices}, {"params": vectors}])


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(Descent, learning_rate=0), "`learning_rate` must be a finite number above 0"),
        (Recipe(Descent, learning_rate=None), "`learning_rate` must be a finite number above 0"),
        (Recipe(list), "`build` must return a torch.optim.Optimizer, got a list"),
        (Recipe(lambda p: Descent([next(p)])), "each of the 2 parameters into one group, got 1 in"),
        (Recipe(looped_twice), "each of the 2 parameters into one group, got 1 in 2 groups"),
        (Recipe(in_groups_of_own_rates), "have the rate `learning_rate`, 0.1, got 0.01, 0.1"),
        (Recipe(lambda p: Descent(p, lr=0.2)), "have the rate `learning_rate`, 0.1, got 0.2"),
        (
            Recipe(NeedsClosure),
            r"`step\(\)` must take gradients without a closure, and raised Type",
        ),
        (Recipe(NeedsGradients), "raised TypeError: unsupported operand"),
        (Recipe(Normalised), "after a step along a gradient of zero` must be finite"),
        (Recipe(Idle), "must change every parameter .* shape \\(4, 3\\) unchanged"),
        (Recipe(FirstOnly), "must change every parameter .* shape \\(5,\\) unchanged"),
        (Recipe(Diverging), "`a parameter after a step` must be finite"),
        (Recipe(OwnRate), "must follow the rate that a schedule sets"),
        (Recipe(OwnRateOfVectors), r"same steps of the parameter of shape \(5,\) at half of it"),
        (Recipe(Switched), r"same steps of the parameter of shape \(4, 3\) at half of it or at 0"),
        (
            Recipe(lambda p: Descent(p, 1e-12), learning_rate=1e-12),
            "unchanged; .* a `learning_rate` whose steps float32 rounds away",
        ),
        (Recipe(Counting), "go on from its saved state .*, got parameters that differ by"),
        (Recipe(Momentum), "go on from its saved state .*, got parameters that differ by"),
        (Recipe(Odd), "fit for a checkpoint: .*got set"),
        (Recipe(Noisy), "the same steps when it is built anew"),
        (Recipe(Stuck), "`load_state_dict` must take what `state_dict` gave, and raised KeyError"),
    ],
)
def test_a_fault_is_found_and_named(recipe, message):
    with pytest.raises(AssertionError, match=message):
        check_optimizer(recipe)


def test_shapes_may_be_those_that_it_takes():
    class Matrices(Descent):
        def __init__(self, parameters, lr=0.1):
            super().__init__(parameters, lr)
            if any(each.ndim != 2 for group in self.param_groups for each in group["params"]):
                raise ValueError("takes matrices only")

    check_optimizer(Recipe(Matrices), shapes=[(4, 3), (2, 2)])
    with pytest.raises(AssertionError, match="`build` raised ValueError: takes matrices only"):
        check_optimizer(Recipe(Matrices))
    with pytest.raises(ValueError, match="`shapes` must be at least 2, got 1"):
        check_optimizer(Recipe(Matrices), shapes=[(4, 3)])
    with pytest.raises(
        ValueError, match=r"`shapes` must be .* with entries, got \[\(4, 3\), \(0,\)\]"
    ):
        check_optimizer(Recipe(Descent), shapes=[(4, 3), (0,)])
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        check_optimizer(Recipe(Descent), steps=0)


def test_torchs_own_generator_stays():
    state = torch.get_rng_state()
    check_optimizer(AdamW(learning_rate=1e-3))
    assert torch.equal(torch.get_rng_state(), state)

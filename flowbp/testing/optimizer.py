"""Conformance of optimizers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .assertions import assert_finite

if TYPE_CHECKING:
    from flowbp.training import OptimizerRecipe


def check_optimizer(
    recipe: OptimizerRecipe,
    *,
    shapes: Sequence[tuple[int, ...]] = ((4, 3), (5,)),
    steps: int = 3,
    device: torch.device | str = "cpu",
    seed: int = 0,
) -> None:
    """Assert that a run can train with an optimizer, and go on with it from a checkpoint.

    What is built holds every parameter once, in groups whose rate is `learning_rate`; its step
    takes no closure, changes the parameters, follows the rate that a schedule sets, and stays
    finite where gradients are zero or absent. Two that are built alike take the same steps, and
    one that is built anew and given the state of another, as a checkpoint holds it, goes on with
    the very same steps, bit for bit.

    Args:
        recipe: to be checked.
        shapes: of the parameters, two or more.
        steps: taken before the state is saved, and after.
        device: of the parameters.
        seed: of parameters and gradients, and of what the optimizer draws from torch's generator.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from flowbp.training import AdamW
        >>> check_optimizer(AdamW(learning_rate=1e-3))
    """
    if len(shapes) < 2:
        raise ValueError(
            f"`shapes` must be at least 2, got {len(shapes)}; one has no gradient for a while"
        )
    if not all(map(math.prod, shapes)):
        raise ValueError(f"`shapes` must be of parameters with entries, got {shapes}")
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}; state is made in them")
    rate = recipe.learning_rate
    if not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise AssertionError(
            f"`learning_rate` must be a finite number above 0, got {rate!r}; a schedule multiplies "
            "it"
        )
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(shape, generator=generator).to(device) for shape in shapes]
    devices = [start[0].device] if start[0].is_cuda else []
    with torch.random.fork_rng(devices=devices):
        _check_groups(_Trial(recipe, start, seed), rate)
        first, again = _Trial(recipe, start, seed), _Trial(recipe, start, seed)
        for each in (first, again):
            each.take(range(steps))
        _check_steps(first, start)
        _check_equal(
            again,
            first,
            "an optimizer must take the same steps when it is built anew",
            "draw from torch's own generator, and keep nothing in the recipe",
        )
        _check_state(first, steps)
        _check_rate(recipe, start, seed, rate, steps)
        _check_gradients(_Trial(recipe, start, seed))


class _Trial:
    """An optimizer of parameters of its own, whose gradients are drawn by the number of a step."""

    def __init__(self, recipe: OptimizerRecipe, start: Sequence[Tensor], seed: int) -> None:
        self.recipe, self.seed = recipe, seed
        self.parameters = [nn.Parameter(each.clone()) for each in start]
        try:
            # Not a list, for the protocol promises no more.
            self.optimizer: Any = recipe.build(iter(self.parameters))
        # The optimizer is anybody's, and may raise anything.
        except Exception as error:
            raise AssertionError(
                f"`build` raised {type(error).__name__}: {error}; if it is not for parameters of "
                f"every shape, give this check `shapes` that it is for"
            ) from error

    def take(self, numbers: range) -> None:
        for number in numbers:
            generator = torch.Generator().manual_seed(self.seed + 1 + number)
            for parameter in self.parameters:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.grad = drawn.to(parameter)
            torch.manual_seed(self.seed + number)
            self.step()

    def step(self) -> None:
        from flowbp.training.optimizer_classes import rehearsing

        try:
            with rehearsing():
                self.optimizer.step()
        except Exception as error:
            raise AssertionError(
                f"`step()` must take gradients without a closure, and raised "
                f"{type(error).__name__}: {error}"
            ) from error


def _check_groups(trial: _Trial, rate: float) -> None:
    optimizer = trial.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise AssertionError(
            f"`build` must return a torch.optim.Optimizer, got a {type(optimizer).__name__}"
        )
    held = [id(each) for group in optimizer.param_groups for each in group["params"]]
    if sorted(held) != sorted(map(id, trial.parameters)):
        raise AssertionError(
            f"`build` must put each of the {len(trial.parameters)} parameters into one group, got "
            f"{len(held)} in {len(optimizer.param_groups)} groups; `parameters` is an iterable, of "
            "which a second loop may find nothing: make a list of it first"
        )
    rates = {float(group["lr"]) for group in optimizer.param_groups if "lr" in group}
    if rates - {float(rate)}:
        raise AssertionError(
            f"the groups must have the rate `learning_rate`, {rate:g}, got "
            f"{', '.join(f'{each:g}' for each in sorted(rates))}; a schedule sets one for all, so "
            "rates of their own would be lost"
        )


def _check_steps(trial: _Trial, start: Sequence[Tensor]) -> None:
    for parameter, before in zip(trial.parameters, start, strict=True):
        assert_finite("a parameter after a step", parameter.detach())
        if torch.equal(parameter, before):
            raise AssertionError(
                f"`step` must change every parameter that has a gradient, got the one of shape "
                f"{tuple(before.shape)} unchanged; look for what leaves it out, or raise a "
                "`learning_rate` whose steps float32 rounds away"
            )


def _check_state(trial: _Trial, steps: int) -> None:
    """Save, load into another and go on with both."""
    from flowbp.training.packing import pack, unpack

    tensors: dict[str, Tensor] = {}
    try:
        packed = pack(trial.optimizer.state_dict(), "state", tensors)
    except TypeError as error:
        raise AssertionError(f"`state_dict()` must be fit for a checkpoint: {error}") from error
    saved = {name: tensor.clone() for name, tensor in tensors.items()}
    other = _Trial(trial.recipe, [each.detach() for each in trial.parameters], trial.seed)
    try:
        other.optimizer.load_state_dict(unpack(packed, saved))
    except Exception as error:
        raise AssertionError(
            f"`load_state_dict` must take what `state_dict` gave, and raised "
            f"{type(error).__name__}: {error}"
        ) from error
    for each in (trial, other):
        each.take(range(steps, 2 * steps))
    _check_equal(
        other,
        trial,
        "an optimizer must go on from its saved state with the same steps",
        "keep what it needs in `state` or `param_groups`",
    )


def _check_rate(
    recipe: OptimizerRecipe, start: Sequence[Tensor], seed: int, rate: float, steps: int
) -> None:
    from flowbp.training.optimizer_classes import set_rate

    full, half, none = (_Trial(recipe, start, seed) for _ in range(3))
    if not any("lr" in group for group in full.optimizer.param_groups):
        return
    for number in range(steps):
        for trial, factor in ((full, 1.0), (half, 0.5), (none, 0.0)):
            set_rate(trial.optimizer, rate * factor)
            trial.take(range(number, number + 1))
    for parameter in none.parameters:
        assert_finite("a parameter after a step at the rate 0", parameter.detach())
    # Besides 0, which may be a case of its own.
    for parameters in zip(full.parameters, half.parameters, none.parameters, strict=True):
        at_full, *lower = parameters
        if any(torch.equal(at_full, each) for each in lower):
            raise AssertionError(
                "`step` must follow the rate that a schedule sets, and takes the same steps of the "
                f"parameter of shape {tuple(at_full.shape)} at half of it or at 0; read `lr` of "
                "its group in every step"
            )


def _check_gradients(trial: _Trial) -> None:
    first, *others = trial.parameters
    for number in range(2):
        first.grad = None
        for parameter in others:
            parameter.grad = torch.zeros_like(parameter)
        torch.manual_seed(number)
        trial.step()
    for parameter in trial.parameters:
        assert_finite("a parameter after a step along a gradient of zero", parameter.detach())


def _check_equal(found: _Trial, expected: _Trial, must: str, cure: str) -> None:
    gaps = list(_gaps(found, expected))
    if any(gaps):
        raise AssertionError(f"{must}, got parameters that differ by {max(gaps):.3g}; {cure}")


def _gaps(found: _Trial, expected: _Trial) -> Iterator[float]:
    for one, other in zip(found.parameters, expected.parameters, strict=True):
        yield float((one.detach() - other.detach()).abs().max())

"""Optimizers of torch and of libraries, named by their class and given its own arguments."""

from __future__ import annotations

import contextlib
import inspect
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import attrs
import torch
from torch import nn

RATE = "lr"
"""What classes of optimizers call their learning rate."""

SUPPLIED = frozenset({"params"})
"""The arguments of a class that a run gives."""


@attrs.frozen
class OptimizerClass:
    """An optimizer class as it is, with arguments under the names of its own signature.

    Its learning rate is its argument `lr`; a class without one sets its steps itself, and then
    `learning_rate` is 1. One that has `train()` and `eval()`, as Schedule-Free has, is built in its
    training mode.

    Args:
        target: a subclass of `torch.optim.Optimizer` whose `step()` needs no closure.
        arguments: by name; the others have the defaults of the class.

    Raises:
        ValueError: the class does not take the arguments.

    Example:
        >>> recipe = OptimizerClass(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
        >>> recipe.learning_rate
        0.1
        >>> OptimizerClass(torch.optim.SGD, {"momentum": -1.0})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: `momentum` is -1.0, which torch.optim.sgd:SGD refuses: Invalid momentum ...
    """

    target: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any] = attrs.field(factory=dict, eq=False)
    # Two are equal whether an argument is given or the default.
    _in_effect: Mapping[str, Any] = attrs.field(init=False, repr=False)

    @_in_effect.default
    def _arguments_and_defaults(self) -> Mapping[str, Any]:
        return with_defaults(self.target, self.arguments)

    def __attrs_post_init__(self) -> None:
        """Refuse what the class refuses."""
        faults = faults_of(self.target, self.arguments)
        if faults:
            raise ValueError(
                "; ".join(f"`{key}` {why}" if key else why for key, why in faults.items())
            )

    @property
    def has_rate(self) -> bool:
        """Whether the class takes a learning rate."""
        return RATE in inspect.signature(self.target).parameters

    @property
    def finds_rate(self) -> bool:
        """Whether the class finds its rate itself, which `lr`, 1 by default, only scales."""
        found = inspect.signature(self.target).parameters.get(RATE)
        return found is None or found.default == 1

    @property
    def learning_rate(self) -> float:
        """The full rate, given or by default; 1 where there is none."""
        if not self.has_rate:
            return 1.0
        default = inspect.signature(self.target).parameters[RATE].default
        return float(self.arguments.get(RATE, default))

    def at_rate(self, rate: float) -> OptimizerClass:
        """The same at another rate."""
        return attrs.evolve(self, arguments={**self.arguments, RATE: rate})

    @property
    def averages(self) -> bool:
        """Whether it averages the parameters itself, and has a mode for using the average."""
        return has_modes(self.target)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer with fresh state, ready to train."""
        return _built(self.target, parameters, self.arguments)


def with_defaults(target: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments, and the target's defaults for those that are not given."""
    found = inspect.signature(target).parameters.values()
    return {p.name: p.default for p in found if p.default is not p.empty} | {**arguments}


def is_optimizer_class(target: Any) -> bool:
    """Whether a target is a class of optimizers."""
    base = torch.optim.Optimizer
    return isinstance(target, type) and issubclass(target, base) and target is not base


def has_modes(optimizer: Any) -> bool:
    """Whether an optimizer, or a class of them, has the modes of Schedule-Free."""
    return all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval"))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups that have one."""
    for group in optimizer.param_groups:
        present = group.get(RATE)
        if isinstance(present, torch.Tensor):
            # Compiled steps read it from there.
            present.fill_(rate)
        elif present is not None:
            group[RATE] = rate


def faults_of(target: Any, arguments: Mapping[str, Any]) -> dict[str, str]:
    """Why a class does not take arguments, by their names, found on one small parameter.

    Under no name stands what is wrong with all together, or with the class.
    """
    name = f"{target.__module__}:{target.__qualname__}"
    if _refusal(target, arguments) is not None:
        signature, taken, found = inspect.signature(target).parameters, dict[str, Any](), {}
        for key in (key for key in signature if key in arguments):
            why = _refusal(target, {**taken, key: arguments[key]})
            if why is None:
                taken[key] = arguments[key]
            else:
                found[key] = f"is {arguments[key]!r}, which {name} refuses: {why}"
        return found or {"": f"{name} refuses these keys: {_refusal(target, arguments)}"}
    why = _refusal(target, arguments, step=True)
    if why is None:
        return {}
    return {
        "": f"names {name}, which cannot take a step along a gradient ({why}); name one whose "
        "`step()` needs no closure and takes dense gradients"
    }


def _refusal(target: Any, arguments: Mapping[str, Any], *, step: bool = False) -> str | None:
    parameter = nn.Parameter(torch.ones(2, 2))
    parameter.grad = torch.ones(2, 2)
    # The class is anybody's, and may raise anything.
    try:
        with rehearsing():
            built = _built(target, [parameter], arguments)
            if step:
                built.step()
    except Exception as error:
        return " ".join(f"{error or type(error).__name__}".split())
    return None


def _built(
    target: Any, parameters: Iterable[nn.Parameter], arguments: Mapping[str, Any]
) -> torch.optim.Optimizer:
    # Some print what they do.
    with contextlib.redirect_stdout(io.StringIO()):
        built: torch.optim.Optimizer = target(list(parameters), **arguments)
    modes: Any = built
    if has_modes(built):
        modes.train()
    return built


def stepping(device: torch.device) -> AbstractContextManager[None]:
    """Take a step on a device; on the CPU nothing is compiled for it, which takes minutes."""
    return rehearsing() if device.type == "cpu" else contextlib.nullcontext()


@contextlib.contextmanager
def rehearsing() -> Iterator[None]:
    """Take steps of no consequence: nothing is compiled."""
    with torch.compiler.set_stance("force_eager"):
        yield

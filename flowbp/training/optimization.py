"""Optimizers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from flowbp.adapters.sharding import own_part, whole
from flowbp.limits import STEPS
from flowbp.training.optimizer_classes import OptimizerClass, rehearsing
from flowbp.validators import integer, real


class OptimizerRecipe(Protocol):
    """Builds an optimizer; its `learning_rate` is what a schedule's factor multiplies.

    For a study of rates, it is an attrs class with a field `learning_rate`.

    Example:
        >>> @attrs.frozen
        ... class Momentum:
        ...     learning_rate: float = 1e-2
        ...     def build(self, parameters):
        ...         return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)
        >>> type(Momentum().build([nn.Parameter(torch.zeros(2))])).__name__
        'SGD'
    """

    @property
    def learning_rate(self) -> float:
        """The full rate."""

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer of these parameters with fresh state."""


def _pair(value: Iterable[float]) -> tuple[float, float]:
    betas = tuple(value)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(
            f"`betas` must be two numbers in [0, 1), got {betas}; the usual ones are (0.9, 0.999)"
        )
    return betas[0], betas[1]


@attrs.frozen
class AdamW:
    """Adam with decoupled weight decay, `theta -= rate (m̂ / (√v̂ + eps) + weight_decay theta)`.

    Args:
        learning_rate: the full rate, above 0, which a schedule multiplies.
        betas: decay rates of both moments, in [0, 1).
        weight_decay: how fast weights shrink, as a share of each for a unit of rate; 0 is not at
            all.
        eps: added to the root of the second moment, above 0, so that a gradient near 0 takes no
            step of full size.

    Reference: Loshchilov and Hutter, arXiv 1711.05101.
    """

    learning_rate: float = attrs.field(default=1e-5, validator=real(0, above=True))
    betas: tuple[float, float] = attrs.field(default=(0.9, 0.999), converter=_pair)
    weight_decay: float = attrs.field(default=1e-4, validator=real(0))
    eps: float = attrs.field(default=1e-8, validator=real(0, above=True))

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer of torch with fresh state; on CUDA one kernel reads and writes each once."""
        trained = list(parameters)
        return torch.optim.AdamW(
            trained,
            fused=all(parameter.is_cuda for parameter in trained) or None,
            lr=self.learning_rate,
            betas=self.betas,
            weight_decay=self.weight_decay,
            eps=self.eps,
        )


def at_rate(recipe: Any, rate: float) -> OptimizerRecipe:
    """The same recipe at another rate, if it has one."""
    if isinstance(recipe, OptimizerClass):
        return recipe.at_rate(rate) if recipe.has_rate else recipe
    found: OptimizerRecipe = attrs.evolve(recipe, learning_rate=rate)
    return found


def state_bytes(recipe: OptimizerRecipe, parameters: Iterable[Tensor]) -> int:
    """How many bytes an optimizer's state is going to take, measured on one small parameter."""
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    for parameter in parameters:
        # A parameter without weights is as large as it will be.
        device = torch.device("cpu") if parameter.is_meta else parameter.device
        kind = parameter.dtype, device
        sizes[kind] = sizes.get(kind, 0) + parameter.numel() * parameter.element_size()
    return sum(round(size * _state_ratio(recipe, *kind)) for kind, size in sizes.items())


def _state_ratio(recipe: OptimizerRecipe, dtype: torch.dtype, device: torch.device) -> float:
    sample = torch.zeros(128, 128, dtype=dtype, device=device)
    state = rehearsed(recipe, sample).state.values()
    tensors = (v for values in state for v in values.values() if isinstance(v, Tensor))
    return sum(_bytes(v) for v in tensors if v.numel() > 1) / sample.nbytes


def _bytes(tensor: Tensor) -> int:
    """What a tensor takes, which may be made of others, as quantised ones are."""
    if not is_traceable_wrapper_subclass(tensor):
        return tensor.nbytes
    names, _ = tensor.__tensor_flatten__()
    return sum(_bytes(getattr(tensor, name)) for name in names)


def rehearsed(recipe: OptimizerRecipe, sample: Tensor) -> torch.optim.Optimizer:
    """An optimizer of one parameter like `sample` after one step."""
    parameter = nn.Parameter(sample)
    parameter.grad = torch.ones_like(sample)
    optimizer = recipe.build([parameter])
    with rehearsing():
        optimizer.step()
    return optimizer


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, as one long vector."""
    return whole(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, largest: float) -> None:
    """Scale all gradients in place by `min(1, largest / norm)`."""
    scale = (largest / norm).clamp(max=1)
    for parameter in parameters:
        if parameter.grad is not None:
            gradient = own_part(parameter.grad)
            gradient.mul_(scale.to(gradient.device, gradient.dtype))


class Schedule(Protocol):
    """What part of the learning rate an optimizer step uses.

    Example:
        >>> class Halves:
        ...     def factor(self, step, total, rate):
        ...         return 1.0 if step < total / 2 else 0.5
        >>> [Halves().factor(step, 4, 1e-3) for step in range(4)]
        [1.0, 1.0, 0.5, 0.5]
    """

    def factor(self, step: int, total: int, rate: float) -> float:
        """The factor of optimizer step `step`, counted from 0, of a run of `total` steps.

        The full `rate` is for schedules that end at a given rate.
        """


@attrs.frozen
class Constant:
    """The same rate throughout, after a linear warm-up.

    Step t of the warm-up uses the factor `(t + 1) / (warmup + 1)`: it starts above zero, and the
    full rate comes with step `warmup`.

    Args:
        warmup: how many steps come before the full rate.
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))

    def factor(self, step: int, total: int, rate: float) -> float:
        """`(t + 1) / (warmup + 1)`, then 1."""
        return _warmed(step, total, self.warmup, lambda progress: 1.0)


@attrs.frozen
class LinearDecay:
    """A straight line from the full rate to `final_ratio` of it, which the last step uses.

    `1 + (final_ratio - 1) p`, p going from 0 at step `warmup` to 1 at the last step.

    Args:
        warmup: how many steps come before the full rate, as under a constant one.
        final_ratio: in [0, 1]; with 0 the last step changes nothing.
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))
    final_ratio: float = attrs.field(default=0.1, validator=real(0, 1))

    def factor(self, step: int, total: int, rate: float) -> float:
        """The warm-up's factor, then the line's."""
        return _warmed(
            step, total, self.warmup, lambda progress: 1 + (self.final_ratio - 1) * progress
        )


@attrs.frozen
class CosineDecay:
    """Half a cosine from the full rate to `final_ratio` of it, which the last step uses.

    `final_ratio + (1 - final_ratio) (1 + cos(pi p)) / 2`, p as under a linear decay.

    Args:
        warmup: how many steps come before the full rate, as under a constant one.
        final_ratio: in [0, 1]; with 0 the last step changes nothing.

    Reference: Loshchilov and Hutter, "SGDR", arXiv 1608.03983.
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))
    final_ratio: float = attrs.field(default=0.1, validator=real(0, 1))

    def factor(self, step: int, total: int, rate: float) -> float:
        """The warm-up's factor, then the cosine's."""
        return _warmed(step, total, self.warmup, self._decayed)

    def _decayed(self, progress: float) -> float:
        share = (1 + math.cos(math.pi * progress)) / 2
        return self.final_ratio + (1 - self.final_ratio) * share


def _warmed(step: int, total: int, warmup: int, after: Callable[[float], float]) -> float:
    """The warm-up's factor, then one of the progress from 0 at the full rate to 1 at the end."""
    if not 0 <= step < total:
        raise ValueError(f"`step` must be in [0, {total - 1}], got {step}; the run has {total}")
    if warmup >= total:
        raise ValueError(
            f"`warmup` must be below the run's {total} optimizer steps, got {warmup}; "
            "shorten the warm-up or lengthen the run"
        )
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return after((step - warmup) / max(1, total - 1 - warmup))


_COARSE = (torch.bfloat16, torch.float16)


def warn_of_coarse_weights(parameters: Mapping[str, nn.Parameter], learning_rate: float) -> None:
    """Warn if trainable parameters are of a dtype that rounds small updates away."""
    coarse = {name: p.dtype for name, p in parameters.items() if p.dtype in _COARSE}
    if not coarse:
        return
    name, dtype = next(iter(coarse.items()))
    kind = str(dtype).removeprefix("torch.")
    warnings.warn(
        f"{len(coarse)} of {len(parameters)} trainable parameters are {kind} (the first is "
        f"`{name}`), where a change of a weight by less than about {torch.finfo(dtype).eps / 2:.1g}"
        f" of its size is rounded away; at the learning rate {learning_rate:g} much of the model "
        "may not train at all. Keep the weights in float32 and compute in bfloat16: "
        "`policy: {weights: float32, compute: bfloat16}` of the backbone",
        UserWarning,
        stacklevel=2,
    )

"""Optimizers, learning-rate schedules and gradient clipping."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.limits import STEPS
from flowbp.validators import integer, real


class OptimizerRecipe(Protocol):
    """Builds an optimizer; its `learning_rate` is what a schedule's factor multiplies."""

    @property
    def learning_rate(self) -> float:
        """The full rate."""
        ...

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer of these parameters with fresh state."""
        ...


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
        learning_rate: the full rate, > 0.
        betas: decay rates of both moments, in [0, 1).
        weight_decay: >= 0.
        eps: > 0.

    Raises:
        ValueError: a number is out of range.

    Example:
        >>> AdamW(learning_rate=1e-4).build([nn.Parameter(torch.zeros(2))]).defaults["lr"]
        0.0001

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


def state_bytes(recipe: OptimizerRecipe, parameters: Iterable[nn.Parameter]) -> int:
    """How many bytes an optimizer's state is going to take, measured on one small parameter."""
    sizes: dict[tuple[torch.dtype, torch.device], int] = {}
    for parameter in parameters:
        kind = parameter.dtype, parameter.device
        sizes[kind] = sizes.get(kind, 0) + parameter.numel() * parameter.element_size()
    return sum(round(size * _state_ratio(recipe, *kind)) for kind, size in sizes.items())


def _state_ratio(recipe: OptimizerRecipe, dtype: torch.dtype, device: torch.device) -> float:
    sample = nn.Parameter(torch.zeros(128, 128, dtype=dtype, device=device))
    sample.grad = torch.zeros_like(sample)
    optimizer = recipe.build([sample])
    optimizer.step()
    state = [v for v in optimizer.state[sample].values() if isinstance(v, Tensor) and v.numel() > 1]
    return sum(v.numel() * v.element_size() for v in state) / (
        sample.numel() * sample.element_size()
    )


def gradient_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together, as one long vector."""
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, largest: float) -> None:
    """Scale all gradients in place by `min(1, largest / norm)`."""
    if not largest > 0:
        raise ValueError(f"`largest` must be above 0, got {largest}")
    scale = (largest / norm).clamp(max=1)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(scale.to(parameter.grad.device, parameter.grad.dtype))


class Schedule(Protocol):
    """What part of the learning rate an optimizer step uses."""

    def factor(self, step: int, total: int) -> float:
        """The factor of optimizer step `step`, counted from 0, of a run of `total` steps."""
        ...


@attrs.frozen
class Constant:
    """The same rate throughout, after a linear warm-up.

    Step t of the warm-up uses the factor `(t + 1) / (warmup + 1)`: it starts above zero, and the
    full rate comes with step `warmup`.

    Args:
        warmup: how many steps come before the full rate.

    Raises:
        ValueError: `warmup` is no integer >= 0; when asked, it leaves no step at the full rate.

    Example:
        >>> [Constant(warmup=3).factor(t, 5) for t in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))

    def factor(self, step: int, total: int) -> float:
        """`(t + 1) / (warmup + 1)`, then 1."""
        warming = _warming(step, total, self.warmup)
        return 1.0 if warming is None else warming


@attrs.frozen
class LinearDecay:
    """A straight line from the full rate to `final_ratio` of it, which the last step uses.

    `1 + (final_ratio - 1) p`, p going from 0 at step `warmup` to 1 at the last step.

    Args:
        warmup: as in `Constant`.
        final_ratio: in [0, 1]; with 0 the last step changes nothing.

    Raises:
        ValueError: as `Constant`, or `final_ratio` is out of range.

    Example:
        >>> [LinearDecay(final_ratio=0.5).factor(t, 3) for t in range(3)]
        [1.0, 0.75, 0.5]
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))
    final_ratio: float = attrs.field(default=0.1, validator=real(0, 1))

    def factor(self, step: int, total: int) -> float:
        """The warm-up's factor, then the line's."""
        warming = _warming(step, total, self.warmup)
        if warming is not None:
            return warming
        return 1 + (self.final_ratio - 1) * _progress(step, total, self.warmup)


@attrs.frozen
class CosineDecay:
    """Half a cosine from the full rate to `final_ratio` of it, which the last step uses.

    `final_ratio + (1 - final_ratio) (1 + cos(pi p)) / 2`, p as in `LinearDecay`.

    Args:
        warmup: as in `Constant`.
        final_ratio: in [0, 1]; with 0 the last step changes nothing.

    Raises:
        ValueError: as `LinearDecay`.

    Example:
        >>> [round(CosineDecay(final_ratio=0.5).factor(t, 3), 6) for t in range(3)]
        [1.0, 0.75, 0.5]

    Reference: Loshchilov and Hutter, "SGDR", arXiv 1608.03983.
    """

    warmup: int = attrs.field(default=0, validator=integer(0, STEPS))
    final_ratio: float = attrs.field(default=0.1, validator=real(0, 1))

    def factor(self, step: int, total: int) -> float:
        """The warm-up's factor, then the cosine's."""
        warming = _warming(step, total, self.warmup)
        if warming is not None:
            return warming
        share = (1 + math.cos(math.pi * _progress(step, total, self.warmup))) / 2
        return self.final_ratio + (1 - self.final_ratio) * share


def _warming(step: int, total: int, warmup: int) -> float | None:
    if not 0 <= step < total:
        raise ValueError(f"`step` must be in [0, {total - 1}], got {step}; the run has {total}")
    if warmup >= total:
        raise ValueError(
            f"`warmup` must be below the run's {total} optimizer steps, got {warmup}; "
            "shorten the warm-up or lengthen the run"
        )
    return (step + 1) / (warmup + 1) if step < warmup else None


def _progress(step: int, total: int, warmup: int) -> float:
    return (step - warmup) / max(1, total - 1 - warmup)


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

"""The optimizer as a value, and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.core._validators import real


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
    """How many bytes an optimizer's state is going to take, measured on one small parameter.

    Args:
        recipe: builds it.
        parameters: that it is going to have.

    Returns:
        Bytes; a state that does not grow in proportion to the parameters is not foreseen.

    Example:
        >>> state_bytes(AdamW(), [nn.Parameter(torch.zeros(1000))])
        8000
    """
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
    """The norm of all gradients together, as one long vector.

    Args:
        parameters: those that were trained; ones without a gradient are left out.

    Returns:
        0-d; not finite if a gradient is not.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> gradient_norm([weight])
        tensor(5.)
    """
    return nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def clip_gradients(parameters: Iterable[nn.Parameter], norm: Tensor, largest: float) -> None:
    """Scale all gradients in place by `min(1, largest / norm)`.

    Args:
        parameters: those that were trained; ones without a gradient are left out.
        norm: their `gradient_norm`, 0-d.
        largest: the norm that they may have.

    Raises:
        ValueError: `largest` is not above 0.

    Example:
        >>> weight = nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> clip_gradients([weight], gradient_norm([weight]), 1.0)
        >>> weight.grad
        tensor([0.6000, 0.8000])

    Reference: Pascanu et al., arXiv 1211.5063.
    """
    if not largest > 0:
        raise ValueError(f"`largest` must be above 0, got {largest}")
    scale = (largest / norm).clamp(max=1)
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.mul_(scale.to(parameter.grad.device, parameter.grad.dtype))

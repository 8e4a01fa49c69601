"""Small non-linear problems in float64, on which gradients can be checked to the last digits."""

from __future__ import annotations

import math
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor

from flowbp.core import ParametricVelocity, Trajectory, rollout


def with_jacobian_scale(velocity: ParametricVelocity, scale: float) -> ParametricVelocity:
    """The same values and parameter gradients, with the Jacobian `dv/dx` multiplied by `scale`.

    A gradient path with k Jacobian factors scales with `scale^k`, which is how the checks count
    them.

    Args:
        velocity: `velocity(params, latents, sigma)`.
        scale: s, any number.

    Example:
        >>> field = with_jacobian_scale(lambda p, x, sigma: x**2, 3.0)
        >>> x = torch.tensor(2.0, requires_grad=True)
        >>> v = field({}, x, torch.tensor(1.0))
        >>> v.item(), torch.autograd.grad(v, x)[0].item()
        (4.0, 12.0)

    Reference: arXiv 2606.11075, section 3.
    """

    def scaled(params: Mapping[str, Tensor], latents: Tensor, sigma: Tensor) -> Tensor:
        fixed = latents.detach()
        return velocity(params, fixed + scale * (latents - fixed), sigma)

    return scaled


@attrs.frozen
class TanhField:
    """A smooth field on samples of any shape: `v = C tanh(A x + a sigma + b + context) + c`.

    Args:
        event: the shape of one sample, `()` for numbers.
        hidden: how many hidden units, at least 1.

    Raises:
        ValueError: `hidden` is below 1.

    Example:
        >>> field = TanhField(event=(2, 3))
        >>> params = field.parameters(torch.Generator().manual_seed(0))
        >>> field(params, torch.zeros(5, 2, 3, dtype=torch.float64), torch.tensor(0.5)).shape
        torch.Size([5, 2, 3])
    """

    event: tuple[int, ...] = (3,)
    hidden: int = attrs.field(default=4, validator=attrs.validators.ge(1))

    def parameters(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Random parameters in float64: input, time, bias, output, shift."""
        size = math.prod(self.event)
        shapes = {
            "input": (self.hidden, size),
            "time": (self.hidden,),
            "bias": (self.hidden,),
            "output": (size, self.hidden),
            "shift": (size,),
        }
        return {
            name: torch.randn(shape, generator=generator, dtype=torch.float64)
            for name, shape in shapes.items()
        }

    def __call__(
        self,
        params: Mapping[str, Tensor],
        latents: Tensor,
        sigma: Tensor,
        context: Tensor | None = None,
    ) -> Tensor:
        """The velocity (B, *event); `context` (B, hidden) conditions each sample."""
        units = latents.reshape(latents.shape[0], -1) @ params["input"].T
        units = units + params["time"] * sigma + params["bias"]
        units = units if context is None else units + context
        v = units.tanh() @ params["output"].T + params["shift"]
        return v.reshape(latents.shape)


@attrs.frozen(eq=False)
class Problem:
    """A field, its parameters, a grid and starting noise: all that a gradient check needs.

    Args:
        field: `velocity(params, latents, sigma)`.
        params: the parameters by name.
        noise: (B, …).
        sigmas: (N+1,).

    Example:
        >>> problem = random_problem(torch.linspace(1, 0, 5), event=(2, 2), batch=3)
        >>> problem.rollout(stop=2).latents.shape
        torch.Size([3, 3, 2, 2])
    """

    field: ParametricVelocity
    params: dict[str, Tensor]
    noise: Tensor
    sigmas: Tensor

    def velocity(self, latents: Tensor, sigma: Tensor) -> Tensor:
        """The field under this problem's parameters, (B, …)."""
        return self.field(self.params, latents, sigma)

    def rollout(self, stop: int | None = None) -> Trajectory:
        """The first `stop` steps of the sampler, all if not given."""
        return rollout(self.velocity, self.noise, self.sigmas, stop=stop)


def random_problem(
    sigmas: Tensor, *, event: tuple[int, ...] = (3,), batch: int = 2, seed: int = 0
) -> Problem:
    """A `TanhField` problem from a seed.

    Args:
        sigmas: (N+1,) from at most 1 to 0; used in float64.
        event: the shape of one sample.
        batch: B.
        seed: of parameters and noise.

    Example:
        >>> random_problem(torch.linspace(1, 0, 5)).noise.shape
        torch.Size([2, 3])
    """
    generator = torch.Generator().manual_seed(seed)
    field = TanhField(event)
    params = field.parameters(generator)
    noise = torch.randn((batch, *event), generator=generator, dtype=torch.float64)
    return Problem(field, params, noise, sigmas.double())

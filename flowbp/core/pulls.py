"""One velocity's pullback: evaluate with gradient, send a cotangent back, forget the graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Protocol

import attrs
import torch
from torch import Tensor
from torch.autograd.graph import disable_saved_tensors_hooks

from .trajectory import VelocityField

ParametricVelocity = Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]

_NO_HOOKS = (
    "`velocity` must save no tensors through hooks under `functional_pull`, got one that does, "
    "as gradient checkpointing and save_on_cpu do, and torch.func refuses them; turn "
    "gradient_checkpointing off, or use `module_pull`, which keeps hooks"
)


@attrs.frozen(eq=False)
class Cotangents:
    """What is sent back through one velocity, which is evaluated for it once.

    Args:
        velocity: c, (B, …), for the parameters, and for the latents if `through_latents`.
        parameters: d, (B, …), what else is pulled into the parameters, and never to the latents:
            the parameters get `c + d`. If `through_latents`, that is one more backward pass over
            the same graph, and nothing more otherwise. None is no such cotangent.
        through_latents: whether `Jᵀ c` is wanted, besides the parameters' gradients.

    Example:
        >>> Cotangents(torch.ones(1, 2), through_latents=True).scaled(3.0).velocity
        tensor([[3., 3.]])
    """

    velocity: Tensor
    parameters: Tensor | None = None
    through_latents: bool = attrs.field(kw_only=True)

    @property
    def of_parameters(self) -> Tensor:
        """`c + d`, all that the parameters get."""
        return self.velocity if self.parameters is None else self.velocity + self.parameters

    def scaled(self, factor: float) -> Cotangents:
        """Both cotangents multiplied."""
        return self._mapped(lambda each: factor * each)

    def __getitem__(self, samples: slice) -> Cotangents:
        """Those of some of the samples."""
        return self._mapped(lambda each: each[samples])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Cotangents:
        parameters = None if self.parameters is None else change(self.parameters)
        return attrs.evolve(self, velocity=change(self.velocity), parameters=parameters)


@attrs.frozen(eq=False)
class Pulled:
    """What a pull returns.

    Args:
        gradients: by parameter name; empty if the pull accumulated into `.grad` instead.
        latents: the cotangent pulled back to the latents, (B, …), if it was asked for.
    """

    gradients: Mapping[str, Tensor]
    latents: Tensor | None


class Pull(Protocol):
    """Evaluates one velocity with gradient and pulls cotangents of it back.

    `functional_pull` and `module_pull` make one; others may wrap them.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor(2.0))
        >>> pull = module_pull(lambda latents, sigma: weight * latents)
        >>> counted = []
        >>> def counting(latents, sigma, cotangents):
        ...     counted.append(len(latents))
        ...     return pull(latents, sigma, cotangents)
        >>> x = torch.ones(3, 2)
        >>> _ = counting(x, torch.tensor(0.5), Cotangents(x, through_latents=False))
        >>> counted, weight.grad
        ([3], tensor(6.))
    """

    def __call__(self, latents: Tensor, sigma: Tensor, cotangents: Cotangents, /) -> Pulled:
        """Evaluate the velocity of `latents` (B, …) at `sigma` (0-d) and pull `cotangents` back.

        Returns:
            The parameters' gradients, and `Jᵀ c` if it was asked for.
        """
        ...


def add_gradients(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The sum of two gradient mappings; an absent name is zero."""
    total = dict(left)
    for name, gradient in right.items():
        total[name] = total[name] + gradient if name in total else gradient
    return total


def functional_pull(velocity: ParametricVelocity, params: Mapping[str, Tensor]) -> Pull:
    """A pull through `torch.func.vjp`, which returns gradients and composes with `vmap`.

    Use `module_pull` where the model needs gradient checkpointing, compiled autograd or FSDP:
    `torch.func` transforms refuse saved-tensor hooks.

    Args:
        velocity: `velocity(params, latents, sigma)`, pure in its arguments.
        params: the parameters by name.

    Returns:
        A pull whose gradients are a mapping like `params`.

    Raises:
        TypeError: a parameter is a `DTensor`, of a sharded model.
        RuntimeError: (when pulling) the velocity uses saved-tensor hooks.

    Example:
        >>> pull = functional_pull(lambda p, x, sigma: p["a"] * x, {"a": torch.tensor(2.0)})
        >>> x = torch.ones(1, 3)
        >>> pull(x, torch.tensor(1.0), Cotangents(x, through_latents=True))
        Pulled(gradients={'a': tensor(3.)}, latents=tensor([[2., 2., 2.]]))

    Reference: arXiv 2606.11075, section 3.
    """
    # Where it was not imported there are none.
    sharded = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())
    divided = [name for name, each in params.items() if isinstance(each, sharded)]
    if divided:
        raise TypeError(
            f"`params` must be whole tensors, got {len(divided)} of a sharded model, the first of "
            f"which is {divided[0]!r}; use `module_pull`, which keeps the hooks that gather them"
        )

    # Parameters that require gradients would otherwise record a second, outer graph.
    @torch.no_grad()
    def pull(latents: Tensor, sigma: Tensor, cotangents: Cotangents, /) -> Pulled:
        x, params_now = latents.detach(), dict(params)

        def evaluate(p: Mapping[str, Tensor], y: Tensor) -> Tensor:
            # torch.func disables hooks too, with a message that names neither cause nor cure.
            with disable_saved_tensors_hooks(_NO_HOOKS):
                return velocity(p, y, sigma)

        if cotangents.through_latents:
            primals: tuple[object, ...] = (params_now, x)
            back = torch.func.vjp(evaluate, *primals)[1]
            gradients, u = back(cotangents.velocity)
            if cotangents.parameters is not None:
                # Freed before the second pass, not after it: they are as large as the model.
                del gradients
                gradients, _ = back(cotangents.of_parameters)
            return Pulled(gradients, u)
        back = torch.func.vjp(lambda p: evaluate(p, x), params_now)[1]
        (gradients,) = back(cotangents.of_parameters)
        return Pulled(gradients, None)

    return pull


def module_pull(velocity: VelocityField) -> Pull:
    """A pull through autograd, which accumulates into the parameters' `.grad`.

    It keeps a module's hooks, so gradient checkpointing, compiled blocks and FSDP work.

    Args:
        velocity: a field whose parameters require gradients.

    Returns:
        A pull whose gradients are empty: they are in `.grad`.

    Raises:
        ValueError: (when pulling) the velocity depends on nothing that requires a gradient.

    Example:
        >>> a = torch.tensor(2.0, requires_grad=True)
        >>> pull = module_pull(lambda x, sigma: a * x)
        >>> x = torch.ones(1, 3)
        >>> pulled = pull(x, torch.tensor(1.0), Cotangents(x, through_latents=True))
        >>> a.grad, pulled.latents
        (tensor(3.), tensor([[2., 2., 2.]]))

    Reference: arXiv 2606.11075, section 3.
    """

    def pull(latents: Tensor, sigma: Tensor, cotangents: Cotangents, /) -> Pulled:
        through = cotangents.through_latents
        x = latents.detach().requires_grad_(through)
        with torch.enable_grad():
            v = velocity(x, sigma)
        if not v.requires_grad:
            raise ValueError(
                "`velocity` must depend on a parameter with requires_grad=True, got a velocity "
                "without a graph; unfreeze what should be trained, and call no no_grad() inside"
            )
        u: Tensor | None = None
        if through and cotangents.parameters is not None:
            # Only the way to the latents is walked, so the parameters' .grad is left as it is.
            c = cotangents.velocity.to(v.dtype)
            (u,) = torch.autograd.grad(v, x, c, retain_graph=True, materialize_grads=True)
        torch.autograd.backward(v, cotangents.of_parameters.to(v.dtype))
        if through and u is None:
            u = torch.zeros_like(x) if x.grad is None else x.grad
        # Where u was asked for apart, x.grad holds the parameters' too; it is forgotten with x.
        return Pulled({}, u)

    return pull


def in_micro_batches(pull_of: Callable[[slice], Pull], size: int) -> Pull:
    """Pull a batch in pieces of at most `size` samples, one live graph of a piece at a time.

    Args:
        pull_of: the pull of a slice of samples, with that slice's conditioning.
        size: samples at a time, at least 1.

    Returns:
        A pull of the whole batch with the same result.

    Raises:
        ValueError: `size` is below 1.

    Example:
        >>> scale = torch.tensor([[1.0], [2.0], [3.0]])
        >>> params = {"a": torch.tensor(1.0)}
        >>> def pull_of(samples):
        ...     return functional_pull(lambda p, x, sigma: p["a"] * scale[samples] * x, params)
        >>> x = torch.ones(3, 1)
        >>> pull = in_micro_batches(pull_of, 2)
        >>> pull(x, torch.tensor(1.0), Cotangents(x, through_latents=False))
        Pulled(gradients={'a': tensor(6.)}, latents=None)

    Reference: arXiv 2606.11075, section 3.
    """
    if size < 1:
        raise ValueError(f"`size` must be >= 1 samples, got {size}")

    def pull(latents: Tensor, sigma: Tensor, cotangents: Cotangents, /) -> Pulled:
        gradients: Mapping[str, Tensor] = {}
        pieces: list[Tensor] = []
        for first in range(0, latents.shape[0], size):
            samples = slice(first, min(first + size, latents.shape[0]))
            pulled = pull_of(samples)(latents[samples], sigma, cotangents[samples])
            gradients = add_gradients(gradients, pulled.gradients)
            if pulled.latents is not None:
                pieces.append(pulled.latents)
        return Pulled(gradients, torch.cat(pieces) if pieces else None)

    return pull

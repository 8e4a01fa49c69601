"""One velocity's pullback: evaluate with gradient, send a cotangent back, forget the graph."""

from __future__ import annotations

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
class Pulled:
    """What a pull returns.

    Args:
        gradients: by parameter name; empty if the pull accumulated into `.grad` instead.
        latents: the cotangent pulled back to the latents, (B, …), if it was asked for.
    """

    gradients: Mapping[str, Tensor]
    latents: Tensor | None


class Pull(Protocol):
    """Pull a cotangent of one velocity back into the parameters, and to the latents if asked."""

    def __call__(
        self,
        latents: Tensor,
        sigma: Tensor,
        cotangent: Tensor,
        /,
        *,
        through_latents: bool,
        further: Tensor | None = None,
    ) -> Pulled:
        """Evaluate the velocity of `latents` (B, …) at `sigma` and pull a cotangent of it back.

        Args:
            latents: x, (B, …).
            sigma: 0-d.
            cotangent: c, (B, …).
            through_latents: whether `Jᵀ c` is wanted, besides the parameters' gradients.
            further: d, (B, …), what else is pulled into the parameters, and never to the latents:
                the parameters get `c + d`. If `through_latents`, that is one more backward pass
                over the same graph, and nothing more otherwise. None is no such cotangent.

        Returns:
            The gradients, and `Jᵀ c` if it was asked for.
        """
        ...


def add_gradients(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
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
        RuntimeError: (when pulling) the velocity uses saved-tensor hooks.

    Example:
        >>> pull = functional_pull(lambda p, x, sigma: p["a"] * x, {"a": torch.tensor(2.0)})
        >>> x, c = torch.ones(1, 3), torch.ones(1, 3)
        >>> pull(x, torch.tensor(1.0), c, through_latents=True)
        Pulled(gradients={'a': tensor(3.)}, latents=tensor([[2., 2., 2.]]))

    Reference: arXiv 2606.11075, section 3.
    """

    # Parameters that require gradients would otherwise record a second, outer graph.
    @torch.no_grad()
    def pull(
        latents: Tensor,
        sigma: Tensor,
        cotangent: Tensor,
        /,
        *,
        through_latents: bool,
        further: Tensor | None = None,
    ) -> Pulled:
        x, params_now = latents.detach(), dict(params)

        def evaluate(p: Mapping[str, Tensor], y: Tensor) -> Tensor:
            # torch.func disables hooks too, with a message that names neither cause nor cure.
            with disable_saved_tensors_hooks(_NO_HOOKS):
                return velocity(p, y, sigma)

        if through_latents:
            primals: tuple[object, ...] = (params_now, x)
            back = torch.func.vjp(evaluate, *primals)[1]
            gradients, u = back(cotangent)
            if further is not None:
                # Freed before the second pass, not after it: they are as large as the model.
                del gradients
                gradients, _ = back(cotangent + further)
            return Pulled(gradients, u)
        back = torch.func.vjp(lambda p: evaluate(p, x), params_now)[1]
        (gradients,) = back(_joined(cotangent, further))
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
        >>> x, c = torch.ones(1, 3), torch.ones(1, 3)
        >>> pulled = pull(x, torch.tensor(1.0), c, through_latents=True)
        >>> a.grad, pulled.latents
        (tensor(3.), tensor([[2., 2., 2.]]))

    Reference: arXiv 2606.11075, section 3.
    """

    def pull(
        latents: Tensor,
        sigma: Tensor,
        cotangent: Tensor,
        /,
        *,
        through_latents: bool,
        further: Tensor | None = None,
    ) -> Pulled:
        x = latents.detach().requires_grad_(through_latents)
        with torch.enable_grad():
            v = velocity(x, sigma)
        if not v.requires_grad:
            raise ValueError(
                "`velocity` must depend on a parameter with requires_grad=True, got a velocity "
                "without a graph; unfreeze what should be trained, and call no no_grad() inside"
            )
        apart = through_latents and further is not None
        u = _at_latents(v, x, cotangent) if apart else None
        torch.autograd.backward(v, _joined(cotangent, further).to(v.dtype))
        if through_latents and not apart:
            u = torch.zeros_like(x) if x.grad is None else x.grad
        # Where u was asked for apart, x.grad holds `further` too; it is forgotten with x.
        return Pulled({}, u)

    return pull


def _joined(cotangent: Tensor, further: Tensor | None) -> Tensor:
    return cotangent if further is None else cotangent + further


def _at_latents(velocity: Tensor, latents: Tensor, cotangent: Tensor) -> Tensor:
    # Only the way to the latents is walked, so the parameters' .grad is left as it is.
    (u,) = torch.autograd.grad(
        velocity,
        latents,
        cotangent.to(velocity.dtype),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    return u

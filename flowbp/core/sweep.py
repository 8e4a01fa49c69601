"""The streamed backward pass: a reverse sweep with one live velocity graph at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .methods.draft import DRaFT
from .methods.method import fits_grid
from .pulls import Cotangents, ParametricVelocity, Pull, add_gradients, functional_pull
from .reading import check_grid
from .segments import Surrogate
from .trajectory import Trajectory


def sweep(
    surrogate: Surrogate,
    trajectory: Trajectory,
    cotangent: Tensor,
    pull: Pull,
    *,
    parameter_cotangent: Callable[[int], Tensor] | None = None,
    clip: Callable[[Tensor], Tensor] | None = None,
) -> Mapping[str, Tensor]:
    """Carry the reward's cotangent back through a surrogate, one active step at a time.

    For each segment, last first, and each active step i of it, latest first, `w_i gamma_i g` is
    pulled into the parameters. At a joint j that is active, the pull also returns
    `u = J_jᵀ (w_j gamma_j g)`, and the earlier segments continue with `g + alpha u`. A step that
    several segments share is pulled once, with the sum of their cotangents. The result is exactly
    the gradient of the joint graph of the surrogate.

    A loss P of the active velocities at fixed latents, `v_theta(sg x_i)`, such as `anchor_term`,
    joins the same pulls by its cotangents `a_i = dP/dv_i`: `w_i gamma_i g + a_i` is pulled into the
    parameters, and `u` and g stay as they are without P.

    With a `clip`, such as `SampleClip`, g becomes `clip(g)` before anything is pulled and after
    each joint, and the result is no longer the joint graph's.

    Args:
        surrogate: what a method drew.
        trajectory: the rollout it was read from.
        cotangent: `g = dL/dx` at `read(surrogate, trajectory)`, shape (B, …).
        pull: how cotangents of one velocity are sent back (`module_pull`, `functional_pull`, …).
        parameter_cotangent: gives `a_i`, (B, …), of a step i; called once for each active step,
            just before its pull.
        clip: of cotangents (B, …); None leaves them.

    Returns:
        The summed gradients of the pulls; empty for pulls that accumulate into `.grad`.

    Raises:
        ValueError: surrogate, trajectory and cotangent do not fit together, or
            `parameter_cotangent` or `clip` gives another shape.

    Example:
        >>> import torch
        >>> from flowbp.core import Sparse, module_pull, read, rollout
        >>> a = torch.tensor(0.5, requires_grad=True)
        >>> field = lambda x, sigma: a * x
        >>> sigmas, generator = torch.linspace(1, 0, 9), torch.Generator().manual_seed(0)
        >>> surrogate = Sparse(active=2).draw(sigmas, generator)
        >>> path = rollout(field, torch.ones(4, 3), sigmas, stop=surrogate.horizon)
        >>> x = read(surrogate, path).requires_grad_()
        >>> (g,) = torch.autograd.grad(x.sum(), x)
        >>> sweep(surrogate, path, g, module_pull(field))
        {}
        >>> a.grad is not None
        True

    Reference: arXiv 2606.11075, section 3.
    """
    check_grid(surrogate, trajectory)
    _check_cotangent(trajectory, cotangent)
    g = _clipped(clip, cotangent)
    gradients: Mapping[str, Tensor] = {}
    # Cotangents of steps before the segment that extrapolates from them: an earlier segment may
    # add its own, so they wait until the sweep has come to it.
    waiting: dict[int, Tensor] = {}
    for number, segment in reversed(list(enumerate(surrogate.segments))):
        joint = segment.start if number > 0 and surrogate.alpha else None
        bridge: Tensor | None = None
        for i in sorted({*segment.active, *waiting}, reverse=True):
            own = segment.weights[i] * segment.active[i] * g if i in segment.active else None
            cotangents = [each for each in (own, waiting.pop(i, None)) if each is not None]
            if i < segment.start and number > 0:
                waiting[i] = sum(cotangents[1:], start=cotangents[0])
                continue
            if parameter_cotangent is not None:
                cotangents.append(_checked(parameter_cotangent(i), i, g.shape))
            through = i == joint and own is not None
            # Only the segment's own cotangent goes on to the latents of its joint.
            pulled = pull(
                trajectory.latents[i],
                trajectory.sigmas[i],
                Cotangents(
                    velocity=cotangents[0],
                    parameters=sum(cotangents[2:], start=cotangents[1]) if cotangents[1:] else None,
                    through_latents=through,
                ),
            )
            gradients = add_gradients(gradients, pulled.gradients)
            bridge = pulled.latents if through else bridge
            # Freed before the next pull, not after it: gradients are as large as the model.
            del pulled
        if bridge is not None:
            g = _clipped(clip, g + surrogate.alpha * bridge)
    return gradients


def surrogate_vjp(
    velocity: ParametricVelocity,
    params: Mapping[str, Tensor],
    trajectory: Trajectory,
    surrogate: Surrogate,
    cotangent: Tensor,
) -> Mapping[str, Tensor]:
    """The parameter gradient of a surrogate, as values: built on `torch.func.vjp`, streamed.

    Args:
        velocity: `velocity(params, latents, sigma)`, pure in its arguments.
        params: the parameters by name.
        trajectory: the rollout with these parameters.
        surrogate: what was drawn for it.
        cotangent: `dL/dx` at `read(surrogate, trajectory)`, shape (B, …).

    Returns:
        Gradients, a mapping like `params`.

    Raises:
        ValueError: as `sweep`.

    Example:
        >>> import torch
        >>> from flowbp.core import Sparse, read, rollout
        >>> params = {"a": torch.tensor(0.5)}
        >>> velocity = lambda p, x, sigma: p["a"] * x
        >>> sigmas = torch.tensor([1.0, 0.5, 0.0])
        >>> path = rollout(lambda x, sigma: velocity(params, x, sigma), torch.ones(1, 1), sigmas)
        >>> method = Sparse(active=1, late_bias=50.0)
        >>> surrogate = method.draw(sigmas, torch.Generator().manual_seed(0))
        >>> surrogate_vjp(velocity, params, path, surrogate, torch.ones(1, 1))
        {'a': tensor(-0.3750)}

    Reference: arXiv 2606.11075, section 3.
    """
    return sweep(surrogate, trajectory, cotangent, functional_pull(velocity, params))


def exact_vjp(
    velocity: ParametricVelocity,
    params: Mapping[str, Tensor],
    trajectory: Trajectory,
    cotangent: Tensor,
    *,
    last: int | None = None,
) -> Mapping[str, Tensor]:
    """The exact parameter gradient of the last steps of the sampler, one step live at a time.

    `lambda_i = lambda_{i+1} + (sigma_{i+1} - sigma_i) J_iᵀ lambda_{i+1}`. It is what plain autograd
    through the rollout gives, and the yardstick for every surrogate.

    Arguments and returns are `surrogate_vjp`'s, the cotangent `dL/dx` at the sample; `last` is how
    many steps keep their gradient, all N if not given.

    Raises:
        ValueError: `last` is not in [1, N], the rollout stopped early, or the cotangent has another
            shape than the latents.

    Example:
        >>> import torch
        >>> from flowbp.core import rollout
        >>> params, sigmas = {"a": torch.tensor(0.5)}, torch.tensor([1.0, 0.5, 0.0])
        >>> velocity = lambda p, x, sigma: p["a"] * x
        >>> path = rollout(lambda x, sigma: velocity(params, x, sigma), torch.ones(1, 1), sigmas)
        >>> exact_vjp(velocity, params, path, torch.ones(1, 1))  # d/da (1 - a/2)^2 = -(1 - a/2)
        {'a': tensor(-0.7500)}

    Reference: Clark et al., arXiv 2309.17400, section 4; arXiv 2606.11075, section 3.
    """
    kept = trajectory.steps if last is None else last
    fits_grid("last", kept, 1, trajectory.steps)
    # The last steps as segments of their own keep every Jacobian between them.
    surrogate = DRaFT(last=kept).draw(trajectory.sigmas, torch.Generator())
    return surrogate_vjp(velocity, params, trajectory, surrogate, cotangent)


def _clipped(clip: Callable[[Tensor], Tensor] | None, cotangent: Tensor) -> Tensor:
    if clip is None:
        return cotangent
    clipped = clip(cotangent)
    if clipped.shape != cotangent.shape:
        raise ValueError(
            f"`clip` must return the shape that it is given, {tuple(cotangent.shape)}, got "
            f"{tuple(clipped.shape)}"
        )
    return clipped


def _checked(cotangent: Tensor, step: int, shape: torch.Size) -> Tensor:
    if cotangent.shape != shape:
        raise ValueError(
            f"`parameter_cotangent` must return the latents' shape {tuple(shape)}, got "
            f"{tuple(cotangent.shape)} at step {step}; it is the cotangent of that step's velocity"
        )
    return cotangent


def _check_cotangent(trajectory: Trajectory, cotangent: Tensor) -> None:
    expected = trajectory.latents.shape[1:]
    if cotangent.shape != expected:
        raise ValueError(
            f"`cotangent` must have the latents' shape {tuple(expected)}, "
            f"got {tuple(cotangent.shape)}; it is dL/dx at read(surrogate, trajectory)"
        )

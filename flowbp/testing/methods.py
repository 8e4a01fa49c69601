"""Conformance of methods: their draws are pure, legal, and stream the joint graph's gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from flowbp.core import (
    Method,
    Surrogate,
    Trajectory,
    anchor_term,
    draw_surrogate,
    functional_pull,
    loss_weights,
    module_pull,
    read,
    renoise,
    sweep,
)

from .assertions import assert_close, assert_finite, assert_gradients_close, assert_same_shape
from .oracle import anchor_penalty, joint_gradient
from .problem import Problem, random_problem, with_jacobian_scale


def check_surrogate(surrogate: Surrogate, sigmas: Tensor) -> None:
    """Assert that a surrogate is a path on a grid, besides what every `Surrogate` is.

    It ends at N; each segment's weights sum to `sigma_t - sigma_s`; the horizon covers what is
    read and no more.

    Args:
        surrogate: what a method drew.
        sigmas: (N+1,), the grid it was drawn on.

    Raises:
        AssertionError: says which of these does not hold.

    Example:
        >>> from flowbp.core import Sparse
        >>> sigmas = torch.linspace(1, 0, 9)
        >>> check_surrogate(Sparse(active=2).draw(sigmas, torch.Generator()), sigmas)

    Reference: arXiv 2606.11075, section 3.
    """
    levels, segments = sigmas.double().tolist(), surrogate.segments
    steps, last = len(levels) - 1, segments[-1]
    if last.stop != steps:
        raise AssertionError(f"`segments` must end at {steps}, got one that stops at {last.stop}")
    for segment in segments:
        total, wanted = sum(segment.weights.values()), levels[segment.stop] - levels[segment.start]
        # Extrapolation cancels: its rounding is that of the largest weight.
        size = max(abs(wanted), 1e-6 * max(map(abs, segment.weights.values())))
        if abs(total - wanted) > 1e-6 * size:
            raise AssertionError(f"`weights` must sum to {wanted}, got {total} in {segment}")
    reads_sample = surrogate.reward_input == "sample"
    horizon = steps if reads_sample else max(last.start, max(last.weights) + 1)
    if surrogate.horizon != horizon:
        raise AssertionError(
            f"`horizon` must be {horizon} for a surrogate that reads the {surrogate.reward_input}, "
            f"got {surrogate.horizon}"
        )


def check_method(
    method: Method,
    *,
    sigmas: Tensor | None = None,
    draws: int = 5,
    seed: int = 0,
    tolerance: float = 1e-10,
) -> None:
    """Assert that a method is a rule the library can run.

    Every draw is legal (`check_surrogate`) and a pure function of the grid and the generator; the
    reward reads the cached value; nothing cached is changed; the streamed gradient of both
    pulls is the joint graph's, on a random non-linear field in float64; a gradient path through
    two segments holds at most one Jacobian factor.

    Args:
        method: to be checked.
        sigmas: (N+1,), the grid; 25 uniform steps if not given. Give one that the method accepts.
        draws: how many surrogates are drawn and checked.
        seed: of the draws and of the field.
        tolerance: of the gradients, relative to their largest entry.

    Raises:
        AssertionError: says what does not hold.
        TypeError: the method draws something other than a `Surrogate`.

    Example:
        >>> from flowbp.core import Bridge
        >>> check_method(Bridge(active=3), draws=1)

    Reference: arXiv 2606.11075, sections 3 and 4.
    """
    levels = torch.linspace(1, 0, 26) if sigmas is None else sigmas
    for draw in range(draws):
        surrogate = _pure_draw(method, levels, seed + draw)
        check_surrogate(surrogate, levels)
        problem = random_problem(levels, event=(2, 2), batch=2, seed=seed + draw)
        check_streamed(surrogate, problem, tolerance=tolerance)


def _pure_draw(method: Method, sigmas: Tensor, seed: int) -> Surrogate:
    state, grids = torch.random.get_rng_state(), [sigmas.clone(), sigmas.clone()]
    first, second = (
        draw_surrogate(method, grid, torch.Generator().manual_seed(seed)) for grid in grids
    )
    if not all(torch.equal(grid, sigmas) for grid in grids):
        raise AssertionError("`draw` must not change `sigmas`, but it did")
    if first != second:
        raise AssertionError(
            f"`draw` must depend on nothing but the grid and the generator, got {first} and "
            f"{second} from the same seed"
        )
    if not torch.equal(torch.random.get_rng_state(), state):
        raise AssertionError("`draw` must use its generator only, but it advanced torch's own")
    return first


def check_streamed(surrogate: Surrogate, problem: Problem, *, tolerance: float = 1e-10) -> None:
    """Assert that a surrogate reads cached values, changes none, and streams the joint gradient.

    With a reference anchor besides, too.

    Args:
        surrogate: drawn on the problem's grid.
        problem: what it is checked on; float64 for the tolerance's default.
        tolerance: of the gradients, relative to their largest entry.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from flowbp.core import ReFL
        >>> from flowbp.testing import random_problem
        >>> problem = random_problem(torch.linspace(1, 0, 13))
        >>> check_streamed(ReFL().draw(problem.sigmas, torch.Generator()), problem)

    Reference: arXiv 2606.11075, section 3.
    """
    generator = torch.Generator().manual_seed(0)
    before = problem.rollout(surrogate.horizon)
    path = renoise(surrogate, before, problem.velocity, generator)
    assert_same_shape(
        "renoised sample",
        path.latents[-1],
        (before.latents.shape[1] * (1 + surrogate.noised), *before.latents.shape[2:]),
    )
    kept = Trajectory(path.sigmas.clone(), path.latents.clone(), path.velocities.clone())
    _check_read(surrogate, path)
    target = torch.randn(path.latents.shape[1:], generator=generator, dtype=path.latents.dtype)
    g = read(surrogate, path) - target
    # A strength at which neither the reward's nor the anchor's gradient drowns the other.
    strength = 0.5 * g.numel()
    moved = {name: 0.7 * p for name, p in problem.params.items()}

    def loss(x: Tensor) -> Tensor:
        return ((x - target) ** 2).sum() / 2

    def reference(x: Tensor, sigma: Tensor) -> Tensor:
        return problem.field(moved, x, sigma)

    def anchor(step: int) -> Tensor:
        return anchor_term(surrogate, path, step, reference, strength).cotangent

    penalty = anchor_penalty(path, reference, strength)
    for title, added, more in (("", None, None), ("anchored ", penalty, anchor)):
        joint = joint_gradient(problem.field, problem.params, path, surrogate, loss, penalty=added)
        for kind, gradient in _streamed(problem, path, surrogate, g, more).items():
            assert_gradients_close(f"{title}{kind} gradient", gradient, joint, tolerance)
    for name in ("sigmas", "latents", "velocities"):
        if not torch.equal(getattr(path, name), getattr(kept, name)):
            raise AssertionError(f"`{name}` of the trajectory must not change, but they did")

    def at_scale(scale: float) -> Mapping[str, Tensor]:
        field = with_jacobian_scale(problem.field, scale)
        return sweep(surrogate, path, g, functional_pull(field, problem.params))

    if len(surrogate.segments) <= 2:
        assert_affine(at_scale, tolerance)


def _check_read(surrogate: Surrogate, path: Trajectory) -> None:
    x = read(surrogate, path)
    if surrogate.reward_input == "sample":
        if not torch.equal(x, path.latents[-1]):
            raise AssertionError("the reward must read the cached sample bit for bit")
    else:
        last = surrogate.segments[-1]
        moved = [w * path.velocities[i] for i, w in last.weights.items()]
        predicted = path.latents[last.start] + torch.stack(moved).sum(dim=0)
        assert_close("posterior mean", x, predicted, 1e-12)
    weights = loss_weights(surrogate, path)
    assert_same_shape("loss_weights", weights, (path.latents.shape[1],))
    assert_finite("loss_weights", weights)
    if not bool((weights > 0).all()):
        raise AssertionError(f"`loss_weights` must be positive, got {weights.tolist()}")


def _streamed(
    problem: Problem,
    path: Trajectory,
    surrogate: Surrogate,
    g: Tensor,
    anchor: Callable[[int], Tensor] | None,
) -> dict[str, Mapping[str, Tensor]]:
    leaves = {name: p.detach().clone().requires_grad_() for name, p in problem.params.items()}
    module = module_pull(lambda x, sigma: problem.field(leaves, x, sigma))
    functional = functional_pull(problem.field, problem.params)
    found = sweep(surrogate, path, g, functional, parameter_cotangent=anchor)
    sweep(surrogate, path, g, module, parameter_cotangent=anchor)
    return {"functional": found, "module": accumulated(leaves)}


def accumulated(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What pulls accumulated into the parameters' `.grad`; zero where nothing did."""
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in params.items()}


def assert_affine(
    gradient: Callable[[float], Mapping[str, Tensor]], tolerance: float = 1e-10
) -> None:
    """Assert that a gradient is affine in the scale of the field's Jacobian.

    A path with two Jacobian factors would make it quadratic. Checked at 0, 1, 2 and -3.

    Args:
        gradient: scale to gradients, with the rollout held fixed (see `with_jacobian_scale`).
        tolerance: relative to the largest entry.

    Raises:
        AssertionError: it is not affine.

    Example:
        >>> assert_affine(lambda scale: {"a": torch.tensor(2.0 + 3.0 * scale)})

    Reference: arXiv 2606.11075, section 3.
    """
    at_zero, at_one = gradient(0.0), gradient(1.0)
    for scale in (2.0, -3.0):
        line = {name: at_zero[name] + scale * (at_one[name] - at_zero[name]) for name in at_zero}
        assert_gradients_close(
            "gradient as an affine function of the Jacobian", gradient(scale), line, tolerance
        )

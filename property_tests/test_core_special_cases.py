"""Methods that must coincide, and the exact gradient against plain autograd."""

from __future__ import annotations

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    Lagrange,
    LeapAlign,
    ReFL,
    Segment,
    Sparse,
    Surrogate,
    Trajectory,
    euler,
    exact_vjp,
    read,
    residuals,
    surrogate_vjp,
    sweep,
)
from flowbp.core import functional_pull as pull_of
from flowbp.testing import (
    Problem,
    assert_gradients_close,
    joint_gradient,
    with_jacobian_scale,
)
from flowbp.testing.strategies import generators, problems

from .strategies import methods, pairs

TIGHT = 1e-12


def cotangent(path: Trajectory) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(path.latents.shape[1:], generator=generator, dtype=torch.float64)


def unrolled_gradient(problem: Problem, g: torch.Tensor, last: int) -> dict[str, torch.Tensor]:
    """Plain autograd through the sampler's own loop, its last steps only."""
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    steps = problem.sigmas.shape[0] - 1
    x = problem.noise
    for i in range(steps):
        params = leaves if i >= steps - last else problem.params
        v = problem.field(params, x, problem.sigmas[i])
        x = x + (problem.sigmas[i + 1] - problem.sigmas[i]) * v
    gradients = torch.autograd.grad((x * g).sum(), list(leaves.values()))
    return dict(zip(leaves, gradients, strict=True))


def adjoint_gradient(problem: Problem, path: Trajectory, g: torch.Tensor, last: int):
    """`lambda_i = lambda_{i+1} + (sigma_{i+1} - sigma_i) J_iᵀ lambda_{i+1}`, step by step."""
    total = {name: torch.zeros_like(p) for name, p in problem.params.items()}
    for i in reversed(range(path.steps - last, path.steps)):
        sigma, delta = path.sigmas[i], path.sigmas[i + 1] - path.sigmas[i]

        def velocity(params, x, sigma=sigma):
            return problem.field(params, x, sigma)

        _, back = torch.func.vjp(velocity, problem.params, path.latents[i])
        gradients, u = back(delta * g)
        total = {name: total[name] + gradients[name] for name in total}
        g = g + u
    return total


@given(problem=problems(), data=st.data())
def test_draft_s_surrogate_has_the_exact_gradient(problem, data):
    """The bridged one-step segments against the adjoint recursion, which is written apart."""
    steps = problem.sigmas.shape[0] - 1
    last = data.draw(st.integers(1, steps))
    path, generator = problem.rollout(), torch.Generator()
    g = cotangent(path)
    surrogate = DRaFT(last=last).draw(problem.sigmas, generator)
    found = surrogate_vjp(problem.field, problem.params, path, surrogate, g)
    wanted = adjoint_gradient(problem, path, g, last)
    assert_gradients_close("DRaFT", found, wanted, 1e-13)
    exact = exact_vjp(problem.field, problem.params, path, g, last=last)
    assert_gradients_close("exact", exact, wanted, 1e-13)


@given(problem=problems(), data=st.data())
def test_exact_vjp_is_plain_autograd_through_the_rollout(problem, data):
    steps = problem.sigmas.shape[0] - 1
    last = data.draw(st.none() | st.integers(1, steps))
    path = problem.rollout()
    g = cotangent(path)
    exact = exact_vjp(problem.field, problem.params, path, g, last=last)
    assert_gradients_close("exact", exact, unrolled_gradient(problem, g, last or steps), 1e-10)


@given(problem=problems(), data=st.data())
def test_draft_is_exact_vjp(problem, data):
    last = data.draw(st.integers(1, problem.sigmas.shape[0] - 1))
    path = problem.rollout()
    g = cotangent(path)
    surrogate = DRaFT(last=last).draw(problem.sigmas, torch.Generator())
    drawn = sweep(surrogate, path, g, pull_of(problem.field, problem.params))
    exact = exact_vjp(problem.field, problem.params, path, g, last=last)
    assert_gradients_close("DRaFT", drawn, exact, 0)


@given(problem=problems(), generator=generators())
def test_one_step_methods_coincide(problem, generator):
    """Sparse with A = {N-1}, ReFL(last=1), DRaFTLV(noised=0) are all DRaFT(last=1)."""
    sigmas, path = problem.sigmas, problem.rollout()
    steps, g = path.steps, cotangent(path)
    one = exact_vjp(problem.field, problem.params, path, g, last=1)
    sparse = Surrogate((Segment(0, steps, euler(sigmas, 0, steps), {steps - 1: 1.0}),))
    refl = ReFL(last=1).draw(sigmas, generator)
    draft_lv = DRaFTLV(noised=0).draw(sigmas, generator)
    for surrogate in (sparse, refl, draft_lv):
        gradient = surrogate_vjp(problem.field, problem.params, path, surrogate, g)
        assert_gradients_close(str(surrogate), gradient, one, TIGHT)
    assert torch.allclose(read(refl, path), path.sample, rtol=0, atol=1e-13)


@given(problem=problems(min_steps=2), seed=st.integers(0, 10**6), data=st.data())
def test_lagrange_of_order_one_is_leapalign(problem, seed, data):
    pair = data.draw(pairs(problem.sigmas.shape[0] - 1))
    alpha, tau = data.draw(st.floats(0, 1)), data.draw(st.floats(0.01, 1))
    scale, rho = data.draw(st.floats(0, 3)), data.draw(st.floats(0, 1))
    leap = LeapAlign(alpha=alpha, tau=tau, pair=pair)
    lagrange = Lagrange(
        order=1, active=1, support_scale=scale, rescale=rho, alpha=alpha, tau=tau, pair=pair
    )
    first, second = (
        method.draw(problem.sigmas, torch.Generator().manual_seed(seed))
        for method in (leap, lagrange)
    )
    sigmas = problem.sigmas.tolist()
    k, j = first.segments[0].start, first.segments[1].start
    wanted = Surrogate(
        (
            Segment(k, j, {k: sigmas[j] - sigmas[k]}, {k: 1.0}),
            Segment(j, len(sigmas) - 1, {j: -sigmas[j]}, {j: 1.0}),
        ),
        alpha=alpha,
        residual_floor=tau,
    )
    path = problem.rollout()
    g = cotangent(path)
    gradient = surrogate_vjp(problem.field, problem.params, path, wanted, g)
    for surrogate in (first, second):
        assert (surrogate.alpha, surrogate.residual_floor, surrogate.reward_input) == (
            alpha,
            tau,
            "sample",
        )
        drawn = surrogate_vjp(problem.field, problem.params, path, surrogate, g)
        assert_gradients_close("leap", drawn, gradient, TIGHT)


@given(problem=problems(min_steps=2), generator=generators(), data=st.data())
def test_bridge_without_alpha_is_sparse_with_its_active_set(problem, generator, data):
    steps = problem.sigmas.shape[0] - 1
    active = data.draw(st.integers(2, steps))
    rho = data.draw(st.floats(0, 1))
    bridge = Bridge(active=active, alpha=0.0, rescale=rho).draw(problem.sigmas, generator)
    before, after = bridge.segments
    gammas = {**before.active, **after.active}
    assert len(gammas) == active and len(set(gammas.values())) == 1
    assert after.start in after.active and before.active
    sparse = Surrogate((Segment(0, steps, euler(problem.sigmas, 0, steps), gammas),))
    path = problem.rollout()
    g = cotangent(path)
    assert_gradients_close(
        "bridge",
        surrogate_vjp(problem.field, problem.params, path, bridge, g),
        surrogate_vjp(problem.field, problem.params, path, sparse, g),
        TIGHT,
    )


@given(problem=problems(), generator=generators(), rho=st.floats(0, 1))
def test_sparse_with_all_steps_is_the_exact_gradient_without_jacobians(problem, generator, rho):
    path = problem.rollout()
    surrogate = Sparse(active=path.steps, rescale=rho).draw(problem.sigmas, generator)
    g = cotangent(path)
    blind = with_jacobian_scale(problem.field, 0.0)
    assert_gradients_close(
        "sparse",
        surrogate_vjp(problem.field, problem.params, path, surrogate, g),
        exact_vjp(blind, problem.params, path, g),
        TIGHT,
    )


@given(problem=problems(min_steps=2, max_steps=2), generator=generators())
def test_two_steps_fully_bridged_are_exact(problem, generator):
    path = problem.rollout()
    g = cotangent(path)
    exact = exact_vjp(problem.field, problem.params, path, g)
    for method in (LeapAlign(alpha=1.0), Lagrange(alpha=1.0), Bridge(active=2, alpha=1.0)):
        surrogate = method.draw(problem.sigmas, generator)
        gradient = surrogate_vjp(problem.field, problem.params, path, surrogate, g)
        assert_gradients_close(type(method).__name__, gradient, exact, TIGHT)
        assert all(bool((d < 1e-13).all()) for d in residuals(surrogate, path))


@given(problem=problems(min_steps=2), generator=generators(), data=st.data())
def test_the_gradient_is_linear_in_gamma_and_rescale_reaches_the_whole_window(
    problem, generator, data
):
    """With rho = 1, the active weights times gamma sum to those of the window, in size."""
    steps = problem.sigmas.shape[0] - 1
    length = data.draw(st.integers(2, steps))
    active = data.draw(st.integers(2, length))
    tail, window = length / steps, range(steps - length, steps)
    span = float(problem.sigmas[window.start])
    for method in (
        Sparse(active=active, rescale=1.0, tail=tail),
        Bridge(active=active, rescale=1.0, tail=tail),
    ):
        surrogate = method.draw(problem.sigmas, generator)
        drawn = {
            i: (s.weights[i], gamma) for s in surrogate.segments for i, gamma in s.active.items()
        }
        assert set(drawn) <= set(window) and len(drawn) == active
        assert abs(sum(abs(w) * gamma for w, gamma in drawn.values()) - span) < 1e-12
    surrogate = Lagrange(order=3, active=2, support_scale=1.0, rescale=1.0).draw(
        problem.sigmas, generator
    )
    for segment in surrogate.segments:
        kept = sum(abs(segment.weights[i]) * gamma for i, gamma in segment.active.items())
        whole = sum(map(abs, segment.weights.values()))
        assert abs(kept - whole) < 1e-12 * whole


@given(problem=problems(), data=st.data())
def test_a_gradient_is_linear_in_its_cotangent(problem, data):
    method = data.draw(methods(problem.sigmas.shape[0] - 1))
    surrogate = method.draw(problem.sigmas, data.draw(generators()))
    surrogate = attrs.evolve(surrogate, noised=0)
    path = problem.rollout()
    g = cotangent(path)
    pull = pull_of(problem.field, problem.params)
    once, thrice = sweep(surrogate, path, g, pull), sweep(surrogate, path, -3 * g, pull)
    assert_gradients_close(
        "linear", thrice, {name: -3 * each for name, each in once.items()}, TIGHT
    )
    joint = joint_gradient(problem.field, problem.params, path, surrogate, lambda x: (x * g).sum())
    assert_gradients_close("joint", once, joint, 1e-10)

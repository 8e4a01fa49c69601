"""The method check finds faults, and the oracle is right where the answer is known by hand."""

from __future__ import annotations

import itertools

import attrs
import pytest
import torch

from flowbp.core import Bridge, LeapAlign, Segment, Sparse, Surrogate, rollout, sweep
from flowbp.core import functional_pull as pull_of
from flowbp.testing import (
    assert_affine,
    assert_gradients_close,
    check_method,
    check_streamed,
    check_surrogate,
    joint_gradient,
    random_problem,
    with_jacobian_scale,
)
from flowbp.testing.assertions import relative_gap


def surrogate_of(*weights: float, active=None, **changed):
    steps = len(weights)
    segment = Segment(0, steps, dict(enumerate(weights)), active or {0: 1.0})
    return Surrogate((segment,), **changed)


class Drawing:
    """A method from a function."""

    def __init__(self, rule):
        self.rule = rule

    def draw(self, sigmas, generator):
        return self.rule(sigmas, generator)


CALLS = itertools.count(1)


def with_a_memory(sigmas, generator):
    return Sparse(active=next(CALLS)).draw(sigmas, generator)


def with_unused_global_randomness(sigmas, generator):
    torch.rand(())
    return Sparse(active=2).draw(sigmas, generator)


def with_changed_sigmas(sigmas, generator):
    surrogate = Sparse(active=2).draw(sigmas, generator)
    sigmas[1] -= 1e-3
    return surrogate


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (with_a_memory, "nothing but the grid and the generator"),
        (with_unused_global_randomness, "advanced torch's own"),
        (with_changed_sigmas, "must not change `sigmas`"),
        (lambda s, g: surrogate_of(-0.5, -0.5), "`segments` must end at 25"),
        (lambda s, g: surrogate_of(*[-0.05] * 25), "`weights` must sum to"),
    ],
)
def test_faults_of_a_method_are_found(rule, message):
    with pytest.raises(AssertionError, match=message):
        check_method(Drawing(rule), sigmas=torch.linspace(1, 0, 26))


def test_a_method_that_draws_no_surrogate_is_found():
    with pytest.raises(TypeError, match=r"Drawing\.draw must return a flowbp\.Surrogate, got None"):
        check_method(Drawing(lambda sigmas, generator: None))


@attrs.frozen
class WrongHorizon:
    segments: tuple[Segment, ...]
    horizon: int
    alpha: float = 0.0
    reward_input: str = "sample"
    residual_floor: float | None = None
    noised: int = 0


def test_a_wrong_horizon_is_found():
    surrogate = WrongHorizon((Segment(0, 2, {0: -0.5, 1: -0.5}, {0: 1.0}),), horizon=1)
    with pytest.raises(AssertionError, match=r"`horizon` must be 2.*got 1"):
        check_surrogate(surrogate, torch.linspace(1, 0, 3))


def test_a_surrogate_that_changes_the_trajectory_is_found():
    class Vandal:
        """A field that writes to the latents it is given."""

        def __init__(self, field):
            self.field, self.calls = field, 0

        def __call__(self, params, x, sigma):
            self.calls += 1
            v = self.field(params, x, sigma)
            if self.calls > 4:
                x.detach().mul_(1.0 + 1e-14)
            return v

    problem = random_problem(torch.linspace(1, 0, 5))
    broken = attrs.evolve(problem, field=Vandal(problem.field))
    surrogate = Sparse(active=2).draw(problem.sigmas, torch.Generator())
    with pytest.raises((AssertionError, RuntimeError), match=r"must not change|inplace"):
        check_streamed(surrogate, broken)


def test_a_wrong_sweep_would_be_found():
    """The joint gradient of another alpha, gamma or weight is not this surrogate's."""
    problem = random_problem(torch.linspace(1, 0, 9), seed=4)
    surrogate = Bridge(active=4, alpha=0.5).draw(problem.sigmas, torch.Generator().manual_seed(0))
    path, g = problem.rollout(), torch.ones_like(problem.noise)
    streamed = sweep(surrogate, path, g, pull_of(problem.field, problem.params))
    before, after = surrogate.segments
    others = [
        attrs.evolve(surrogate, alpha=0.6),
        attrs.evolve(surrogate, segments=(before, attrs.evolve(after, active={after.start: 1.0}))),
        attrs.evolve(surrogate, segments=(attrs.evolve(before, active={}), after)),
    ]
    for other in others:
        joint = joint_gradient(problem.field, problem.params, path, other, torch.sum)
        with pytest.raises(AssertionError, match="must agree to 1e-10"):
            assert_gradients_close("gradient", streamed, joint, 1e-10)


def test_the_oracle_against_a_derivation_by_hand():
    """`v = a x`: two leaps with alpha: d/da [-sj vj] + [sj - sk] vk-part (1 - alpha sj a)."""
    a, alpha = torch.tensor(0.7, dtype=torch.float64), 0.3
    sigmas = torch.tensor([1.0, 0.75, 0.4, 0.0], dtype=torch.float64)
    path = rollout(lambda x, s: a * x, torch.full((1, 1), 2.0, dtype=torch.float64), sigmas)
    leaps = Surrogate(
        (Segment(0, 2, {0: -0.6}, {0: 1.0}), Segment(2, 3, {2: -0.4}, {2: 2.0})), alpha=alpha
    )
    x_k, x_j = float(path.latents[0]), float(path.latents[2])
    late = -0.4 * 2.0 * x_j
    early = -0.6 * x_k * (1 - 0.4 * 2.0 * alpha * float(a))
    joint = joint_gradient(lambda p, x, s: p["a"] * x, {"a": a}, path, leaps, torch.sum)
    assert abs(float(joint["a"]) - (late + early)) < 1e-14


def test_scaling_the_jacobian_changes_nothing_else():
    problem = random_problem(torch.linspace(1, 0, 4))
    sigma = torch.tensor(0.5, dtype=torch.float64)
    scaled = with_jacobian_scale(problem.field, 3.0)
    x, g = problem.noise, torch.ones_like(problem.noise)
    for field, factor in [(problem.field, 1.0), (scaled, 3.0)]:
        value, vjp = torch.func.vjp(lambda p, y, f=field: f(p, y, sigma), problem.params, x)
        gradients, u = vjp(g)
        if factor == 1.0:
            wanted = value, gradients, u
    assert torch.equal(value, wanted[0])
    assert_gradients_close("params", gradients, wanted[1], 0)
    assert torch.allclose(u, 3 * wanted[2], rtol=1e-14)


def test_a_quadratic_is_not_affine():
    with pytest.raises(AssertionError, match="affine"):
        assert_affine(lambda scale: {"a": torch.tensor(scale**2)})


def test_gaps():
    assert relative_gap(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_gap(torch.ones(2), torch.zeros(2)) == float("inf")
    assert relative_gap(torch.tensor([float("nan")]), torch.ones(1)) == float("inf")
    with pytest.raises(AssertionError, match=r"same parameters.*'b'"):
        assert_gradients_close("g", {"a": torch.ones(1)}, {"b": torch.ones(1)}, 1.0)
    with pytest.raises(AssertionError, match="gap of nan at 'a'"):
        assert_gradients_close("g", {"a": torch.tensor([float("nan")])}, {"a": torch.ones(1)}, 1.0)


def test_grids_other_than_the_default_are_used():
    check_method(LeapAlign(), sigmas=torch.tensor([1.0, 0.9, 0.2, 0.0]), draws=3)
    with pytest.raises(ValueError, match="`active`"):
        check_method(Sparse(active=4), sigmas=torch.tensor([1.0, 0.5, 0.0]))

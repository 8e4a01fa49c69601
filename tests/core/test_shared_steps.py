"""Supports before a segment's start: shared with an earlier segment, read, pulled, predicted."""

from __future__ import annotations

import pytest
import torch

from flowbp.core import (
    Pulled,
    Segment,
    Surrogate,
    Trajectory,
    anchor_term,
    functional_pull,
    read,
    residuals,
    sweep,
)
from flowbp.testing import (
    anchor_penalty,
    assert_gradients_close,
    joint_gradient,
    random_problem,
)

SIGMAS = torch.tensor([1.0, 0.8, 0.55, 0.3, 0.1, 0.0], dtype=torch.float64)
# Step 1 is active in both segments, 0 in the second alone, 2 is cached in the second.
EARLY = Segment(1, 3, {1: -0.3, 2: -0.2}, {1: 0.7, 2: 1.5})
LATE = Segment(3, 5, {3: -0.9, 2: 0.8, 1: -0.4, 0: 0.2}, {3: 1.2, 1: 0.5, 0: 2.0})
SURROGATE = Surrogate((EARLY, LATE), alpha=0.6)


def by_hand(problem, path: Trajectory, g: torch.Tensor) -> dict[str, torch.Tensor]:
    """The sum over every active velocity of its share, each by autograd of its own."""
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    x = path.latents.clone().requires_grad_()
    v = [problem.field(leaves, x[i], SIGMAS[i]) for i in range(4)]
    late = -0.9 * 1.2 * g
    (u,) = torch.autograd.grad(v[3], x, late, retain_graph=True)
    earlier = g + 0.6 * u[3]
    pulled = {
        3: late,
        2: -0.2 * 1.5 * earlier,
        1: -0.4 * 0.5 * g - 0.3 * 0.7 * earlier,
        0: 0.2 * 2.0 * g,
    }
    total = sum((v[i] * c).sum() for i, c in pulled.items())
    return dict(zip(leaves, torch.autograd.grad(total, list(leaves.values())), strict=True))


def test_the_gradient_by_hand_the_oracle_s_and_the_sweep_s():
    problem = random_problem(SIGMAS, seed=3)
    path, g = problem.rollout(), torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    wanted = by_hand(problem, path, g)
    pull = functional_pull(problem.field, problem.params)
    swept = sweep(SURROGATE, path, g, pull)
    joint = joint_gradient(problem.field, problem.params, path, SURROGATE, lambda x: (x * g).sum())
    assert_gradients_close("joint", joint, wanted, 1e-13)
    assert_gradients_close("swept", swept, wanted, 1e-13)


def test_a_shared_step_is_pulled_once_and_anchored_once():
    problem = random_problem(SIGMAS, seed=4)
    path, g = problem.rollout(), torch.ones(2, 3, dtype=torch.float64)
    pulls, asked = [], []
    pull = functional_pull(problem.field, problem.params)

    def watched(x, sigma, cotangents) -> Pulled:
        pulls.append((float(sigma), cotangents.through_latents))
        return pull(x, sigma, cotangents)

    def reference(x, sigma):
        return 0.5 * problem.velocity(x, sigma)

    def anchor(step: int) -> torch.Tensor:
        asked.append(step)
        return anchor_term(SURROGATE, path, step, reference, 2.0).cotangent

    swept = sweep(SURROGATE, path, g, watched, parameter_cotangent=anchor)
    assert asked == [3, 2, 1, 0]
    assert pulls == [(float(SIGMAS[i]), i == 3) for i in asked]
    joint = joint_gradient(
        problem.field,
        problem.params,
        path,
        SURROGATE,
        lambda x: (x * g).sum(),
        penalty=anchor_penalty(path, reference, 2.0),
    )
    assert_gradients_close("anchored", swept, joint, 1e-13)


@pytest.mark.parametrize("weights", [{3: -0.9, 2: 0.8, 0: -0.2}, {1: -0.3}])
def test_predictions_wait_for_the_start_of_their_segment(weights):
    """The prediction starts from x_3, whichever velocities it goes on with."""
    problem = random_problem(SIGMAS, seed=5)
    last = Segment(3, 5, weights, dict.fromkeys(weights, 1.0))
    surrogate = Surrogate((last,), reward_input="posterior_mean")
    assert surrogate.horizon == (4 if 3 in weights else 3)
    path = problem.rollout(surrogate.horizon)
    wanted = path.latents[3] + sum(w * path.velocities[i] for i, w in weights.items())
    assert torch.allclose(read(surrogate, path), wanted, rtol=0, atol=1e-14)
    whole = problem.rollout()
    (d,) = residuals(surrogate, whole)
    assert torch.allclose(d, (wanted - whole.sample).abs().mean(dim=1), rtol=1e-13)


def test_only_the_joint_s_own_segment_reaches_its_latents():
    """With three segments a joint may be a support of a later one: no Jacobian for that part."""
    problem = random_problem(SIGMAS, seed=6)
    three = (
        Segment(0, 2, {0: -0.2, 1: -0.25}, {0: 1.0, 1: 1.0}),
        Segment(2, 4, {2: -0.5, 1: 0.05}, {2: 1.0, 1: 0.5}),
        Segment(4, 5, {4: -0.3, 2: 0.2}, {4: 1.0, 2: 1.5}),
    )
    surrogate = Surrogate(three, alpha=0.4)
    path, g = problem.rollout(), torch.ones(2, 3, dtype=torch.float64)
    swept = sweep(surrogate, path, g, functional_pull(problem.field, problem.params))
    joint = joint_gradient(problem.field, problem.params, path, surrogate, lambda x: (x * g).sum())
    assert_gradients_close("three segments", swept, joint, 1e-12)

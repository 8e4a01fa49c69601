"""Illegal grids, segments, surrogates and pulls: the error says what would be legal."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from flowbp.core import (
    Cotangents,
    Segment,
    Sparse,
    Surrogate,
    Trajectory,
    adams_bashforth,
    euler,
    evenly_spaced,
    exact_vjp,
    functional_pull,
    in_micro_batches,
    late_biased,
    loss_weights,
    module_pull,
    multistep,
    read,
    rollout,
    sweep,
)

from .refusing import refused

GRID = torch.linspace(1, 0, 6)
STEP = Segment(0, 1, {0: -1.0}, {0: 1.0})


def test_segments_and_surrogates():
    refused("stop", 0, ">= 1", lambda: Segment(0, 0, {0: 1.0}, {}))
    with pytest.raises(ValueError, match="`stop` must come after `start`, got 3 to 2"):
        Segment(3, 2, {}, {})
    with pytest.raises(ValueError, match=r"`weights`.*\[0, 3\).*got 3: 1.0"):
        Segment(1, 3, {3: 1.0}, {})
    with pytest.raises(ValueError, match=r"`weights`.*finite.*nan"):
        Segment(1, 3, {1: math.nan}, {})
    with pytest.raises(ValueError, match=r"`weights`.*\[0, 3\).*got -1: 1.0"):
        Segment(1, 3, {-1: 1.0}, {})
    with pytest.raises(ValueError, match=r"`active`.*supports \[1\].*got \[0\]"):
        Segment(1, 3, {1: 1.0}, {0: 1.0})
    with pytest.raises(ValueError, match=r"`active`.*supports \[1\].*got \[2\]"):
        Segment(1, 3, {1: 1.0}, {2: 1.0})
    with pytest.raises(ValueError, match="`weights` must name at least one step"):
        Segment(1, 3, {}, {})
    with pytest.raises(ValueError, match=r"`segments`.*at least one segment, got none"):
        Surrogate(())
    with pytest.raises(ValueError, match=r"`segments` must join.*stops at 1.*starts at 0"):
        Surrogate((STEP, STEP, STEP))
    with pytest.raises(ValueError, match=r"`segments` must join.*stops at 1.*starts at 2"):
        Surrogate((STEP, Segment(2, 3, {2: 1.0}, {})))
    with pytest.raises(ValueError, match=r"`noised`.*noised=1.*from 0 to 2"):
        Surrogate((Segment(0, 2, {0: -1.0}, {0: 1.0}),), noised=1)


@pytest.mark.parametrize(
    "sigmas",
    [
        torch.tensor([1.0]),
        torch.ones(2, 2),
        torch.tensor([0.0, 1.0]),
        torch.tensor([1.0, 0.5]),
        torch.tensor([1.5, 0.0]),
        torch.tensor([1.0, math.nan, 0.0]),
        torch.tensor([1.0, 0.5, 0.5, 0.0]),
    ],
)
def test_grids(sigmas):
    for use in (
        lambda: rollout(lambda x, sigma: x, torch.ones(1, 1), sigmas),
        lambda: Sparse(active=1).draw(sigmas, torch.Generator()),
        lambda: euler(sigmas, 0, 1),
    ):
        with pytest.raises(ValueError, match="`sigmas` must"):
            use()


def test_quadrature():
    with pytest.raises(ValueError, match=r"`start` and `stop`.*start=3, stop=3.*5 steps"):
        euler(GRID, 3, 3)
    with pytest.raises(ValueError, match=r"`start` and `stop`.*start=0, stop=6"):
        euler(GRID, 0, 6)
    for supports in [(), (1, 1), (0, 4), (5,)]:
        with pytest.raises(ValueError, match=r"`supports`.*\[1, 4\)"):
            euler(GRID, 1, 4, supports)
    refused("order", 0, ">= 1", lambda: adams_bashforth(GRID, 0, 3, order=0))
    refused("order", 0, ">= 1", lambda: multistep(GRID, 0, 3, order=0))
    refused("count", 0, ">= 1", lambda: evenly_spaced(0, 3, 0))
    refused("count", 4, "[0, 3]", lambda: late_biased(range(3), 4, 1.0, torch.Generator()))


def test_trajectories():
    velocity = lambda x, sigma: -x  # noqa: E731
    for stop in (0, 6):
        refused(
            "stop", stop, "[1, 5]", partial(rollout, velocity, torch.ones(1, 2), GRID, stop=stop)
        )
    path = rollout(velocity, torch.ones(2, 3), GRID, stop=2)
    refused("step", 2, "[0, 1]", lambda: path.posterior_mean(2))
    with pytest.raises(ValueError, match="after 2 of 5 steps"):
        _ = path.sample
    with pytest.raises(ValueError, match=r"`latents`.*got 3 latents and 3 velocities"):
        Trajectory(GRID, torch.ones(3, 1), torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"`velocities`.*got"):
        Trajectory(GRID, torch.ones(3, 1), torch.ones(2, 2))


def test_surrogates_of_another_rollout():
    velocity = lambda x, sigma: -x  # noqa: E731
    path = rollout(velocity, torch.ones(2, 3), GRID)
    short = rollout(velocity, torch.ones(2, 3), GRID, stop=2)
    surrogate = Sparse(active=1).draw(GRID, torch.Generator())
    other = Sparse(active=1).draw(torch.linspace(1, 0, 4), torch.Generator())
    pull = module_pull(velocity)
    for use in (read, loss_weights, lambda s, t: sweep(s, t, torch.ones(2, 3), pull)):
        with pytest.raises(ValueError, match=r"`surrogate`.*last step 5.*ends at 3"):
            use(other, path)
        with pytest.raises(ValueError, match=r"`trajectory`.*5 steps.*got 2.*surrogate\.horizon"):
            use(surrogate, short)
    with pytest.raises(ValueError, match=r"`cotangent`.*\(2, 3\).*got \(2, 1\)"):
        sweep(surrogate, path, torch.ones(2, 1), pull)
    for last in (0, 6):
        refused(
            "last",
            last,
            "[1, 5]",
            partial(exact_vjp, lambda p, x, s: x, {}, path, torch.ones(2, 3), last=last),
        )


def test_pulls():
    refused("size", 0, ">= 1", lambda: in_micro_batches(lambda samples: None, 0))
    x, pull = torch.ones(1), module_pull(lambda x, sigma: -x)
    with pytest.raises(ValueError, match=r"`velocity`.*requires_grad=True"):
        pull(x, torch.tensor(1.0), Cotangents(x, through_latents=False))


def test_saved_tensor_hooks_under_a_functional_pull():
    x, params = torch.ones(1, 2), {"a": torch.tensor(2.0)}

    def recomputed(p, y, sigma):
        return checkpoint(lambda a, z: (a * z).tanh(), p["a"], y, use_reentrant=False)

    message = (
        r"`velocity`.*gradient checkpointing.*gradient_checkpointing off, or use `module_pull`"
    )
    for through_latents in (True, False):
        with pytest.raises(RuntimeError, match=message):
            functional_pull(recomputed, params)(
                x, torch.tensor(1.0), Cotangents(x, through_latents=through_latents)
            )
    # A refusal leaves no hook disabled behind it.
    leaf = torch.tensor(2.0, requires_grad=True)
    module_pull(lambda y, sigma: recomputed({"a": leaf}, y, sigma))(
        x, torch.tensor(1.0), Cotangents(x, through_latents=False)
    )
    assert leaf.grad is not None


def test_a_scheduler_s_timesteps_and_a_list_are_refused_with_the_cure():
    with pytest.raises(ValueError, match=r"at most 1, got 1000 first.*1000 times.*divide them"):
        Sparse(active=1).draw(torch.tensor([1000.0, 500.0, 0.0]), torch.Generator())
    with pytest.raises(TypeError, match=r"`sigmas` must be a tensor \(N\+1,\), got list"):
        rollout(lambda x, sigma: x, torch.ones(1, 1), [1.0, 0.0])

"""The anchor reaches the parameters alone: nothing of it goes back along the path."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from flowbp.core import (
    Bridge,
    Cotangents,
    DRaFT,
    Lagrange,
    LeapAlign,
    Pull,
    anchor_term,
    functional_pull,
    guided_pull,
    guided_velocity,
    in_micro_batches,
    module_pull,
    rollout,
    sweep,
)
from flowbp.testing import assert_close, assert_gradients_close, random_problem

STEPS = 9
SIGMAS = torch.linspace(1, 0, STEPS + 1, dtype=torch.float64)
A, B, STRENGTH, SCALE = 1.5, 0.25, 0.7, 3.0
METHODS = [
    Bridge(active=3, late_bias=4.0, rescale=0.5, alpha=1.0),
    Bridge(active=5, alpha=0.1),
    LeapAlign(alpha=1.0),
    Lagrange(alpha=1.0),
    DRaFT(last=STEPS),
    DRaFT(last=2),
]


def affine(jacobian: float):
    """`v = J x + a`: its distance to `J x + b` is `a - b` wherever x is."""
    return lambda p, x, sigma: jacobian * x + p["a"]


def fields(jacobian: float, a: Tensor):
    return lambda x, sigma: affine(jacobian)({"a": a}, x, sigma)


def anchor_alone(method, jacobian: float, kind: str, g: Tensor) -> tuple[float, float]:
    """dP/da as the difference that the anchor makes, and what it must be."""
    leaf = torch.tensor(A, dtype=torch.float64, requires_grad=True)
    params, other = {"a": leaf.detach()}, torch.tensor(B, dtype=torch.float64)
    functional, module = functional_pull(affine(jacobian), params), module_pull
    # The negative branch is `2 J x - a`, so that a term of either Jacobian would be seen.
    opposite, known = (lambda x, sigma: 2 * jacobian * x - leaf), 1.0
    positive: Pull = functional if kind == "functional" else module(fields(jacobian, leaf))
    pull, sampler, reference = positive, fields(jacobian, params["a"]), fields(jacobian, other)
    if kind == "split":
        pull = in_micro_batches(lambda samples: positive, 2)
    if kind.startswith("guided"):
        detached = kind == "guided, detached"
        pull = guided_pull(positive, None if detached else module(opposite), SCALE)
        sampler = guided_velocity(sampler, lambda x, s: opposite(x, s).detach(), SCALE)
        reference = guided_velocity(reference, lambda x, s: 2 * jacobian * x - other, SCALE)
        # Guided, the two differ by `(2 s - 1) (a - b)`; detached, dv/da is s alone.
        known = (2 * SCALE - 1) * (SCALE if detached else 2 * SCALE - 1)
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path = rollout(sampler, noise, SIGMAS)
    surrogate = method.draw(SIGMAS, torch.Generator().manual_seed(3))

    def anchor(step: int) -> Tensor:
        return anchor_term(surrogate, path, step, reference, STRENGTH).cotangent

    found = []
    for each in (None, anchor):
        leaf.grad = None
        gradients = sweep(surrogate, path, g, pull, parameter_cotangent=each)
        found.append(gradients["a"] if gradients else leaf.grad)
    return (found[1] - found[0]).item(), 2 * STRENGTH * (A - B) * known


@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["functional", "module", "split", "guided", "guided, detached"])
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_of_an_affine_field_it_is_the_same_whatever_surrogate_alpha_and_jacobian(
    method, kind, reward
):
    g = torch.full((3, 2), reward, dtype=torch.float64)
    for jacobian in (0.0, 0.5, -2.0):
        found, known = anchor_alone(method, jacobian, kind, g)
        assert found == pytest.approx(known, rel=1e-9)


def kinds_of_pull(problem, leaves) -> dict[str, Pull]:
    def module() -> Pull:
        return module_pull(lambda x, sigma: problem.field(leaves, x, sigma))

    functional = functional_pull(problem.field, problem.params)
    return {
        "functional": functional,
        "module": module(),
        "guided": guided_pull(functional, functional, SCALE),
        "guided module": guided_pull(module(), module(), SCALE),
        "split": in_micro_batches(lambda samples: module(), 2),
    }


@pytest.mark.parametrize("through", [False, True])
@pytest.mark.parametrize("kind", ["functional", "module", "guided", "guided module", "split"])
def test_a_pull_gives_the_parameters_both_and_the_latents_one(kind, through):
    problem = random_problem(SIGMAS, event=(2,), batch=3)
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}
    pull = kinds_of_pull(problem, leaves)[kind]
    x, c, d = problem.noise, problem.noise.cos(), problem.noise.sin()

    def pulled(cotangent: Tensor, parameters: Tensor | None):
        for leaf in leaves.values():
            leaf.grad = torch.ones_like(leaf)
        back = Cotangents(cotangent, parameters, through_latents=through)
        found = pull(x, SIGMAS[2], back)
        return found.latents, found.gradients or {k: p.grad - 1 for k, p in leaves.items()}

    u, gradients = pulled(c, d)
    assert_gradients_close("gradient", gradients, pulled(c + d, None)[1], 1e-12)
    alone = pulled(c, None)[0]
    assert (u is None and alone is None) if not through else torch.equal(u, alone)
    assert not x.requires_grad and x.grad is None


def test_latents_that_the_velocity_does_not_read_get_zero():
    a, x = torch.tensor(2.0, requires_grad=True), torch.ones(2, 3)
    pull = module_pull(lambda y, sigma: a * torch.ones_like(y))
    pulled = pull(x, SIGMAS[0], Cotangents(x, x, through_latents=True))
    assert_close("latents", pulled.latents, torch.zeros(2, 3), 0)
    assert a.grad == 12


class Passes:
    """A count that torch.func does not copy, as it would a list."""

    def __init__(self) -> None:
        self.count = 0


class Passed(torch.autograd.Function):
    """The identity, which counts the passes back through it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, passes: Passes) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.passes = inputs[1]

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        ctx.passes.count += 1
        return gradients[0], None


@pytest.mark.parametrize("kind", ["functional", "module"])
def test_only_at_a_joint_is_there_a_second_pass_over_the_one_graph(kind):
    passes, calls = Passes(), Passes()
    leaf = torch.tensor(0.5, requires_grad=True)

    def field(p, x, sigma):
        calls.count += 1
        return Passed.apply(p["a"] * x, passes)

    pull: Pull = functional_pull(field, {"a": leaf.detach()})
    if kind == "module":
        pull = module_pull(lambda x, sigma: field({"a": leaf}, x, sigma))
    x = torch.ones(2, 3)
    for through, parameters, expected in [
        (False, None, 1),
        (False, x, 1),
        (True, None, 1),
        (True, x, 2),
    ]:
        passes.count = calls.count = 0
        pull(x, SIGMAS[0], Cotangents(x, parameters, through_latents=through))
        assert (calls.count, passes.count) == (1, expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_checkpoint_is_recomputed_in_both_passes_alike(autocast, dropout):
    """The same dropout mask and dtypes, and the same bits as without checkpointing."""
    runs = []

    def counted(x: Tensor) -> Tensor:
        runs.append(1)
        return block(x)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        block = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.GELU(), torch.nn.Dropout(dropout), torch.nn.Linear(8, 4)
        )
        x, c, d = torch.randn(3, 5, 4)
        found = []
        for recompute in (False, True):

            def velocity(y: Tensor, sigma: Tensor, recompute: bool = recompute) -> Tensor:
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    v = checkpoint(counted, y, use_reentrant=False) if recompute else counted(y)
                return v.float()

            torch.manual_seed(1)
            block.zero_grad()
            runs.clear()
            back = Cotangents(c, d, through_latents=True)
            u = module_pull(velocity)(x, SIGMAS[0], back).latents
            assert len(runs) == (3 if recompute else 1)
            found.append({"x": u} | {name: p.grad for name, p in block.named_parameters()})
    assert found[0]["x"].any()
    assert_gradients_close("gradient", found[1], found[0], 0)

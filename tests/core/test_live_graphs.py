"""The reason the library exists: one live velocity graph, whatever the number of active steps."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from flowbp.core import (
    Bridge,
    DRaFT,
    Lagrange,
    Pull,
    Sparse,
    Surrogate,
    Variant,
    adams_bashforth,
    anchor_term,
    functional_pull,
    guided_pull,
    guided_velocity,
    in_micro_batches,
    module_pull,
    rollout,
    sweep,
)
from flowbp.testing import joint_gradient, random_problem

STEPS = 8
KINDS = [
    "functional",
    "functional, parameters that require gradients",
    "module",
    "guided",
    "split",
    "guided and split",
]
METHODS = [
    Sparse(active=1),
    Sparse(active=STEPS),
    Bridge(active=5, alpha=1.0),
    Lagrange(order=4, active=4),
    DRaFT(last=STEPS),
    # Its segments share steps.
    Variant(Lagrange(order=4, active=4), quadrature=partial(adams_bashforth, order=4)),
]


def called(method: object) -> str:
    """A name for pytest that is the same in every process, unlike the address of a function."""
    return repr(method).partition(", quadrature=")[0]


class LiveGraphs:
    """Counts graph nodes by a token in each one: a token dies with the graph that holds it."""

    def __init__(self) -> None:
        self.live, self.peak, self.made = 0, 0, 0

    def token(self) -> Token:
        return Token(self)


class Token:
    def __init__(self, counter: LiveGraphs) -> None:
        self.counter = counter
        counter.live += 1
        counter.made += 1
        counter.peak = max(counter.peak, counter.live)

    def __del__(self) -> None:
        self.counter.live -= 1


class Marked(torch.autograd.Function):
    """The identity, with a token in the graph."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, counter: LiveGraphs) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, LiveGraphs], output: Tensor) -> None:
        ctx.token = inputs[1].token()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


@pytest.fixture
def problem():
    return random_problem(torch.linspace(1, 0, STEPS + 1), batch=4)


def marked(
    problem, counter: LiveGraphs
) -> Callable[[Mapping[str, Tensor], Tensor, Tensor], Tensor]:
    def field(params: Mapping[str, Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        return Marked.apply(problem.field(params, x, sigma), counter)

    return field


def pulls(problem, counter: LiveGraphs) -> dict[str, Pull]:
    """Each kind of pull of the marked field, split and guided too."""
    field = marked(problem, counter)
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}

    def module() -> Pull:
        return module_pull(lambda x, sigma: field(leaves, x, sigma))

    return {
        "functional": functional_pull(field, problem.params),
        "functional, parameters that require gradients": functional_pull(field, leaves),
        "module": module(),
        "guided": guided_pull(module(), module(), 3.0),
        "split": in_micro_batches(lambda samples: module(), 1),
        "guided and split": in_micro_batches(
            lambda samples: guided_pull(functional_pull(field, leaves), module(), 3.0), 2
        ),
    }


@pytest.mark.parametrize("method", METHODS, ids=called)
@pytest.mark.parametrize("kind", KINDS)
def test_one_graph_is_live_whatever_the_surrogate(problem, method, kind):
    counter = LiveGraphs()
    surrogate: Surrogate = method.draw(problem.sigmas, torch.Generator().manual_seed(0))
    path = problem.rollout()
    gradients = sweep(surrogate, path, torch.ones_like(path.sample), pulls(problem, counter)[kind])
    active = {i for segment in surrogate.segments for i in segment.active}
    assert counter.made >= len(active)
    assert counter.peak == 1
    assert counter.live == 0
    assert not any(gradient.requires_grad for gradient in gradients.values())


@pytest.mark.parametrize("method", METHODS, ids=called)
@pytest.mark.parametrize("kind", KINDS)
def test_an_anchor_adds_no_graph(problem, method, kind):
    """Its reference leaves none behind, even one that could, and its cotangents go one by one."""
    counter, seen = LiveGraphs(), []
    surrogate: Surrogate = method.draw(problem.sigmas, torch.Generator().manual_seed(0))
    path = problem.rollout()
    field = marked(problem, counter)
    leaves = {name: 0.5 * p.clone().requires_grad_() for name, p in problem.params.items()}

    def anchor(step: int) -> Tensor:
        assert not any(each() is not None for _, each in seen), "an earlier cotangent is alive"
        term = anchor_term(surrogate, path, step, lambda x, sigma: field(leaves, x, sigma), 1.0)
        assert counter.live == 0 and not term.cotangent.requires_grad
        seen.append((step, weakref.ref(term.cotangent)))
        return term.cotangent

    pull = pulls(problem, counter)[kind]
    sweep(surrogate, path, torch.ones_like(path.sample), pull, parameter_cotangent=anchor)
    active = {i for segment in surrogate.segments for i in segment.active}
    assert [step for step, _ in seen] == sorted(active, reverse=True)
    assert (counter.peak, counter.live) == (1, 0)


def test_the_counter_sees_the_joint_graph(problem):
    """The yardstick: written the plain way, every active step's graph is live at once."""
    counter = LiveGraphs()
    surrogate = Sparse(active=5).draw(problem.sigmas, torch.Generator().manual_seed(0))
    joint_gradient(
        marked(problem, counter), problem.params, problem.rollout(), surrogate, torch.sum
    )
    assert (counter.peak, counter.live) == (5, 0)


@pytest.mark.parametrize(("scale", "detached"), [(3.5, True), (1.0, False), (1.0, True)])
def test_a_negative_branch_without_gradient_is_not_evaluated_backward(problem, scale, detached):
    calls = {"positive": 0, "negative": 0}
    leaves = {name: p.clone().requires_grad_() for name, p in problem.params.items()}

    def branch(name: str):
        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            calls[name] += 1
            return problem.field(leaves, x, sigma)

        return velocity

    positive, negative = branch("positive"), branch("negative")
    path = rollout(guided_velocity(positive, negative, scale), problem.noise, problem.sigmas)
    assert calls == {"positive": STEPS, "negative": 0 if scale == 1 else STEPS}
    forward = dict(calls)
    surrogate = Bridge(active=5).draw(problem.sigmas, torch.Generator().manual_seed(0))
    pull = guided_pull(module_pull(positive), None if detached else module_pull(negative), scale)
    sweep(surrogate, path, torch.ones_like(path.sample), pull)
    assert calls["positive"] == forward["positive"] + 5
    assert calls["negative"] == forward["negative"]


def test_only_the_joint_is_pulled_through_its_latents(problem):
    """An input gradient costs as much as a parameter gradient: it is asked for once or never."""
    asked: list[bool] = []

    def counting(pull: Pull) -> Pull:
        def counted(latents, sigma, cotangents, /):
            asked.append(cotangents.through_latents)
            return pull(latents, sigma, cotangents)

        return counted

    pull = counting(functional_pull(problem.field, problem.params))
    for alpha, wanted in [(0.0, 0), (0.5, 1)]:
        asked.clear()
        surrogate = Bridge(active=5, alpha=alpha).draw(
            problem.sigmas, torch.Generator().manual_seed(0)
        )
        sweep(surrogate, problem.rollout(), torch.ones_like(problem.noise), pull)
        assert (sum(asked), len(asked)) == (wanted, 5)
    asked.clear()
    surrogate = DRaFT(last=3).draw(problem.sigmas, torch.Generator())
    sweep(surrogate, problem.rollout(), torch.ones_like(problem.noise), pull)
    assert (sum(asked), len(asked)) == (2, 3)

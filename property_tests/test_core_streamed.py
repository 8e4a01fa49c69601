"""The streamed gradient is the joint graph's: every method, guidance, pull and micro-batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from flowbp.core import (
    Pull,
    Surrogate,
    Trajectory,
    anchor_term,
    functional_pull,
    guided_pull,
    guided_velocity,
    in_micro_batches,
    module_pull,
    read,
    renoise,
    rollout,
    sweep,
)
from flowbp.testing import (
    Problem,
    TanhField,
    anchor_penalty,
    assert_gradients_close,
    check_streamed,
    check_surrogate,
    joint_gradient,
)
from flowbp.testing.strategies import events, grids, problems, surrogates

from .strategies import methods, variants

Params = Mapping[str, Tensor]
AnchorCotangent = Callable[[int], Tensor]


@attrs.frozen(eq=False)
class Guided:
    """A field under classifier-free guidance, every sample with its own conditioning."""

    field: TanhField
    params: Params
    positive: Tensor
    negative: Tensor
    scale: float
    detached: bool

    def repeated(self, copies: int) -> Guided:
        return attrs.evolve(
            self,
            positive=self.positive.repeat(copies, 1),
            negative=self.negative.repeat(copies, 1),
        )

    def velocity(self, params: Params, x: Tensor, sigma: Tensor) -> Tensor:
        """The formula as one graph."""
        wanted = self.field(params, x, sigma, self.positive)
        other = self.field(params, x, sigma, self.negative)
        other = other.detach() if self.detached else other
        return other + self.scale * (wanted - other)

    def pull(self, branch: Callable[[Tensor], Pull], samples: slice) -> Pull:
        negative = None if self.detached else branch(self.negative[samples])
        return guided_pull(branch(self.positive[samples]), negative, self.scale)

    def functional(self, samples: slice) -> Pull:
        return self.pull(
            lambda context: functional_pull(
                lambda p, x, sigma: self.field(p, x, sigma, context), self.params
            ),
            samples,
        )

    def module(self, leaves: Params, samples: slice) -> Pull:
        return self.pull(
            lambda context: module_pull(lambda x, sigma: self.field(leaves, x, sigma, context)),
            samples,
        )


@st.composite
def guided_problems(draw) -> tuple[Guided, Tensor, Tensor]:
    """A guided field, noise of 1 to 4 samples and a grid."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    field, batch = TanhField(draw(events())), draw(st.integers(1, 4))
    params = field.parameters(generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    guided = Guided(
        field,
        params,
        normal(batch, field.hidden),
        normal(batch, field.hidden),
        draw(st.sampled_from([0.0, 1.0, 3.5, 0.5])),
        draw(st.booleans()),
    )
    return guided, normal(batch, *field.event), draw(grids(1, 6))


def gradients_of_both_pulls(
    guided: Guided,
    surrogate: Surrogate,
    path: Trajectory,
    g: Tensor,
    size: int,
    anchor: AnchorCotangent | None,
) -> dict[str, Params]:
    leaves = {name: p.clone().requires_grad_() for name, p in guided.params.items()}
    pull = in_micro_batches(guided.functional, size)
    functional = sweep(surrogate, path, g, pull, parameter_cotangent=anchor)
    module_pull = in_micro_batches(lambda samples: guided.module(leaves, samples), size)
    empty = sweep(surrogate, path, g, module_pull, parameter_cotangent=anchor)
    assert empty == {}
    module = {
        name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for name, leaf in leaves.items()
    }
    return {"functional": functional, "module": module}


def anchored(
    guided: Guided, surrogate: Surrogate, path: Trajectory, strength: float | None
) -> tuple[Callable[[Mapping[int, Tensor]], Tensor] | None, AnchorCotangent | None]:
    """The anchor to a field of other parameters, as a loss of velocities and as a cotangent."""
    if strength is None:
        return None, None
    other = {name: 0.8 * p for name, p in guided.params.items()}

    def reference(x: Tensor, sigma: Tensor) -> Tensor:
        return guided.velocity(other, x, sigma)

    def anchor(step: int) -> Tensor:
        return anchor_term(surrogate, path, step, reference, strength).cotangent

    return anchor_penalty(path, reference, strength), anchor


@given(case=guided_problems(), data=st.data())
def test_guided_and_split_pulls_stream_the_joint_gradient(case, data):
    guided, noise, sigmas = case
    steps = sigmas.shape[0] - 1
    method = data.draw(methods(steps) | variants(sigmas))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    surrogate = method.draw(sigmas, generator)

    def branch(context: Tensor):
        return lambda x, sigma: guided.field(guided.params, x, sigma, context)

    sampler = guided_velocity(branch(guided.positive), branch(guided.negative), guided.scale)
    path = rollout(sampler, noise, sigmas, stop=surrogate.horizon)
    path = renoise(surrogate, path, sampler, generator)
    guided = guided.repeated(1 + surrogate.noised)
    target = torch.randn(path.latents.shape[1:], generator=generator, dtype=torch.float64)
    g = torch.tanh(read(surrogate, path) - target)
    strength = data.draw(st.sampled_from([None, 1e-2, 30.0]))
    penalty, anchor = anchored(guided, surrogate, path, strength)
    joint = joint_gradient(
        guided.velocity,
        guided.params,
        path,
        surrogate,
        lambda x: (x - target).cosh().log().sum(),
        penalty=penalty,
    )
    for size in range(1, path.latents.shape[1] + 2):
        found = gradients_of_both_pulls(guided, surrogate, path, g, size, anchor)
        for name, gradient in found.items():
            assert_gradients_close(f"{name}, {size} samples at a time", gradient, joint, 1e-10)


@given(problem=problems(), data=st.data())
def test_every_method_streams_the_joint_gradient(problem, data):
    surrogate = draw_surrogate(problem, data, lambda sigmas: methods(len(sigmas) - 1))
    check_surrogate(surrogate, problem.sigmas)
    check_streamed(surrogate, problem)


@given(problem=problems(min_steps=2), data=st.data())
def test_every_axis_of_every_method_can_be_replaced(problem, data):
    surrogate = draw_surrogate(problem, data, variants)
    check_surrogate(surrogate, problem.sigmas)
    check_streamed(surrogate, problem)


@given(problem=problems(max_steps=6), data=st.data())
def test_arbitrary_surrogates_stream_the_joint_gradient(problem, data):
    surrogate = data.draw(surrogates(problem.sigmas))
    check_surrogate(surrogate, problem.sigmas)
    check_streamed(surrogate, problem)


def draw_surrogate(problem: Problem, data: st.DataObject, choices: Callable) -> Surrogate:
    method = data.draw(choices(problem.sigmas))
    return method.draw(
        problem.sigmas, torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    )

"""An adapter's dtypes, dropout, checkpointing, and its gradient against the joint graph's."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from flowbp.adapters import DtypePolicy, Lora
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.core import Bridge, Cotangents, functional_pull, module_pull, read, rollout, sweep
from flowbp.testing import check_backbone
from flowbp.testing.oracle import joint_read

from .adapted import (
    PROMPTS,
    SIGMA,
    TUNED,
    attached,
    gradients_of,
    noise_of,
    trained,
    velocity_of,
)

BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)
AUTOCAST = DtypePolicy(torch.float32, torch.bfloat16)
FLOAT64 = DtypePolicy(torch.float64, torch.float64)
DROPPING = Lora(rank=3, dropout=0.5)


@pytest.fixture(params=TUNED)
def family(request):
    return TUNED[request.param]


def float32_products(backbone) -> list[tuple[int, ...]]:
    """Shapes of the float32 matrices, parameters aside, that a graph keeps."""
    kept: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        single = tensor.dtype == torch.float32 and not isinstance(tensor, nn.Parameter)
        if single and tensor.ndim == 2:
            kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        velocity_of(backbone)
    return kept


def test_a_bfloat16_model_keeps_no_float32_activations_for_its_adapter(family):
    backbone = trained(family, policy=BFLOAT16)
    assert float32_products(backbone) == []
    # What peft does by itself, so that the count is known to count.
    for layer in adapter_layers(backbone.module).values():
        layer.cast_input_dtype_enabled = True
    assert len(float32_products(backbone)) > 20


@pytest.mark.parametrize("policy", [BFLOAT16, AUTOCAST], ids=["bfloat16", "autocast"])
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
def test_the_adapters_masters_and_gradients_are_float32(family, policy):
    rounded, exact = trained(family, policy=policy), trained(family)
    trainable = rounded.trainable()
    frozen = {n: p for n, p in rounded.module.named_parameters() if n not in trainable}
    assert {p.dtype for p in trainable.values()} == {torch.float32}
    assert {p.dtype for p in frozen.values()} == {policy.weights}
    for name, parameter in exact.trainable().items():
        assert torch.equal(parameter, trainable[name])
    ours, theirs = (
        torch.cat([each.flatten() for each in gradients_of(backbone).values()])
        for backbone in (rounded, exact)
    )
    assert ours.dtype == torch.float32
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


def test_float64_adapters_are_float64(family):
    assert {p.dtype for p in attached(family, policy=FLOAT64).trainable().values()} == {
        torch.float64
    }


def test_a_start_is_not_rounded_to_the_models_dtype(family, tmp_path):
    original = trained(family)
    original.save(tmp_path)
    again = attached(family, Lora(start=str(tmp_path)), policy=BFLOAT16)
    for name, parameter in original.trainable().items():
        assert torch.equal(again.trainable()[name], parameter)


def test_nothing_is_dropped_without_a_graph(family):
    with torch.no_grad():
        assert torch.equal(velocity_of(trained(family, DROPPING)), velocity_of(trained(family)))


def test_dropout_acts_in_a_graph(family):
    backbone = trained(family, DROPPING)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first, second = velocity_of(backbone), velocity_of(backbone)
        torch.manual_seed(0)
        again = velocity_of(backbone)
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize("lora", [Lora(rank=3), DROPPING], ids=["plain", "dropout"])
def test_checkpointing_does_not_change_the_gradient(family, lora):
    def gradients(checkpointing):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return gradients_of(trained(family, lora, gradient_checkpointing=checkpointing))

    plain, recomputed = gradients(False), gradients(True)
    assert any(bool(each.any()) for each in plain.values())
    for name, gradient in plain.items():
        assert torch.allclose(gradient, recomputed[name], rtol=0, atol=1e-6), name


class Field(nn.Module):
    """A backbone's velocity as a module, so that its parameters can be given."""

    def __init__(self, backbone) -> None:
        super().__init__()
        self.network = backbone.module
        self.field = backbone.velocity(backbone.encode(PROMPTS))

    def forward(self, latents: Tensor, sigma: Tensor) -> Tensor:
        return self.field(latents, sigma)


def functional(backbone):
    """The backbone's velocity as a pure function of its trainable parameters."""
    field = Field(backbone)

    def velocity(params: Mapping[str, Tensor], latents: Tensor, sigma: Tensor) -> Tensor:
        named = {f"network.{name}": value for name, value in params.items()}
        return torch.func.functional_call(field, named, (latents, sigma))

    return velocity


def test_dropout_acts_in_both_pulls_alike(family):
    backbone = trained(family, DROPPING, policy=FLOAT64)
    params, x = backbone.trainable(), noise_of(backbone)
    field = backbone.velocity(backbone.encode(PROMPTS))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cotangents = Cotangents(x, through_latents=False)
        module_pull(field)(x, SIGMA, cotangents)
        torch.manual_seed(0)
        pulled = functional_pull(functional(backbone), params)(x, SIGMA, cotangents)
        other = functional(trained(family, policy=FLOAT64))
        plain = functional_pull(other, params)(x, SIGMA, cotangents)
    differing = 0
    for name, parameter in params.items():
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found, pulled.gradients[name], rtol=1e-9, atol=1e-12), name
        differing += not torch.allclose(found, plain.gradients[name], rtol=1e-3)
    assert differing > len(params) / 2


def test_the_streamed_gradient_is_the_joint_graphs(family):
    backbone = trained(family, policy=FLOAT64)
    params, noise = backbone.trainable(), noise_of(backbone)
    field = backbone.velocity(backbone.encode(PROMPTS))
    trajectory = rollout(field, noise, backbone.sigmas(4, height=16, width=16))
    plan = Bridge(active=2).draw(trajectory.sigmas, torch.Generator().manual_seed(0))
    g = torch.randn(noise.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    joint = torch.autograd.grad(
        (joint_read(field, trajectory, plan) * g).sum(),
        list(params.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    assert read(plan, trajectory).dtype == torch.float64
    streamed = sweep(plan, trajectory, g, functional_pull(functional(backbone), params))
    sweep(plan, trajectory, g, module_pull(field))
    for (name, parameter), expected in zip(params.items(), joint, strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12), name
        assert torch.allclose(streamed[name], expected, rtol=1e-9, atol=1e-12), name


@pytest.mark.filterwarnings("ignore:a prompt has")
def test_a_backbone_with_an_adapter_keeps_the_protocol(family):
    check_backbone(trained(family), ["a circle", "two blue", "red"], height=16, width=16)

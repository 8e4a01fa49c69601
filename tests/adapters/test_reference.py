"""The velocity before training: of the base under an adapter, or of a frozen copy."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig

from flowbp.adapters import (
    Conditioning,
    DtypePolicy,
    WithReference,
    diffusers_backbone,
    reference_of,
)
from flowbp.core import Bridge, Linear
from flowbp.prompts import CachedBackbone, MemoryStore
from flowbp.training import Anchor, Batching, Streams, TrainingSampling, TrainingStep

from .families import FAMILIES

LORA = LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights="gaussian")
PROMPTS = ["a circle", "two squares"]


def backbone_of(family: str = "sd3", pipeline=None, **options):
    """A backbone of a fresh pipeline, so that no test changes another's."""
    entry = FAMILIES[family]
    return entry.backbone(pipeline or entry.pipeline.__wrapped__(), **options)


def inputs(backbone):
    generator = torch.Generator().manual_seed(0)
    noise = backbone.noise(2, height=32, width=32, generator=generator)
    return backbone.encode(PROMPTS), noise, torch.tensor(0.7)


@torch.no_grad()
def velocity(backbone):
    conditioning, noise, sigma = inputs(backbone)
    return backbone.velocity(conditioning)(noise, sigma)


def attach(backbone, config=LORA, name="default"):
    """An adapter that changes the velocity: its second matrices are not zero."""
    backbone.transformer.requires_grad_(False)
    backbone.transformer.add_adapter(config, name)
    with torch.no_grad():
        for each, parameter in backbone.transformer.named_parameters():
            if "lora_B" in each:
                parameter.fill_(0.3)


def flags(backbone) -> dict[str, bool]:
    return {name: p.requires_grad for name, p in backbone.transformer.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_of_a_full_model_stays_where_training_began(family):
    backbone = backbone_of(family)
    before = velocity(backbone)
    reference = backbone.reference()
    conditioning, noise, sigma = inputs(backbone)
    with torch.no_grad():
        for parameter in backbone.trainable().values():
            parameter.mul_(1.2).add_(0.05)
    assert torch.equal(reference(conditioning)(noise, sigma), before)
    assert not torch.equal(velocity(backbone), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_reference_under_an_adapter_is_the_base_to_the_bit(family):
    backbone = backbone_of(family)
    before = velocity(backbone)
    attach(backbone)
    tuned, trainable = velocity(backbone), flags(backbone)
    assert not torch.equal(tuned, before) and any(trainable.values())
    conditioning, noise, sigma = inputs(backbone)
    reference = backbone.reference()
    assert torch.equal(reference(conditioning)(noise, sigma), before)
    assert torch.equal(velocity(backbone), tuned)
    assert flags(backbone) == trainable


def test_adapter_is_active_and_trainable_after_an_evaluation_that_raises():
    backbone = backbone_of()
    attach(backbone)
    tuned, trainable = velocity(backbone), flags(backbone)
    conditioning, noise, sigma = inputs(backbone)
    field = backbone.reference()(conditioning)

    def fail(*_):
        raise RuntimeError("in the middle of a velocity")

    hook = backbone.transformer.proj_out.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        field(noise, sigma)
    hook.remove()
    assert torch.equal(velocity(backbone), tuned) and flags(backbone) == trainable


def test_flags_survive_where_only_a_part_of_an_adapter_is_trained():
    backbone = backbone_of()
    attach(backbone)
    for name, parameter in backbone.transformer.named_parameters():
        parameter.requires_grad_("lora_B" in name)
    trainable = flags(backbone)
    conditioning, noise, sigma = inputs(backbone)
    backbone.reference()(conditioning)(noise, sigma)
    assert flags(backbone) == trainable


def test_an_adapter_that_was_disabled_stays_so():
    backbone = backbone_of()
    before = velocity(backbone)
    attach(backbone)
    backbone.transformer.disable_adapters()
    conditioning, noise, sigma = inputs(backbone)
    assert torch.equal(backbone.reference()(conditioning)(noise, sigma), before)
    assert torch.equal(velocity(backbone), before)


def test_gradients_gathered_before_an_evaluation_are_kept():
    backbone = backbone_of()
    attach(backbone)
    conditioning, noise, sigma = inputs(backbone)
    backbone.velocity(conditioning)(noise, sigma).square().sum().backward()
    gathered = {name: p.grad.clone() for name, p in backbone.trainable().items()}
    backbone.reference()(conditioning)(noise, sigma)
    backbone.velocity(conditioning)(noise, sigma).square().sum().backward()
    for name, parameter in backbone.trainable().items():
        torch.testing.assert_close(parameter.grad, 2 * gathered[name])


def test_where_more_than_the_adapter_is_trained_the_whole_is_copied():
    backbone = backbone_of()
    attach(backbone)
    backbone.transformer.proj_out.weight.requires_grad_()
    before = velocity(backbone)
    reference = backbone.reference()
    with torch.no_grad():
        backbone.transformer.proj_out.weight.mul_(2)
    conditioning, noise, sigma = inputs(backbone)
    assert torch.equal(reference(conditioning)(noise, sigma), before)


@pytest.mark.parametrize(
    "policy",
    [
        DtypePolicy(),
        DtypePolicy(torch.float32, torch.bfloat16),
        DtypePolicy(torch.bfloat16, torch.bfloat16),
    ],
    ids=str,
)
def test_copy_is_kept_in_the_compute_dtype_and_shares_nothing(policy, monkeypatch):
    made, original = [], diffusers_backbone.frozen_copy
    monkeypatch.setattr(
        diffusers_backbone,
        "frozen_copy",
        lambda network, dtype: made.append(original(network, dtype)) or made[-1],
    )

    backbone = backbone_of(policy=policy, gradient_checkpointing=True)
    reference = backbone.reference()
    ours, (copy,) = backbone.transformer, made
    names = [name for name, _ in ours.named_parameters()]
    assert [name for name, _ in copy.named_parameters()] == names
    pointers = {t.data_ptr() for t in (*ours.parameters(), *ours.buffers())}
    for tensor in (*copy.parameters(), *copy.buffers()):
        assert tensor.data_ptr() not in pointers and not tensor.requires_grad
        assert tensor.dtype == policy.compute
    assert all(p.dtype == policy.weights and p.requires_grad for p in ours.parameters())
    assert not copy.training
    conditioning, noise, sigma = inputs(backbone)
    v = reference(conditioning)(noise.requires_grad_(), sigma)
    assert v.dtype == policy.state and not v.requires_grad
    gap = (v - velocity(backbone)).abs().max() / v.abs().max()
    assert gap == 0 if policy.weights == policy.compute else gap < 0.05


def test_a_wrapper_passes_the_reference_on():
    backbone = backbone_of()
    cached = CachedBackbone(backbone, MemoryStore())
    assert isinstance(backbone, WithReference)
    conditioning, noise, sigma = inputs(backbone)
    assert torch.equal(reference_of(cached)(conditioning)(noise, sigma), velocity(backbone))


def test_a_backbone_without_a_reference_is_refused():
    class Plain:
        def velocity(self, conditioning: Conditioning):
            raise NotImplementedError

    for backbone in (Plain(), CachedBackbone(Plain(), MemoryStore())):
        with pytest.raises(ValueError, match=r"`anchor` needs a backbone .* and Plain has none"):
            reference_of(backbone)


def test_an_anchored_step_trains_an_adapter_alone_and_finds_it_at_its_base():
    """A new adapter is the base, so that the anchor is zero to the bit; one that moved is not."""
    backbone = backbone_of()
    backbone.transformer.requires_grad_(False)
    backbone.transformer.add_adapter(LORA)
    step = TrainingStep(
        backbone=backbone,
        reward=lambda images, prompts: images[:, 0].mean((1, 2)),
        method=Bridge(active=3),
        shape=Linear(),
        sampling=TrainingSampling(steps=4, guidance=2.0, height=16, width=16),
        batching=Batching(2, pull=1),
        anchor=Anchor(0.1, backbone.reference()),
    )
    assert step(PROMPTS, Streams.of(0)).anchor == 0
    trained = backbone.trainable()
    assert all("lora" in name for name in trained)
    assert any(parameter.grad.any() for parameter in trained.values())
    with torch.no_grad():
        for parameter in trained.values():
            parameter.add_(0.1)
    assert step(PROMPTS, Streams.of(0)).anchor > 0
    grown = [name for name, p in backbone.transformer.named_parameters() if p.grad is not None]
    assert sorted(grown) == sorted(trained)

"""An adapter is all that is trained, and what is exported is what diffusers samples with."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from flowbp.adapters import Full, Lora
from flowbp.adapters.lora_files import WEIGHTS

from .adapted import (
    PROMPTS,
    TUNED,
    attached,
    gradients_of,
    images_of,
    noise_of,
    seeded,
    trained,
    velocity_of,
)

LORAS = {
    "defaults": Lora(rank=3),
    "alpha": Lora(rank=2, alpha=7),
    "targets": Lora(rank=3, targets=["to_q", "to_out.0"]),
    "dropout": Lora(rank=3, dropout=0.5),
}


@pytest.fixture(scope="module", params=TUNED)
def family(request):
    return TUNED[request.param]


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    """The base model, saved."""
    place = tmp_path_factory.mktemp("base")
    family.pipeline().save_pretrained(place)
    return place


def plain(family, folder):
    pipeline = type(family.pipeline()).from_pretrained(folder, **family.reload)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def published(family, pipeline, backbone):
    call = dict(scale=1.0, height=16, width=16, num_inference_steps=3, output_type="pt")
    return family.sample(pipeline, PROMPTS, latents=noise_of(backbone), **call)


@pytest.mark.parametrize("name", LORAS)
def test_plain_diffusers_samples_with_the_export(family, folder, tmp_path, name):
    backbone = trained(family, LORAS[name])
    (tmp_path / "training").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "training" / "tensors.safetensors")
    backbone.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"training", WEIGHTS}
    pipeline = plain(family, folder)
    base = published(family, pipeline, backbone)
    pipeline.load_lora_weights(tmp_path)
    theirs = published(family, pipeline, backbone)
    assert torch.allclose(images_of(backbone, steps=3), theirs, rtol=0, atol=1e-5)
    assert (theirs - base).abs().max() > 1e-3


def test_a_fresh_adapter_changes_nothing(family):
    base = family.backbone(deepcopy(family.pipeline()))
    with torch.no_grad():
        assert torch.equal(velocity_of(attached(family)), velocity_of(base))
    assert all(not module.training for module in attached(family).module.modules())


def test_only_the_adapter_is_trained(family):
    backbone = attached(family)
    parameters, trainable = dict(backbone.module.named_parameters()), backbone.trainable()
    base = {name: p.detach().clone() for name, p in parameters.items() if name not in trainable}
    assert all(".lora_A." in name or ".lora_B." in name for name in trainable)
    optimizer = torch.optim.AdamW(trainable.values(), lr=0.01)
    before = velocity_of(backbone).detach()
    for _ in range(2):
        velocity_of(backbone).square().mean().backward()
        optimizer.step()
    assert all(parameters[name].grad is None for name in base)
    assert all(torch.equal(parameters[name], value) for name, value in base.items())
    assert (velocity_of(backbone) - before).abs().max() > 1e-3


def test_every_default_target_is_adapted(family):
    found = {name.split(".lora_")[0] for name in attached(family).trainable()}
    linears = {
        name
        for name, module in family.pipeline().transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert found < linears
    inner = {name for name in linears if ".att" in name}
    assert inner <= found
    forward = {name for name in found - inner if ".ff" in name}
    assert (len(forward) > 0) is (family is TUNED["flux1 dev"]) and found == inner | forward


def test_an_export_is_started_from_exactly(family, tmp_path):
    # A scale that is a power of two multiplies without rounding.
    original = trained(family, Lora(rank=2, alpha=8))
    original.save(tmp_path)
    for start in (tmp_path, tmp_path / WEIGHTS):
        again = attached(family, Lora(start=str(start)))
        assert again.trainable().keys() == original.trainable().keys()
        for name, parameter in original.trainable().items():
            scale = 4 if ".lora_B." in name else 1
            assert torch.equal(again.trainable()[name], scale * parameter)
        with torch.no_grad():
            assert torch.equal(velocity_of(again), velocity_of(original))
        again.save(tmp_path / "again")
        saved = [load_file(place / WEIGHTS) for place in (tmp_path, tmp_path / "again")]
        assert saved[0].keys() == saved[1].keys()
        assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])


def test_ranks_may_differ_and_no_metadata_is_needed(family, folder, tmp_path):
    tensors = load_file_of(trained(family, Lora(rank=2)), tmp_path)
    first = min(name for name in tensors if ".lora_A." in name)
    other = first.replace("lora_A", "lora_B")
    tensors[first] = torch.cat([tensors[first]] * 2)
    tensors[other] = torch.cat([tensors[other]] * 2, 1)
    save_file(tensors, tmp_path / "mixed.safetensors")
    backbone = attached(family, Lora(start=str(tmp_path / "mixed.safetensors")))
    backbone.save(tmp_path / "out")
    pipeline = plain(family, folder)
    pipeline.load_lora_weights(tmp_path / "out")
    theirs = published(family, pipeline, backbone)
    assert torch.allclose(images_of(backbone, steps=3), theirs, rtol=0, atol=1e-5)


def load_file_of(backbone, folder):
    backbone.save(folder)
    return load_file(folder / WEIGHTS)


def test_alphas_kept_as_tensors_are_read(family, tmp_path):
    plain, strong = trained(family, Lora(rank=2)), trained(family, Lora(rank=2, alpha=8))
    tensors = load_file_of(plain, tmp_path)
    layers = {name.split(".lora_")[0] for name in tensors}
    alphas = {f"{layer}.alpha": torch.tensor(8.0) for layer in layers}
    save_file(tensors | alphas, tmp_path / "alphas.safetensors")
    again = attached(family, Lora(start=str(tmp_path / "alphas.safetensors")))
    again.save(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(velocity_of(again), velocity_of(strong))
        resaved = attached(family, Lora(start=str(tmp_path / "out")))
        assert torch.equal(velocity_of(resaved), velocity_of(strong))


def test_older_names_of_the_factors_are_read(tmp_path):
    family = TUNED["sd3"]
    original = trained(family)
    old = {
        name.replace("lora_A", "lora.down").replace("lora_B", "lora.up"): tensor
        for name, tensor in load_file_of(original, tmp_path).items()
    }
    save_file(old, tmp_path / "old.safetensors")
    again = attached(family, Lora(start=str(tmp_path / "old.safetensors")))
    with torch.no_grad():
        assert torch.equal(velocity_of(again), velocity_of(original))


def test_kohyas_form_is_read_with_its_alpha(tmp_path):
    family, generator = TUNED["flux1 dev"], seeded()
    down, up = torch.randn(2, 32, generator=generator), torch.randn(32, 2, generator=generator)
    name = "lora_unet_double_blocks_0_img_attn_proj"
    tensors = {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(3.0)}
    path = tmp_path / "kohya.safetensors"
    save_file({f"{name}.{each}": tensor for each, tensor in tensors.items()}, path)
    merged = family.backbone(deepcopy(family.pipeline()))
    with torch.no_grad():
        base = velocity_of(merged)
        weight = merged.module.transformer_blocks[0].attn.to_out[0].weight
        weight.add_(up @ down, alpha=3 / 2)
        found = velocity_of(attached(family, Lora(start=str(path))))
        assert torch.allclose(found, velocity_of(merged), rtol=0, atol=1e-5)
    assert (found - base).abs().max() > 1e-3


def test_the_generator_alone_decides_the_start(family):
    state = torch.get_rng_state()
    first, again, other = (attached(family, seed=seed).trainable() for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    down = [name for name in first if ".lora_A." in name]
    assert not any(torch.equal(first[name], other[name]) for name in down)
    for name in down:
        bound = first[name].shape[1] ** -0.5
        assert first[name].abs().max() <= bound and first[name].std() > 0.4 * bound
        assert not first[name.replace("lora_A", "lora_B")].any()
    rounded = attached(family, Lora(rank=3, dropout=0.2))
    assert all(torch.equal(each, first[name]) for name, each in rounded.trainable().items())


def test_the_metadata_holds_nothing_of_another_machine(family, tmp_path):
    tensors = load_file_of(trained(family), tmp_path)
    theirs = {
        "r": 3,
        "lora_alpha": 3,
        "new_in_peft_9": 1,
        "base_model_name_or_path": "/home/me/model",
    }
    metadata = {f"transformer.{name}": value for name, value in theirs.items()}
    path = tmp_path / "theirs.safetensors"
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(metadata), "format": "pt"})
    with pytest.warns(UserWarning, match="new_in_peft_9, which this version of peft does not know"):
        attached(family, Lora(start=str(path))).save(tmp_path / "out")
    assert b"/home/me" not in (tmp_path / "out" / WEIGHTS).read_bytes()


def test_full_tuning_leaves_the_backbone_as_it_is(family):
    backbone = family.backbone(deepcopy(family.pipeline()))
    names = backbone.trainable().keys()
    assert Full()(backbone, generator=seeded()) is backbone and backbone.trainable().keys() == names


def test_gradients_reach_both_factors(family):
    gradients = gradients_of(trained(family))
    assert sum(bool(each.any()) for each in gradients.values()) > 0.8 * len(gradients)

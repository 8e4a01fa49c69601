"""A frozen base in few bits under a LoRA: what is kept, computed, pulled, saved and refused."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from copy import deepcopy

import attrs
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from flowbp.adapters import DtypePolicy, Full, Lora, compile_blocks, reference_of
from flowbp.adapters.compilation import blocks_of
from flowbp.adapters.lora_files import WEIGHTS
from flowbp.adapters.quantization import QuantizedLinear, check_quantization, quantize
from flowbp.prompts import CachedBackbone
from flowbp.prompts.embedding_store import MemoryStore
from flowbp.training import AdamW
from flowbp.training.division import Needs

from .adapted import (
    PROMPTS,
    TUNED,
    attached,
    gradients_of,
    seeded,
    trained,
    velocity_of,
    widened,
    with_plain_layers,
)

pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")
FLOAT64 = DtypePolicy(torch.float64, torch.float64)


@pytest.fixture(params=["int8", "nf4"])
def form(request):
    if request.param == "nf4":
        pytest.importorskip("bitsandbytes")
    return request.param


def linear(rows: int = 24, columns: int = 64, *, dtype: torch.dtype = torch.float32) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(columns, rows, dtype=dtype)


def test_a_row_of_int8_is_rounded_by_at_most_half_a_255th_of_its_range():
    plain = linear()
    with torch.no_grad():
        plain.weight[3] = 0
    largest = plain.weight.abs().amax(dim=1, keepdim=True)
    error = widened(QuantizedLinear(plain, "int8"), torch.float32) - plain.weight
    assert (error.abs() <= largest / 127 * (0.5 + 1e-3)).all()
    assert error[3].abs().max() == 0


def test_each_weight_of_nf4_is_the_nearest_of_16_levels_of_its_block():
    pytest.importorskip("bitsandbytes")
    plain = linear()
    blocks = plain.weight.detach().reshape(-1, 64)
    scales = blocks.abs().amax(dim=1, keepdim=True)
    shares = widened(QuantizedLinear(plain, "nf4"), torch.float32).reshape(-1, 64) / scales
    levels = shares.flatten().sort().values
    levels = levels[torch.cat([torch.tensor([True]), levels.diff() > 1e-4])]
    # Section 3 of the paper: 16 of them from -1 to 1, and none of them lost of zero.
    assert len(levels) == 16
    assert levels[0] == -1 and levels[-1] == 1 and levels.abs().min() == 0
    nearest = (blocks / scales)[..., None].sub(levels).abs().amin(dim=-1)
    torch.testing.assert_close((shares - blocks / scales).abs(), nearest, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", TUNED)
def test_value_and_pull_are_those_of_the_widened_base(name, form):
    few = trained(TUNED[name], policy=FLOAT64, quantization=form)
    wide = trained(TUNED[name], policy=FLOAT64, quantization=form)
    with_plain_layers(wide.module, torch.float64)
    blocks = [each for block in blocks_of(few.module) for each in block.modules()]
    assert not [each for each in blocks if type(each) is nn.Linear]
    torch.testing.assert_close(velocity_of(few), velocity_of(wide))
    found, wanted = gradients_of(few), gradients_of(wide)
    assert any(gradient.abs().max() > 0 for gradient in wanted.values())
    torch.testing.assert_close(found, wanted)


def test_checkpointing_changes_no_gradient(form):
    family = TUNED["flux1 dev"]
    wanted = gradients_of(trained(family, quantization=form))
    recomputed = trained(family, quantization=form, gradient_checkpointing=True)
    torch.testing.assert_close(gradients_of(recomputed), wanted)


@pytest.mark.parametrize("compiled", [False, True])
def test_no_widened_matrix_is_kept_for_the_backward_pass(form, compiled):
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.Sequential(linear(), nn.SiLU(), linear(64, 24))])
    quantize(network, form)
    x = torch.randn(2, 3, 64, generator=seeded(), requires_grad=True)
    block = network.blocks[0]
    (wanted,) = torch.autograd.grad(block(x).square().sum(), x)
    if compiled:
        assert compile_blocks(network, backend="aot_eager_decomp_partition") == 1
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = block(x)
    torch.testing.assert_close(torch.autograd.grad(value.square().sum(), x)[0], wanted)
    sizes = [tuple(each.shape) for each in kept if each.is_floating_point()]
    assert kept and not {(24, 64), (64, 24)} & {*sizes}


def test_autocast_decides_the_dtype_of_the_products(form):
    layer = QuantizedLinear(linear(), form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(torch.randn(2, 64, generator=seeded())).dtype == torch.bfloat16


def test_it_composes_with_the_transforms_of_torch_func(form):
    layer = QuantizedLinear(linear(), form)
    x, cotangent = torch.randn(2, 64, generator=seeded()), torch.randn(2, 24, generator=seeded())
    (found,) = torch.func.vjp(layer, x)[1](cotangent)
    torch.testing.assert_close(found, cotangent @ widened(layer, torch.float32))


def test_a_cast_of_the_network_rounds_no_scale(form):
    layer = QuantizedLinear(linear(), form)
    before = widened(layer, torch.float32)
    layer.to(torch.bfloat16).to(torch.float32)
    assert torch.equal(widened(layer, torch.float32), before)


def test_weights_are_counted_as_they_are_kept(form):
    network = nn.Module()
    network.blocks = nn.ModuleList([nn.Sequential(linear(512, 1024), linear(512, 1024))])
    network.outside = linear(8, 64)
    quantize(network, form)
    # 4 bits and a float32 for each 64 weights; 8 bits and a float32 for each row.
    matrix = {"nf4": 512 * 1024 * 4.5 / 8, "int8": 512 * 1024 + 4 * 512}[form]
    # The biases, and what is outside of the blocks.
    others = 4 * (2 * 512 + 8 * 64 + 8)
    needs = Needs.of(network, {}, AdamW(), None)
    assert needs.weights == 2 * matrix + others


def test_a_sketch_has_the_sizes_of_the_model(form):
    real = QuantizedLinear(linear(), form)
    sketch = QuantizedLinear(nn.Linear(64, 24, device="meta"), form)
    assert sketch.weight.is_meta
    for one, other in zip(sketch.parameters(), real.parameters(), strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
    assert sketch(torch.empty(2, 64, device="meta")).shape == (2, 24)


def test_the_reference_is_the_quantised_base_without_adapter(form):
    family = TUNED["sd3"]
    base = family.backbone(deepcopy(family.pipeline()), quantization=form)
    wanted = velocity_of(base)
    tuned = trained(family, quantization=form)
    field = reference_of(tuned)(tuned.encode(PROMPTS))
    noise = tuned.noise(len(PROMPTS), height=16, width=16, generator=seeded(3))
    torch.testing.assert_close(field(noise, torch.tensor(0.3)), wanted)
    assert not torch.allclose(velocity_of(tuned), wanted)


def test_a_saved_adapter_is_that_of_a_plain_base(form, tmp_path):
    family = TUNED["flux1 dev"]
    for name, options in {"plain": {}, "few": {"quantization": form}}.items():
        trained(family, **options).save(tmp_path / name)
    plain, few = (load_file(tmp_path / name / WEIGHTS) for name in ("plain", "few"))
    # Drawn from one seed, and the base has no part in them.
    torch.testing.assert_close(few, plain, rtol=0, atol=0)
    pipeline = deepcopy(family.pipeline())
    pipeline.load_lora_weights(tmp_path / "few")
    goes_on = attached(family, Lora(start=tmp_path / "few"), quantization=form)
    torch.testing.assert_close(
        gradients_of(goes_on), gradients_of(trained(family, quantization=form))
    )


def test_a_whole_checkpoint_is_taken_in_few_bits(form, tmp_path):
    family = TUNED["sd3"]
    other = family.changed()
    with torch.no_grad():
        for parameter in other.transformer.parameters():
            parameter.mul_(1.5)
    wanted = velocity_of(family.backbone(deepcopy(other), quantization=form))
    family.backbone(other).save(tmp_path / "whole")
    few = family.backbone(deepcopy(family.pipeline()), quantization=form)
    assert not torch.allclose(velocity_of(few), wanted)
    few.load(tmp_path / "whole")
    torch.testing.assert_close(velocity_of(few), wanted)


def test_training_all_of_it_and_saving_it_whole_are_refused(tmp_path):
    family = TUNED["sd3"]
    few = family.backbone(deepcopy(family.pipeline()), quantization="int8")
    with pytest.raises(ValueError, match=r"`tuning` full .* frozen in int8; .*name: lora"):
        Full()(few, generator=seeded())
    with pytest.raises(ValueError, match=r"`save` needs a LoRA .* int8, got none; .*Lora"):
        few.save(tmp_path / "whole")
    assert few.facts["quantization"] == "int8"


def test_what_is_missing_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r'nf4 cannot .*pip install "flowbp-align\[quantization\]'):
        check_quantization("nf4")
    check_quantization("int8")
    check_quantization(None)


def test_the_network_is_away_while_prompts_are_encoded_and_the_encoders_are_after_it():
    backbone, seen = attached(TUNED["sd3"]), []
    held = [tower.held for tower in backbone.text_encoders.towers.values()]

    @contextmanager
    def alone():
        seen.append("away")
        yield
        seen.append("back, encoders " + ("away" if all(e.offloaded for e in held) else "there"))

    encoders = attrs.evolve(backbone.text_encoders, alone=alone)

    class Shared:
        text_encoders = encoders

        def __getattr__(self, name):
            return getattr(backbone, name)

    cached = CachedBackbone(Shared(), MemoryStore())
    cached.fill(PROMPTS)
    assert seen == ["away", "back, encoders away"]
    cached.encode(PROMPTS)
    assert len(seen) == 2

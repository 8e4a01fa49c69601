"""Compiled blocks: the same gradients, no compilation after the first step, the same names."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from benchmarks.random_backbone import SMALL, SMALL_VAES, random_backbone
from flowbp import Bridge
from flowbp.adapters import DtypePolicy, Full, Lora, compilation, compile_backbone, compile_blocks
from flowbp.adapters.compilation import compiled_graphs, is_compiled
from flowbp.adapters.faster_modules import lay_out_channels_last
from flowbp.core import Linear
from flowbp.evaluation import Sampling as GenerationSampling
from flowbp.evaluation import generate, generate_batches
from flowbp.settings import RunSettings
from flowbp.settings.container import tuned_of
from flowbp.training import Anchor, Batching, Streams, TrainingSampling, TrainingStep

NAMES = {"sd3": "sd3.5 medium", "flux1": "flux1 dev", "flux2": "flux2 klein 9B"}


def backbone_of(name, **options):
    return random_backbone(
        NAMES[name],
        text_tokens=3,
        transformer=SMALL[NAMES[name].split()[0]],
        vae=SMALL_VAES[NAMES[name].split()[0]],
        **options,
    )


def step_of(backbone, *, anchored=False):
    return TrainingStep(
        backbone=backbone,
        reward=lambda images, prompts: images.mean((1, 2, 3)),
        method=Bridge(active=2),
        shape=Linear(),
        sampling=TrainingSampling(steps=4, guidance=2.0, height=32, width=32),
        batching=Batching(samples=2, pull=1, decode=1),
        anchor=Anchor(0.1, backbone.reference()) if anchored else None,
    )


def gradients(step, streams):
    for parameter in step.backbone.trainable().values():
        parameter.grad = None
    step(["one", "two"], streams)
    return {n: p.grad.clone() for n, p in step.backbone.trainable().items() if p.grad is not None}


@pytest.mark.parametrize(
    ("name", "lora", "checkpointing", "kept"),
    [("sd3", False, True, 1.0), ("flux1", True, False, 0.3), ("flux2", True, True, 0.5)],
)
def test_gradients_are_those_of_the_plain_blocks(name, lora, checkpointing, kept):
    found = []
    for compiled in (False, True):
        torch._dynamo.reset()
        backbone = backbone_of(name, gradient_checkpointing=checkpointing)
        if lora:
            Lora(rank=2)(backbone, generator=torch.Generator().manual_seed(0))
        if compiled:
            assert compile_blocks(backbone.module, activations=kept, backend="aot_eager") > 0
        step = step_of(backbone, anchored=name == "flux1")
        names = list(backbone.module.state_dict())
        first = gradients(step, Streams.of(0))
        if compiled:
            with torch.compiler.set_stance("fail_on_recompile"):
                other = gradients(step, Streams.of(1))
                again = gradients(step, Streams.of(0))
            assert any(not torch.equal(first[key], other[key]) for key in first)
            assert all(torch.equal(first[key], again[key]) for key in first)
        found.append((names, first))
    (names, plain), (names_compiled, compiled) = found
    assert names == names_compiled and plain.keys() == compiled.keys()
    for key, gradient in plain.items():
        error = (gradient - compiled[key]).norm()
        assert error <= 1e-6 * max(gradient.norm(), 1e-3), key


def test_the_decoder_is_compiled_too_and_its_gradients_stay():
    """In float64: laid out otherwise, its sums round otherwise."""
    torch._dynamo.reset()
    exact = DtypePolicy(torch.float64, torch.float64)
    plain = gradients(step_of(backbone_of("sd3", policy=exact)), Streams.of(0))
    backbone = backbone_of("sd3", policy=exact)
    compile_backbone(backbone, backend="eager")
    assert is_compiled(backbone.decoder.vae.decoder) and is_compiled(backbone.module)
    step = step_of(backbone)
    compiled = gradients(step, Streams.of(0))
    for key, gradient in plain.items():
        assert (gradient - compiled[key]).norm() <= 1e-10 * max(gradient.norm(), 1e-3), key
    with torch.compiler.set_stance("fail_on_recompile"):
        gradients(step, Streams.of(1))


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler on the CPU")
def test_what_inductor_compiles_has_the_gradients_of_the_plain_blocks():
    """The backend of runs, in float64: it rounds otherwise, by 4e-6 in float32."""
    torch._dynamo.reset()
    backbone = backbone_of("sd3", policy=DtypePolicy(torch.float64, torch.float64))
    del backbone.module.transformer_blocks[1:]
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *backbone.latent_shape(32, 32), generator=generator).double()
    conditioning, found = backbone.encode(["one"]), []
    for compiled in (False, True):
        if compiled:
            compile_blocks(backbone.module)
        backbone.module.zero_grad()
        velocity = backbone.velocity(conditioning)(latents, torch.tensor(0.5).double())
        velocity.square().sum().backward()
        found.append({n: p.grad for n, p in backbone.module.named_parameters()})
    plain, compiled = found
    reached = {key: gradient for key, gradient in plain.items() if gradient is not None}
    assert any(key.startswith("transformer_blocks") for key in reached)
    for key, gradient in reached.items():
        assert (gradient - compiled[key]).norm() <= 1e-6 * gradient.norm(), key


def test_code_for_other_vectors_is_not_taken_from_the_cache():
    """Else float64 is NaN where one machine wrote the cache and another reads it."""
    compile_blocks(backbone_of("sd3").module)
    assert torch.backends.cpu.get_cpu_capability() in torch.compiler.config.cache_key_tag


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home of which nothing is known to torch, which has chosen another place by itself."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())
    return tmp_path


def test_what_is_compiled_is_kept_where_a_later_run_looks(home):
    compile_blocks(backbone_of("sd3").module)
    place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert place.parent == home / ".cache" / "flowbp" / "compiled" and place.is_dir()
    assert place.name.startswith(f"torch-{torch.__version__}-")


@pytest.mark.parametrize("ending", ["elsewhere", None])
def test_a_place_that_is_named_stays(home, monkeypatch, ending):
    # Beside torch's own perhaps, as those who share a machine's fast disk do.
    named = str(home / ending) if ending else f"{default_cache_dir()}-of-mine"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", named)
    compile_blocks(backbone_of("sd3").module)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == named
    assert not (home / ".cache").exists()


def test_without_a_home_to_write_to_torch_decides(home):
    (home / ".cache").write_text("no folder")
    compile_blocks(backbone_of("sd3").module)
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == default_cache_dir()


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a compiler on the CPU")
def test_what_was_compiled_is_read_again(tmp_path, monkeypatch):
    """Nothing of how blocks are compiled keeps torch from finding their graphs."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))

    class Block(torch.nn.Sequential):
        def forward(self, x):
            return super().forward(x).sin()

    found = []
    for _ in range(2):
        # All that a new process would not know.
        torch.compiler.reset()
        counters.clear()
        network = torch.nn.Module()
        network.blocks = torch.nn.ModuleList([Block(torch.nn.Linear(2, 2))])
        compile_blocks(network, activations=0.3)
        network.blocks[0](torch.ones(1, 2)).sum().backward()
        found.append(compiled_graphs())
    assert found == [(1, 0), (1, 1)]


@pytest.fixture
def asked(monkeypatch):
    """What is asked of torch.compile: blocks by the share that they keep, and the backend."""
    seen = []
    keeping = compilation._keeping

    def recorded(activations, backend):
        seen.append((activations, backend))
        return keeping(activations, backend)

    monkeypatch.setattr(compilation, "_keeping", recorded)
    return seen


def test_a_run_compiles_with_the_share_that_it_names(asked, tmp_path):
    plain = RunSettings(folder=tmp_path / "plain")
    assert not is_compiled(tuned_of(Full(), backbone_of("sd3"), plain).module) and not asked
    run = RunSettings(folder=tmp_path / "compiled", compile=True, activations=0.2)
    tuned = tuned_of(Full(), backbone_of("sd3"), run)
    assert is_compiled(tuned.module) and is_compiled(tuned.decoder.vae.decoder)
    assert set(asked) == {(0.2, "inductor"), (1.0, "inductor")}


def test_a_frozen_copy_is_compiled_as_the_model_is(asked):
    backbone = backbone_of("sd3")
    backbone.reference()
    assert not asked
    blocks = compile_blocks(backbone.module, activations=0.7, backend="eager")
    assert asked == [(0.7, "eager")] * blocks
    asked.clear()
    backbone.reference()
    assert set(asked) == {(0.7, "eager")}


def test_the_whole_decoder_is_one_graph_and_nothing_is_logged(caplog):
    backbone = backbone_of("sd3")
    for name in ("diffusers", "diffusers.models"):
        logging.getLogger(name).propagate = True
    latents = torch.zeros(1, 16, 4, 4)
    backbone.decode(latents)
    assert not caplog.records
    decoder = backbone.decoder.vae.decoder
    lay_out_channels_last(decoder)
    torch._dynamo.reset()
    decoder.compile(backend="eager", fullgraph=True)
    backbone.decode(latents)


def test_blocks_in_lists_of_lists_are_compiled():
    """As in networks of stages, whose lists are never called themselves."""
    network = torch.nn.Module()
    blocks = [torch.nn.Linear(1, 1) for _ in range(3)]
    network.stages = torch.nn.ModuleList([torch.nn.ModuleList(blocks[:2]), blocks[2]])
    assert compile_blocks(network, backend="eager") == 3
    assert all(is_compiled(block) for block in blocks)


def test_a_decoder_of_another_kind_is_left():
    network = torch.nn.Module()
    network.blocks = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    backbone = SimpleNamespace(module=network, decoder=torch.nn.Conv2d(1, 3, 1))
    compile_backbone(backbone, backend="eager")
    assert is_compiled(network) and not is_compiled(backbone.decoder)


def test_a_network_of_one_s_own_needs_no_diffusers(monkeypatch):
    for name in list(sys.modules):
        if name.partition(".")[0] == "diffusers":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    network = torch.nn.Module()
    network.blocks = torch.nn.ModuleList([torch.nn.Linear(1, 1)])
    assert compile_blocks(network, backend="eager") == 1


def test_the_last_batch_of_an_evaluation_is_not_compiled_anew():
    """Three prompts by two: the same pictures as without compiling, by code for two alone."""
    prompts, exact = ["one", "two", "three"], DtypePolicy(torch.float64, torch.float64)
    sampling = GenerationSampling(steps=2, height=32, width=32, guidance=2.0, batch=2)
    torch._dynamo.reset()
    plain = generate(backbone_of("sd3", policy=exact), prompts, 0, sampling)
    backbone = backbone_of("sd3", policy=exact)
    compile_backbone(backbone, backend="eager")
    batches = generate_batches(backbone, prompts, 0, sampling)
    found = [next(batches)[1]]
    with torch.compiler.set_stance("fail_on_recompile"):
        found += [images for _, images in batches]
    assert [len(images) for images in found] == [2, 1]
    torch.testing.assert_close(torch.cat(found), plain, rtol=0, atol=1e-6)


def test_what_has_no_blocks_is_reported():
    with pytest.raises(ValueError, match=r"a network with a list of blocks.*Linear"):
        compile_backbone(SimpleNamespace(module=torch.nn.Linear(1, 1)))


def test_less_is_kept_where_less_is_wanted():
    """The bytes that autograd saves between the two passes of compiled blocks."""
    found = {}
    for kept in (1.0, 0.3):
        torch._dynamo.reset()
        backbone = backbone_of("sd3")
        compile_blocks(backbone.module, activations=kept, backend="aot_eager")
        saved = {}

        def pack(tensor, saved=saved):
            saved[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        latents = torch.randn(2, *backbone.latent_shape(32, 32), requires_grad=True)
        field = backbone.velocity(backbone.encode(["one", "two"]))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            field(latents, torch.tensor(0.5))
        found[kept] = sum(saved.values())
    assert found[0.3] < found[1.0]


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_reported(share):
    with pytest.raises(ValueError, match=r"`activations` must be a share in \[0, 1\]"):
        compile_blocks(torch.nn.Module(), activations=share)

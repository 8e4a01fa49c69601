"""What only a CUDA device can show: bfloat16 kernels, generators of the device, memory."""

from __future__ import annotations

import gc
import json
from contextlib import contextmanager

import attrs
import pytest
import torch
from diffusers.models.attention import FeedForward

from benchmarks.random_backbone import SMALL_VAES, random_backbone
from flowbp import Bridge
from flowbp.adapters import DtypePolicy, Lora, compile_backbone
from flowbp.adapters.faster_modules import fuse_gelu
from flowbp.adapters.quantization import quantize
from flowbp.cli.run.execution import execute
from flowbp.core import Linear
from flowbp.prompts import cached
from flowbp.settings import RunContainer, load
from flowbp.training import (
    AdamW,
    Batching,
    PromptList,
    Streams,
    Trainer,
    TrainingSampling,
    TrainingStep,
)
from flowbp.training.device_memory import RESERVE, CudaMemory
from flowbp.training.memory_fit import fit_portions

from .adapters.adapted import PROMPTS, TUNED, attached, with_plain_layers
from .tiny_run import save_models, write_configuration

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
# Two blocks of the published widths: kernels are chosen by the sizes of a head and a sequence.
SHALLOW = {
    "sd3.5 medium": dict(num_layers=2, dual_attention_layers=(0,)),
    "flux1 dev": dict(num_layers=2, num_single_layers=2),
    "flux2 klein 9B": dict(num_layers=2, num_single_layers=2),
}
FULL = DtypePolicy()
POLICIES = {
    "autocast": DtypePolicy(torch.float32, torch.bfloat16),
    "bfloat16": DtypePolicy(torch.bfloat16, torch.bfloat16),
}


def shallow(name, policy, *, like=None, **options):
    """Two blocks of a published model, with the weights of `like` where it is given."""
    backbone = random_backbone(
        name,
        policy=policy,
        device="cuda",
        transformer=SHALLOW[name],
        vae=SMALL_VAES[name.split()[0]],
        **options,
    )
    if like is not None:
        # Weights that are drawn in bfloat16 are others than those drawn in float32.
        backbone.module.load_state_dict(like.module.state_dict())
    return backbone


def pulled(backbone, *, side):
    """The gradient of one velocity, as one vector, and the cotangent that reaches the latents."""
    for parameter in backbone.trainable().values():
        parameter.grad = None
    generator = torch.Generator().manual_seed(0)
    x = backbone.noise(2, height=side, width=side, generator=generator).requires_grad_()
    v = backbone.velocity(backbone.encode(["one", "two"]))(x, torch.tensor(0.5))
    v.backward(torch.randn(v.shape, generator=generator).to(v))
    gradients = [p.grad.flatten().float() for p in backbone.trainable().values()]
    return torch.cat(gradients), x.grad


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("name", SHALLOW)
def test_bfloat16_gradients_are_those_of_float32(name, policy, checkpointing):
    exact = shallow(name, FULL)
    backbone = shallow(name, policy, like=exact, gradient_checkpointing=checkpointing)
    for side in (256, 512):
        reference, found = pulled(exact, side=side), pulled(backbone, side=side)
        for theirs, ours in zip(reference, found, strict=True):
            assert ours.isfinite().all()
            cosine = torch.nn.functional.cosine_similarity(theirs.flatten(), ours.flatten(), dim=0)
            print(name, side, f"cosine {cosine.item():.5f}")
            assert cosine > 0.995


def test_compiled_blocks_have_the_gradients_of_float32():
    """Half of the activations are computed again; the decoder, compiled too, attends plainly."""
    exact = shallow("sd3.5 medium", FULL)
    backbone = shallow("sd3.5 medium", POLICIES["bfloat16"], like=exact)
    backbone.decoder.vae.load_state_dict(exact.decoder.vae.state_dict())
    compile_backbone(backbone)
    reference, found = pulled(exact, side=256), pulled(backbone, side=256)
    decoded = []
    for each in (exact, backbone):
        generator = torch.Generator().manual_seed(0)
        latents = each.noise(1, height=256, width=256, generator=generator).requires_grad_()
        each.decode(latents).square().mean().backward()
        decoded.append(latents.grad)
    for theirs, ours in zip((*reference, decoded[0]), (*found, decoded[1]), strict=True):
        assert ours.isfinite().all()
        cosine = torch.nn.functional.cosine_similarity(theirs.flatten(), ours.flatten(), dim=0)
        print("compiled", f"cosine {cosine.item():.5f}")
        assert cosine > 0.995


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_gelu_within_the_product_is_gelu(policy):
    """Sampling's kernel against float32, at the width of SD3.5 Medium."""
    with torch.device("cuda"):
        part = FeedForward(1536, activation_fn="gelu-approximate")
        x = torch.randn(2, 77, 1536)
    exact = part(x)
    fuse_gelu(part)
    part.to(policy.weights)
    with torch.no_grad(), policy.autocast(torch.device("cuda")):
        found = part(x.to(policy.weights))
    assert found.dtype == torch.bfloat16
    assert (found.float() - exact).norm() <= 0.01 * exact.norm()


def test_the_fused_optimizer_is_adam_with_decoupled_decay():
    """Against torch's plain loop in float64, for three steps."""
    results = []
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        generator = torch.Generator().manual_seed(0)
        weight = torch.nn.Parameter(torch.randn(64, 64, generator=generator).to(device, dtype))
        optimizer = AdamW(1e-2, weight_decay=0.1).build([weight])
        for _ in range(3):
            weight.grad = torch.randn(64, 64, generator=generator).to(device, dtype)
            optimizer.step()
        results.append(weight.detach().cpu().double())
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def step_peak(backbone, active, streams):
    """The most memory, in bytes, that a step with so many active steps takes."""
    step = TrainingStep(
        backbone=backbone,
        reward=lambda images, prompts: images.mean((1, 2, 3)),
        method=Bridge(active=active),
        shape=Linear(),
        sampling=TrainingSampling(steps=12, guidance=1.0, height=256, width=256),
        batching=Batching(samples=2),
    )
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step(["one", "two"], streams)
    return torch.cuda.max_memory_allocated()


def test_memory_does_not_grow_with_the_active_steps():
    backbone = shallow("flux1 dev", POLICIES["bfloat16"], text_tokens=64)
    streams = Streams.of(0)
    step_peak(backbone, 2, streams)
    few, many = (step_peak(backbone, active, streams) for active in (2, 10))
    assert many == pytest.approx(few, rel=0.02)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


def rows(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_a_run_goes_on_with_the_device_s_generators(tmp_path, models, deterministic):
    """Dropout in the adapter draws from the device's generator, which a checkpoint must hold."""
    lora = "tuning={name: lora, rank: 4, dropout: 0.4}"
    found = {}
    for name, lengths in {"whole": (4,), "stopped": (2, 4)}.items():
        folder = tmp_path / name
        folder.mkdir()
        path = str(write_configuration(folder, models))
        for number, steps in enumerate(lengths):
            typed = [path, "run.device=cuda", lora, f"training.steps={steps}"]
            settings = load(typed, resume=number > 0).settings
            execute(RunContainer(settings=settings), resume=number > 0)
        found[name] = rows(folder / "run")
    assert len(found["whole"]) == 4
    assert found["whole"] == found["stopped"]
    assert found["whole"][2]["gradient_norm"] > 0


def test_an_adapter_in_bfloat16_has_the_gradients_of_float32():
    """The adapter's own weights stay float32, and its products run in bfloat16."""
    gradients, exact = [], shallow("flux2 klein 9B", FULL)
    for policy in (FULL, POLICIES["bfloat16"]):
        backbone = shallow("flux2 klein 9B", policy, like=exact)
        Lora(rank=8)(backbone, generator=torch.Generator().manual_seed(0))
        generator = torch.Generator().manual_seed(1)
        for parameter in backbone.trainable().values():
            assert parameter.dtype == torch.float32
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.data.add_(noise, alpha=0.02)
        gradients.append(pulled(backbone, side=256)[0])
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    print(f"cosine {cosine.item():.5f}")
    assert cosine > 0.99


def test_a_policy_of_two_dtypes_keeps_master_weights():
    backbone = shallow("sd3.5 medium", POLICIES["autocast"])
    pulled(backbone, side=256)
    kinds = {(p.dtype, p.grad.dtype) for p in backbone.trainable().values() if p.grad is not None}
    assert kinds == {(torch.float32, torch.float32)}
    assert attrs.asdict(backbone.policy)["compute"] == torch.bfloat16


class Told:
    """An observer that remembers the rows, and what it is told of portions."""

    def __init__(self):
        self.rows, self.told = [], []

    def row(self, metrics):
        self.rows.append(metrics)

    def portions(self, step, portions, told):
        self.told.append((step, portions, told))
        print(f"step {step}: {told}")

    def pictures(self, step, images, prompts):
        raise AssertionError("none were asked for")

    def close(self):
        pass


@contextmanager
def room(gib):
    """So much memory is free, and the rest of the device is taken."""
    gc.collect()
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    ballast = torch.empty(free - gib * 2**30, dtype=torch.uint8, device="cuda")
    yield
    del ballast
    torch.cuda.empty_cache()


def stepping(backbone, batching):
    """A step at 512 x 512."""
    return TrainingStep(
        backbone=backbone,
        reward=lambda images, prompts: images.mean((1, 2, 3)),
        method=Bridge(active=2),
        shape=Linear(),
        sampling=TrainingSampling(steps=4, guidance=3.5, height=512, width=512),
        batching=batching,
    )


def trained(backbone, batching, gib, *, steps=2):
    """What an observer of a training was told, with so much memory."""
    told = Told()
    trainer = Trainer(
        step=stepping(backbone, batching),
        prompts=PromptList(["one", "two", "three"]),
        optimizer=AdamW(),
        steps=steps,
        observers=[told],
    )
    with room(gib):
        trainer.run()
    return told


def without_checkpointing():
    return shallow(
        "sd3.5 medium", POLICIES["bfloat16"], text_tokens=64, gradient_checkpointing=False
    )


@pytest.mark.parametrize("gib", [8, 16])
def test_what_is_chosen_fits_and_uses_the_memory(gib):
    told = trained(without_checkpointing(), Batching(16, 16), gib)
    ((step, portions, line),) = told.told
    assert step == 1 and len(told.rows) == 2 and "GiB free" in line
    assert 2 <= portions.pull <= 16 and portions.checkpointing is False
    if portions.pull < 16:
        # A portion may be half of what fits, to be a divisor, and a tenth is left free.
        more = Batching(16, 16, pull=4 * portions.pull, decode=portions.decode)
        lowered = [line for _, _, line in trained(without_checkpointing(), more, gib).told]
        assert lowered and all("backward pass of the network" in line for line in lowered)


def test_checkpointing_is_chosen_where_memory_is_short():
    backbone = shallow("sd3.5 medium", POLICIES["bfloat16"], text_tokens=64)
    step, memory = stepping(backbone, Batching(8)), CudaMemory(backbone.device)
    roomy, told = fit_portions(step, ["one", "two"], memory)
    assert (roomy.pull, roomy.checkpointing) == (8, False)
    each = float(told.split(" GiB a sample")[0].split(", ")[-1])
    # Left are two samples' worth and a half.
    owed = memory.free() - int(2.5 * each / (1 - RESERVE) * 2**30)
    short, _ = fit_portions(step, ["one", "two"], memory, owed=owed)
    assert short.checkpointing is True
    assert backbone.transformer.is_gradient_checkpointing


def test_a_run_with_a_far_too_large_pull_goes_on():
    figures = []
    for batching in (Batching(16, 4, pull=4, decode=2), Batching(16, 4, pull=64, decode=2)):
        told = trained(without_checkpointing(), batching, 8)
        figures.append([(row.loss, row.gradient_norm) for row in told.rows])
    assert {step for step, _, _ in told.told} == {1} and told.told[-1][1].pull < 64
    for expected, found in zip(*figures, strict=True):
        assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("form", ["int8", "nf4"])
def test_a_pull_on_a_base_of_few_bits_is_that_on_the_widened_one(form):
    if form == "nf4":
        pytest.importorskip("bitsandbytes")
    found = []
    for wide in (False, True):
        backbone = shallow("flux1 dev", POLICIES["bfloat16"])
        quantize(backbone.module, form)
        if wide:
            with_plain_layers(backbone.module, torch.bfloat16)
        tuned = Lora(rank=4)(backbone, generator=torch.Generator().manual_seed(0))
        found.append(pulled(tuned, side=512))
    (few, into), (widened, into_widened) = found
    assert widened.norm() > 0
    assert (few - widened).norm() <= 0.01 * widened.norm()
    assert (into - into_widened).norm() <= 0.01 * into_widened.norm()


@pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")
def test_a_network_of_few_bits_leaves_the_device_while_prompts_are_encoded(monkeypatch):
    backbone = attached(TUNED["sd3"], device="cuda", quantization="int8")
    parameters, places = dict(backbone.module.named_parameters()), []
    held = [tower.held for tower in backbone.text_encoders.towers.values()]
    encode = type(backbone).encode

    def watched(self, prompts):
        places.append({each.device.type for each in backbone.module.parameters()})
        return encode(self, prompts)

    monkeypatch.setattr(type(backbone), "encode", watched)
    cached(backbone, None).fill(PROMPTS)
    assert places == [{"cpu"}] * len(PROMPTS)
    assert {each.device.type for each in backbone.module.parameters()} == {"cuda"}
    assert all(each.offloaded for each in held)
    # An optimizer that was made before has the same ones.
    assert all(parameters[name] is each for name, each in backbone.module.named_parameters())

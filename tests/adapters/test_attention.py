"""The attention of the families by a kernel: parity with diffusers, and what is set where."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import attrs
import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch.nn import functional

from flowbp.adapters import DtypePolicy, attention, attention_kernels, diffusers_backbone
from flowbp.adapters.attention import JointAttention, attend_with, set_attention
from flowbp.adapters.attention_choice import Choices
from flowbp.adapters.attention_kernels import AUTO, CHOICES, NATIVE, DenseGradient, attend
from flowbp.adapters.compilation import blocks_of
from flowbp.adapters.diffusers_components import frozen_copy

from .families import FAMILIES

CUDA, CPU, BFLOAT16 = torch.device("cuda"), torch.device("cpu"), torch.bfloat16
NAMES = ("sd3", "flux1 dev", "flux2 klein-base", "z_image", "qwen_image")
HALF = DtypePolicy(BFLOAT16, BFLOAT16)
LATER = {"agree": lambda call, name: name, "say": lambda line: None}


def backbone_of(name, **options):
    family = FAMILIES[name]
    return family.backbone(copy.deepcopy(family.pipeline()), **options)


def set_of(network):
    """What the attentions of a network are set to."""
    found = set()
    for part in network.modules():
        processor = getattr(part, "processor", None)
        if isinstance(processor, JointAttention):
            found.add(processor.attention)
        elif processor is not None:
            found.add(getattr(getattr(processor, "_attention_backend", None), "value", None))
    return found


def everywhere(network, name):
    """Set an attention as on CUDA."""
    assert sum(attention._set(part, name) for part in network.modules()) > 0


def pulled(backbone, prompts=("one", "a longer one")):
    """A velocity and its gradients."""
    generator = torch.Generator().manual_seed(0)
    x = backbone.noise(len(prompts), height=32, width=32, generator=generator).requires_grad_()
    v = backbone.velocity(backbone.encode(list(prompts)))(x, torch.tensor(0.5))
    wanted = [x, *backbone.trainable().values()]
    cotangent = torch.randn(v.shape, generator=generator).to(v)
    return [v, *torch.autograd.grad(v, wanted, cotangent, allow_unused=True)]


@pytest.mark.parametrize("dual", [False, True], ids=["joint", "dual"])
def test_joint_attention_is_that_of_diffusers_bit_for_bit(dual):
    from .tiny import tiny_transformer

    transformer = tiny_transformer(dual_attention_layers=(0,) if dual else ())
    generator = torch.Generator().manual_seed(0)
    inputs = {
        "hidden_states": torch.randn(2, 4, 8, 8, generator=generator),
        "encoder_hidden_states": torch.randn(2, 3, 32, generator=generator),
        "pooled_projections": torch.randn(2, 24, generator=generator),
        "timestep": torch.tensor([3.0, 400.0]),
    }
    found = []
    for name in (NATIVE, AUTO):
        everywhere(transformer, name)
        transformer.zero_grad()
        velocity = transformer(**inputs, return_dict=False)[0]
        velocity.square().sum().backward()
        found.append([velocity, *(p.grad for p in transformer.parameters() if p.grad is not None)])
    assert set_of(transformer) == {AUTO} and len(found[0]) == len(found[1]) > 10
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_in_float32_all_families_are_as_they_were(name):
    backbone = backbone_of(name)
    assert set_of(backbone.module) <= {None}
    plain = pulled(backbone)
    everywhere(backbone.module, AUTO)
    assert set_of(backbone.module) & {AUTO, "flowbp_auto"}
    for ours, theirs in zip(pulled(backbone), plain, strict=True):
        assert (ours is None and theirs is None) or torch.equal(ours, theirs)


@pytest.fixture
def fakes(monkeypatch):
    """Kernels of the CPU, by the names of CUDA's, and the calls that each has had."""
    calls = []

    def kernel(name, query, key, value):
        assert query.dtype == key.dtype == value.dtype == BFLOAT16
        if not torch.compiler.is_compiling():
            calls.append(name)
        return DenseGradient.apply(functional.scaled_dot_product_attention(query, key, value))

    fast = iter(range(1000, 0, -1))
    kernels = {name: partial(kernel, name) for name in ("cudnn", "flash")}
    # Each kernel is said to be faster than the one before.
    found = Choices(kernels, clock=lambda run, device: 2.0 ** next(fast))
    monkeypatch.setattr(attention_kernels, "CHOICES", found)
    return calls


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "policy", [HALF, DtypePolicy(torch.float32, BFLOAT16)], ids=["half", "cast"]
)
@pytest.mark.parametrize("name", NAMES)
def test_a_family_attends_by_the_chosen_kernel(name, policy, checkpointing, fakes):
    backbone = backbone_of(name, policy=policy, gradient_checkpointing=checkpointing)
    prompts = ("one", "two")
    plain = pulled(backbone, prompts)
    everywhere(backbone.module, AUTO)
    pulled(backbone, prompts)
    # Once everything is chosen, no other kernel is called.
    fakes.clear()
    for ours, theirs in zip(pulled(backbone, prompts), plain, strict=True):
        if theirs is not None:
            assert (ours - theirs).norm() <= 0.05 * theirs.norm() + 1e-3
    assert set(fakes) == {"flash"}


@pytest.mark.parametrize(
    ("name", "backend"),
    [("sd3", "eager"), ("flux1 dev", "aot_eager")],
)
def test_a_block_stays_one_graph_and_is_compiled_once(name, backend, fakes):
    torch._dynamo.reset()
    backbone = backbone_of(name, policy=HALF)
    everywhere(backbone.module, AUTO)
    plain = pulled(backbone)
    # Chosen again, while the blocks are traced.
    attention_kernels.CHOICES._found.clear()
    for block in blocks_of(backbone.module):
        block.compile(fullgraph=True, dynamic=False, backend=backend)
    compiled = pulled(backbone)
    assert set(attention_kernels.CHOICES._found.values()) == {"flash"}
    with torch.compiler.set_stance("fail_on_recompile"):
        again = pulled(backbone)
    for first, second, exact in zip(compiled, again, plain, strict=True):
        if exact is not None:
            assert torch.equal(first, second)
            assert (first - exact).norm() <= 0.05 * exact.norm() + 1e-3


def test_what_is_set_is_of_this_model_and_can_be_taken_back():
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    before = _AttentionBackendRegistry.get_active_backend()
    for name, chosen in {"sd3": "flash", "flux1 dev": "flowbp_flash"}.items():
        transformer, other = backbone_of(name).module, backbone_of(name).module
        attend_with(transformer, "flash", CUDA, BFLOAT16)
        assert set_of(transformer) == {chosen} and set_of(other) <= {None}
        assert set_of(copy.deepcopy(transformer)) == {chosen}
        attend_with(transformer, NATIVE, CUDA, BFLOAT16)
        assert set_of(transformer) == {None}
    assert type(transformer.transformer_blocks[0].attn.processor) is not JointAttnProcessor2_0
    assert _AttentionBackendRegistry.get_active_backend() == before


@pytest.fixture
def as_on_cuda(monkeypatch):
    """Sets attentions as on CUDA in half precision, wherever the backbone is."""
    plain = attention.attend_with
    monkeypatch.setattr(
        attention, "attend_with", lambda network, name, *_: plain(network, name, CUDA, BFLOAT16)
    )


@pytest.mark.parametrize("chosen", [AUTO, "flash", NATIVE])
@pytest.mark.parametrize("name", ["sd3", "flux1 dev"])
def test_what_is_set_stays_on_the_reference_and_on_copies(name, chosen, as_on_cuda, monkeypatch):
    backbone, copies = backbone_of(name), []
    set_attention(backbone, chosen, **LATER)
    expected = set_of(backbone.module)
    assert (expected == {None}) == (chosen == NATIVE) and len(expected) == 1

    def copied(*given, **options):
        copies.append(frozen_copy(*given, **options))
        return copies[-1]

    monkeypatch.setattr(diffusers_backbone, "frozen_copy", copied)
    backbone.reference()
    (frozen,) = copies
    assert set_of(frozen) == expected == set_of(attrs.evolve(backbone).module)
    # A model that was never set has its own.
    assert set_of(backbone_of(name).module) == set_of(attrs.evolve(backbone_of(name)).module)


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_a_backend_of_the_users_own_stays_under_auto_alone(device):
    from diffusers.models.attention_dispatch import AttentionBackendName

    transformer, theirs = backbone_of("flux1 dev").module, AttentionBackendName.FLASH
    for block in transformer.transformer_blocks:
        block.attn.processor._attention_backend = theirs
    attend_with(transformer, AUTO, device, BFLOAT16)
    found = {block.attn.processor._attention_backend for block in transformer.transformer_blocks}
    assert found == {theirs}
    attend_with(transformer, "efficient", CUDA, BFLOAT16)
    assert set_of(transformer) == {"flowbp_efficient"}
    attend_with(transformer, AUTO, device, BFLOAT16)
    assert set_of(transformer) == ({"flowbp_auto"} if device == CUDA else {None})


@pytest.mark.parametrize(("device", "dtype"), [(CPU, BFLOAT16), (CUDA, torch.float32)])
def test_auto_is_native_where_there_is_nothing_to_choose(device, dtype):
    transformer = backbone_of("flux1 dev").module
    attend_with(transformer, AUTO, device, dtype)
    assert set_of(transformer) == {None}


@pytest.mark.parametrize(
    ("name", "device", "dtype", "said"),
    [
        ("flash3", CUDA, BFLOAT16, "must be auto or cudnn or flash or efficient or native, got"),
        ("cudnn", CPU, BFLOAT16, "is 'cudnn', a kernel of CUDA, on the device cpu; write auto"),
        (
            "flash",
            CUDA,
            torch.float32,
            "is 'flash', and the model computes in torch.float32; write",
        ),
    ],
)
def test_an_attention_that_is_not_there_is_refused(name, device, dtype, said):
    with pytest.raises(ValueError, match=f"`attention` {said}"):
        attend_with(backbone_of("sd3").module, name, device, dtype)


def test_a_network_without_an_attention_to_set_is_refused_by_name_alone():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1))
    attend_with(network, AUTO, CUDA, BFLOAT16)
    with pytest.raises(ValueError, match="Sequential has no attention of diffusers to set"):
        attend_with(network, "cudnn", CUDA, BFLOAT16)


def test_a_mask_leaves_the_choice_to_torch(fakes):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 3, 5, 8, generator=generator).bfloat16() for _ in range(3))
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    mask[1, ..., 3:] = False
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    for name in (AUTO, NATIVE):
        found = attend(name, query, key, value, mask)
        assert (found - expected).norm() <= 0.02 * expected.norm()
    assert not fakes


@pytest.mark.parametrize("compiled", [False, True])
def test_of_a_mask_a_named_kernel_warns_once(compiled, fakes):
    torch._dynamo.reset()
    attention_kernels._tell_of_mask.cache_clear()
    heads = torch.zeros(2, 3, 5, 8, dtype=BFLOAT16)
    mask = torch.ones(2, 1, 1, 5, dtype=torch.bool)
    attending = torch.compile(attend, fullgraph=True, backend="eager") if compiled else attend
    with pytest.warns(
        UserWarning, match=r"run\.attention is 'flash', and torch dec.* mask"
    ) as said:
        for size in (2, 2, 1):
            attending("flash", *[heads[:size]] * 3, mask[:size])
    assert sum("attention" in str(each.message) for each in said) == 1 and not fakes
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for name in (AUTO, NATIVE):
            attending(name, *[heads] * 3, mask)


def test_a_gradient_of_any_layout_arrives_by_position():
    shape, seen = (2, 3, 5, 8), []
    heads = torch.zeros(shape).transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    heads_in = heads * 1
    heads_in.register_hook(lambda gradient: seen.append(gradient.stride()))
    out = DenseGradient.apply(heads_in)
    for given in (
        torch.randn(shape),
        torch.randn(()).expand(shape),
        torch.randn(2, 3, 5, 16)[..., ::2],
        torch.randn(2, 5, 48)[..., :24].unflatten(2, (3, 8)).transpose(1, 2),
    ):
        (found,) = torch.autograd.grad(out, heads, given, retain_graph=True)
        assert torch.equal(found, given)
    assert set(seen) == {heads.stride()}


def test_transforms_of_functions_pass_through():
    def total(heads):
        return DenseGradient.apply(heads).square().sum()

    heads = torch.randn(2, 1, 3, 4, 5)
    found = torch.func.vmap(torch.func.grad(total))(heads)
    torch.testing.assert_close(found, 2 * heads)


def test_a_choice_is_agreed_on_and_said_with_the_name_of_its_key():
    before = CHOICES.agree, CHOICES.say, CHOICES.key
    with CHOICES.restored():
        set_attention(backbone_of("sd3"), AUTO, key="evaluation.attention", **LATER)
        assert (CHOICES.agree, CHOICES.say) == tuple(LATER.values())
        assert CHOICES.key == "evaluation.attention"
    assert (CHOICES.agree, CHOICES.say, CHOICES.key) == before

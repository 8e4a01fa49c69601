"""The joint graph, as it is usually written or in one pass, has the streamed step's gradient."""

from __future__ import annotations

import attrs
import pytest
import torch
from diffusers.models.attention_processor import Attention

from benchmarks.joint_graph import Fields, after_sampling, plain_decode, while_sampling
from benchmarks.reference_cases import JOINT, MAIN, ONE_PASS, Case
from benchmarks.reference_model import Subject
from flowbp.core import Bridge, DRaFT, DRTune, Lagrange, LeapAlign, ReFL, Sparse

(FASTER,) = (case for case in MAIN if case.faster_modules)


@pytest.fixture(scope="module")
def subject():
    return Subject(small=True, compiled=False)


@pytest.fixture(scope="module")
def one_pass():
    return attrs.evolve(ONE_PASS, compiled=False)


@pytest.mark.parametrize("method", [Bridge(active=4, alpha=0.5), Sparse(active=1)])
@pytest.mark.parametrize("checkpointing", [False, True])
# Portions round alike only where they are the same; and so do calls of one branch or of two.
@pytest.mark.parametrize(
    ("built", "size", "tolerance"),
    [
        (JOINT, 3, 1e-6),
        (JOINT, 2, 1e-5),
        (attrs.evolve(ONE_PASS, compiled=False), 3, 1e-5),
        (attrs.evolve(ONE_PASS, compiled=False, decode=2), 3, 1e-5),
        (attrs.evolve(FASTER, compiled=False), 3, 1e-5),
        (attrs.evolve(FASTER, compiled=False, decode=2), 3, 1e-5),
    ],
)
def test_the_gradients_agree(subject, method, built, checkpointing, size, tolerance):
    sizes = dict(method=method, steps=5, samples=3)
    subject.prepared(attrs.evolve(built, checkpointing=checkpointing, **sizes))()
    joint = subject.gradient()
    subject.prepared(Case(name="streamed", compiled=False, pull=size, decode=size, **sizes))()
    assert subject.cosine(joint) == pytest.approx(1, abs=1e-6)
    streamed = subject.gradient()
    largest = max(gradient.abs().max() for gradient in joint)
    assert largest > 0
    for mine, theirs in zip(streamed, joint, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * largest


def test_pictures_of_a_joint_graph_that_are_decoded_in_parts_are_decoded_again(
    subject, monkeypatch
):
    decoded = []
    vae = subject.plain.decoder.vae
    decode = type(vae).decode
    monkeypatch.setattr(
        type(vae), "decode", lambda vae, z, **how: decoded.append(len(z)) or decode(vae, z, **how)
    )
    case = attrs.evolve(JOINT, steps=2, samples=3, method=Sparse(active=1))
    for parts, expected in ((3, [3]), (2, [2, 1, 1, 2])):
        subject.prepared(attrs.evolve(case, decode=parts))()
        assert decoded == expected
        decoded.clear()


@pytest.mark.parametrize(
    "method",
    [
        Bridge(active=4, alpha=0.5, rescale=0.5, tail=0.8),
        Lagrange(order=3, rescale=0.5),
        LeapAlign(),
        DRTune(active=2),
        DRaFT(last=3),
        ReFL(last=3),
    ],
)
def test_one_pass_has_the_graph_of_two_for_every_surrogate(method):
    sigmas = torch.linspace(1, 0, 9, dtype=torch.float64)
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    a = torch.tensor([0.3, 0.7], dtype=torch.float64, requires_grad=True)

    def guided(x, sigma):
        negative = torch.cos(a * x.T + sigma).T.detach()
        return negative + 3.5 * (torch.tanh(a * x.T - sigma).T - negative)

    fields = Fields(sampled=guided, active=guided)
    surrogate = method.draw(sigmas, torch.Generator().manual_seed(1))
    (x, gradient), (y, another) = (
        (
            read := build(fields, noise, sigmas, surrogate),
            torch.autograd.grad(read.square().sum(), a)[0],
        )
        for build in (after_sampling, while_sampling)
    )
    assert gradient.abs().min() > 0
    assert torch.allclose(x, y, rtol=1e-12) and torch.allclose(gradient, another, rtol=1e-12)


def test_one_pass_evaluates_nothing_twice_and_two_every_active_velocity(subject, one_pass):
    calls = []
    for case in (JOINT, one_pass):
        # Checkpointing evaluates blocks again, and not the network.
        subject.prepared(case)()
        calls.append(subject.evaluated / case.samples)
    assert calls == [2 * 25 + 2 * 5, 2 * 25]


def test_the_main_table_has_both_graphs_compiled_and_not():
    joint = [(case.one_pass, case.compiled, case.decode) for case in MAIN if case.joint]
    two, one = [(False, False, 8), (False, True, 8)], [(True, False, 8), (True, True, 8)]
    assert joint == [*two, *one, (True, True, 4), (True, True, 8)]
    assert all(case.checkpointing for case in MAIN if case.joint)
    for name in ("one_pass", "faster_modules"):
        with pytest.raises(ValueError, match=f"`{name}` is of a joint graph, got {name}=True"):
            Case(name="streamed", **{name: True})


def test_it_takes_nothing_of_the_library_s_decoding(subject, monkeypatch):
    decoder, sizes = subject.backbone.decoder, []
    latents = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    expected = decoder(latents)
    monkeypatch.setattr(type(decoder), "__call__", None)
    monkeypatch.setattr(type(decoder), "_decode", None)
    whole = decoder.vae.decode

    def decode(z, **options):
        sizes.append(len(z))
        return whole(z, **options)

    monkeypatch.setattr(decoder.vae, "decode", decode)
    images = plain_decode(decoder, latents)
    assert sizes == [3]
    assert torch.allclose(images, expected, atol=1e-6) and images.min() >= 0 <= 1 - images.max()


def test_rows_that_are_not_the_library_s_have_the_model_as_diffusers_writes_it():
    subject = Subject(small=True, compiled=True)
    feed_forward = subject.backbone.module.transformer_blocks[0].ff.net
    kinds, norms, attended = [], [], []
    for case in (JOINT, Case(name="streamed"), attrs.evolve(JOINT, compiled=True), FASTER):
        subject.prepared(case)
        decoder = subject.step(case).backbone.decoder.vae.decoder
        kinds.append(type(feed_forward[0]).__name__)
        norms.append(type(decoder.conv_norm_out).__name__)
    assert kinds == ["GELU", "TanhGelu", "GELU", "TanhGelu"]
    ours = "ChannelsLastGroupNorm"
    assert norms == ["GroupNorm", ours, "GroupNorm", ours]
    latents = torch.zeros(1, 16, 4, 4)
    (part,) = (p for p in subject.plain.decoder.vae.decoder.modules() if isinstance(p, Attention))
    part.register_forward_hook(lambda *_: attended.append(type(part.processor).__name__))
    plain_decode(subject.plain.decoder, latents)
    subject.plain.decode(latents)
    assert attended == ["AttnProcessor2_0", "VaeAttention"]


def test_it_takes_nothing_of_the_compiled_decoder(subject):
    def refuse(graph, inputs):
        raise AssertionError("compiled")

    decoder = subject.backbone.decoder
    part = decoder.vae.decoder.conv_out
    part.compile(backend=refuse)
    try:
        plain_decode(decoder, torch.zeros(1, 16, 4, 4))
    finally:
        part._compiled_call_impl = None


def test_one_row_of_a_joint_graph_has_the_compiled_decoder_of_the_library(monkeypatch):
    subject, decoded = Subject(small=True, compiled=True), []
    part = subject.backbone.decoder.vae.decoder
    whole = part._compiled_call_impl
    few = dict(steps=3, samples=2, method=Bridge(active=2))
    monkeypatch.setattr(
        part, "_compiled_call_impl", lambda z, *given: decoded.append(len(z)) or whole(z, *given)
    )
    gradients = []
    for case in (ONE_PASS, FASTER):
        subject.prepared(attrs.evolve(case, **few))()
        gradients.append(subject.gradient())
        assert decoded == ([2] if case is FASTER else [])
    assert subject.cosine(gradients[0]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("changes", [dict(method=LeapAlign()), dict(detach_negative=False)])
def test_what_it_does_not_compute_is_refused(subject, changes):
    with pytest.raises(ValueError, match="`step` must have a plain loss"):
        subject.prepared(attrs.evolve(JOINT, **changes))()

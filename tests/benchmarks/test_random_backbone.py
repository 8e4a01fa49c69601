"""Backbones of published shapes with random weights."""

from __future__ import annotations

import pytest
import torch

from benchmarks.random_backbone import SMALL, SMALL_VAES, TRANSFORMERS, random_backbone
from flowbp.adapters import DtypePolicy


def small(name, **options):
    return random_backbone(
        name,
        text_tokens=3,
        transformer=SMALL[name.split()[0]],
        vae=SMALL_VAES[name.split()[0]],
        **options,
    )


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_one_is_a_backbone(name):
    field = small(name)
    noise = field.noise(2, height=32, width=32, generator=torch.Generator().manual_seed(0))
    v = field.velocity(field.encode(["one", "two"]))(noise, torch.tensor(1.0))
    assert v.shape == noise.shape
    assert v.isfinite().all() and v.std() > 0
    assert field.decode(noise).shape == (2, 3, 32, 32)
    assert field.sigmas(4, height=32, width=32).shape == (5,)


def test_the_weights_are_in_the_policy_s_dtype_and_torch_s_defaults_stay():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    backbone = small("flux1 dev", policy=DtypePolicy(torch.bfloat16, torch.bfloat16))
    assert {p.dtype for p in backbone.module.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.rand(3), expected)


def test_seed_and_prompt_decide_everything():
    first, again, other = (small("sd3.5 medium", seed=seed) for seed in (0, 0, 1))
    same, different = (
        all(
            torch.equal(a, b)
            for a, b in zip(first.module.parameters(), model.module.parameters(), strict=True)
        )
        for model in (again, other)
    )
    assert same and not different
    one, two = (first.encode([text]).tensors["tokens"] for text in ("one", "two"))
    assert torch.equal(one, again.encode(["one"]).tensors["tokens"])
    assert not torch.equal(one, two)


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"`name` must be one of 'sd3.5 medium', .* got 'sd4'"):
        random_backbone("sd4")

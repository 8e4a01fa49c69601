"""Sampling's guided field: one call of both branches, or two, with the same values."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters import Conditioning
from flowbp.adapters.velocity import guided_field


@pytest.mark.parametrize(("words", "calls"), [(3, 1), (2, 2)], ids=["one call", "two calls"])
def test_both_branches_of_any_shape_are_guided(words, calls):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    positive, negative = (Conditioning({"text": draw(*s, 5)}) for s in ((2, 3), (1, words)))
    latents, sigma, seen = draw(2, 4), torch.tensor(0.3, dtype=torch.float64), []

    def velocity_of(conditioning):
        def field(latents, sigma):
            seen.append(len(latents))
            return (latents + sigma).sin() * conditioning.tensors["text"].mean((1, 2))[:, None]

        return field

    found = guided_field(velocity_of, positive, negative, 3.5)(latents, sigma)
    assert len(seen) == calls and sum(seen) == 4
    toward, away = (velocity_of(c)(latents, sigma) for c in (positive, negative))
    torch.testing.assert_close(found, away + 3.5 * (toward - away), rtol=1e-12, atol=1e-12)

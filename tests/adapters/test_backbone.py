"""The conditioning value."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters import Conditioning
from flowbp.adapters.backbone import guided_field


@pytest.fixture
def conditioning():
    return Conditioning({"tokens": torch.arange(12.0).view(3, 2, 2), "pooled": torch.arange(3.0)})


def test_samples_are_chosen_alike_in_every_tensor(conditioning):
    assert conditioning[1:].tensors["pooled"].tolist() == [1, 2]
    assert conditioning[torch.tensor([2, 0])].tensors["tokens"][:, 0, 0].tolist() == [8, 0]
    assert len(conditioning[torch.tensor([True, False, True])]) == 2


def test_repeat_puts_whole_copies_one_after_another(conditioning):
    repeated = conditioning.repeat(2)
    assert repeated.tensors["pooled"].tolist() == [0, 1, 2, 0, 1, 2]
    assert torch.equal(repeated.tensors["tokens"], conditioning.tensors["tokens"].repeat(2, 1, 1))


def test_later_changes_of_the_given_mapping_do_not_reach_it():
    tensors = {"tokens": torch.zeros(2, 1)}
    conditioning = Conditioning(tensors)
    tensors["pooled"] = torch.zeros(3, 1)
    assert list(conditioning.tensors) == ["tokens"]


def test_to_moves_every_tensor(conditioning):
    moved = conditioning.to("meta")
    assert {tensor.device.type for tensor in moved.tensors.values()} == {"meta"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, "at least one tensor"),
        ({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)}, "first dimension.*'a': 2, 'b': 3"),
        ({"a": torch.tensor(1.0)}, "first dimension.*None"),
    ],
)
def test_unequal_tensors_are_refused(tensors, message):
    with pytest.raises(ValueError, match=message):
        Conditioning(tensors)


def test_repeat_needs_a_copy(conditioning):
    with pytest.raises(ValueError, match="`times` must be at least 1, got 0"):
        conditioning.repeat(0)


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

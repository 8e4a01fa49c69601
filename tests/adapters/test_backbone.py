"""The conditioning value."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters import Conditioning


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

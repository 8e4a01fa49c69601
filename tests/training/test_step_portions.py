"""What a batch in portions holds at a time."""

from __future__ import annotations

import weakref

import pytest
import torch

from flowbp.adapters import Conditioning
from flowbp.adapters.backbone import guided_field
from flowbp.training.batching import portion_slices
from flowbp.training.step import velocity_in_portions


def test_one_portion_of_joined_conditioning_is_held_at_a_time():
    positive = Conditioning({"factor": torch.arange(8.0)[:, None]})
    negative = Conditioning({"factor": torch.tensor([[1.0]])})
    joined, alive = [], []

    def velocity_of(conditioning):
        own = conditioning.tensors["factor"]
        joined.append(weakref.ref(own))

        def velocity(latents, sigma):
            alive.append(sum(reference() is not None for reference in joined))
            return own * latents

        return velocity

    field = velocity_in_portions(
        lambda part: guided_field(velocity_of, positive[part], negative, 3.0), 2
    )
    for _ in range(3):
        found = field(torch.ones(8, 1), torch.tensor(1.0))
        assert torch.equal(found, 1 + 3 * (positive.tensors["factor"] - 1))
    assert alive == [1] * 12
    assert [reference() for reference in joined] == [None] * 12


def test_slices_cover_a_batch_in_order():
    assert list(portion_slices(5, 2)) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    with pytest.raises(ValueError, match="`size` must be >= 1"):
        list(portion_slices(5, 0))

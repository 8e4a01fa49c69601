"""The embedded world's captions as sources of prompts."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch

from flowbp.prompts import ShapesHeldOut, ShapesPrompts
from flowbp.shapes import PROMPT_KINDS, heldout_prompts, parse, training_prompts


def test_training_captions_are_of_all_kinds_in_equal_parts():
    def first(count: int, seed: int = 0) -> list[str]:
        return list(islice(ShapesPrompts().stream(torch.Generator().manual_seed(seed)), count))

    texts = first(240)
    assert set(Counter(parse(text).kind for text in texts).values()) == {40}
    assert set(texts) <= {prompt.text for prompt in training_prompts()}
    assert texts == first(240) != first(240, seed=1)
    assert len(ShapesPrompts()) == len(training_prompts())


@pytest.mark.parametrize("count", [1, 6, 13, 192])
def test_held_out_captions_are_spread_evenly(count):
    prompts = ShapesHeldOut(count).prompts()
    assert len(prompts) == count and prompts == ShapesHeldOut(count).prompts()
    assert set(prompts) <= set(heldout_prompts())
    shares = [Counter(prompt.kind for prompt in prompts)[kind] for kind in PROMPT_KINDS]
    assert max(shares) - min(shares) <= 1
    for kind in PROMPT_KINDS:
        mine = [prompt for prompt in prompts if prompt.kind == kind]
        there = sum(prompt.kind == kind for prompt in heldout_prompts())
        assert len(set(mine)) == min(len(mine), there)

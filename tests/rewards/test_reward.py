"""What every reward is asked and checked for."""

from __future__ import annotations

import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.rewards import InParts, in_parts
from flowbp.rewards.reward import check_inputs, score_in_batches


def bright(images, prompts):
    return images.mean((1, 2, 3))


@pytest.mark.parametrize(
    ("shape", "prompts", "fault"),
    [
        ((3, 8, 8), ["a circle"], r"`images` must be \(B, 3, H, W\), got \(3, 8, 8\)"),
        ((1, 4, 8, 8), ["a circle"], r"`images` must be .*got \(1, 4, 8, 8\)"),
        ((1, 3, 2, 2), "red", "`prompts` must be a sequence of 1 strings.*got 'red'"),
        ((2, 3, 2, 2), ["red"], "`prompts` must be a sequence of 2 strings"),
    ],
)
def test_pictures_and_prompts_that_do_not_fit(shape, prompts, fault):
    with pytest.raises(ValueError, match=fault):
        check_inputs(torch.zeros(shape), prompts)


def test_a_plain_reward_has_no_parts():
    found = in_parts(bright, torch.ones(1, 3, 2, 2), ["a"])
    assert isinstance(found, InParts) and found.scores.tolist() == [1.0] and found.parts == {}


def test_scores_without_a_graph_are_refused():
    images = torch.ones(1, 3, 2, 2, requires_grad=True)
    with pytest.raises(ComponentError, match="differentiable with respect to the pictures"):
        in_parts(lambda images, prompts: bright(images, prompts).detach(), images, ["a"])


def test_batches_are_scored_one_after_the_other():
    seen = []

    def score(images, prompts):
        seen.append(list(prompts))
        return bright(images, prompts)

    images = torch.rand(3, 3, 2, 2)
    scores = score_in_batches(score, images, ["a", "b", "c"], batch=2)
    assert torch.equal(scores, bright(images, None)) and seen == [["a", "b"], ["c"]]

from __future__ import annotations

import torch

from flowbp.evaluation import HeldOutPrompt, HeldOutText, is_of_sets, spread
from flowbp.evaluation.metric_runner import OnDevice, columns_of_pictures


def test_metrics_of_sets_are_known_by_their_arguments():
    assert is_of_sets(lambda model, base: {})
    assert not is_of_sets(lambda images, prompts: {})


def test_a_held_out_text_is_a_text_that_keeps_its_prompt():
    text = HeldOutText(HeldOutPrompt("a circle", "single_object"))
    assert text == text.text == "a circle" and text.kind == "single_object"


def test_prompts_are_spread_over_kinds_by_their_share():
    prompts = [HeldOutPrompt(str(i), kind) for i, kind in enumerate("aaaabb")]
    assert [prompt.text for prompt in spread(prompts, 3)] == ["1", "3", "5"]


def test_pictures_are_judged_in_batches_as_they_are_moved():
    pictures = OnDevice(torch.ones(3, 3, 2, 2), torch.device("cpu"))
    assert len(pictures) == 3 and pictures[1].shape == (3, 2, 2)
    found = columns_of_pictures(
        lambda images, prompts: {"bright": images.mean((1, 2, 3))},
        pictures,
        [HeldOutPrompt("a")] * 3,
        batch=2,
        label="mine",
    )
    assert found["bright"].tolist() == [1.0, 1.0, 1.0] and found["bright"].dtype == torch.float64

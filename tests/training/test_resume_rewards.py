"""Rewards that keep what they know of a prompt: a resumed run meets it in other company."""

from __future__ import annotations

import pytest
import torch

from flowbp.training import PromptList
from tests.training.test_restore import interrupt_at, newest, same, train

from ..rewards.test_conformance import REWARDS

LIST = (
    'a cat with an "a"',
    'a dog on a mat with a "b"',
    'a cat with an "a"',
    'two dogs and a "c"',
    'a red box on a very long table with a "d"',
)
"""One comes twice, and steps of three do not divide five. What is in quotes, some rewards read."""

STOPS = (1, 2, 4)


@pytest.fixture(scope="module")
def folder(models):
    """A tiny model in CLIPModel layout."""
    return models / "reward"


@pytest.mark.parametrize("name", REWARDS)
def test_a_resumed_run_is_the_same_whatever_the_reward_has_read(tmp_path, folder, name):
    def trained(place, **changes):
        reward = REWARDS[name](folder, tmp_path)
        # What the reward finds is told at float32, and the model is trained at float64.
        parts = {"reward": lambda images, prompts: reward(images.float(), prompts).double()}
        return train(tmp_path / place, prompts=PromptList(LIST), parts=parts, **changes)

    whole = trained("whole")
    for stop in STOPS:
        with pytest.raises(KeyboardInterrupt):
            trained(str(stop), stop=interrupt_at(stop))
        assert same(trained(str(stop), resume=newest(tmp_path / str(stop))), whole), stop


@pytest.mark.parametrize("name", [name for name in REWARDS if "aesthetic" not in name])
def test_what_is_kept_of_a_prompt_does_not_depend_on_others(tmp_path, folder, name):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 16, 16, generator=generator)
    prompts = [LIST[0], LIST[4], LIST[3]]
    with torch.no_grad():
        reward = REWARDS[name](folder, tmp_path)
        fresh = reward(images, prompts)
        for company in ([LIST[4]], [LIST[3], LIST[0]], list(LIST)):
            reward = REWARDS[name](folder, tmp_path)
            reward(images[:1].expand(len(company), -1, -1, -1), company)
            assert torch.equal(reward(images, prompts), fresh), company

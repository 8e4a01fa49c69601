"""A disk that refuses the files of a run is met before the first step, and told like a disk."""

from __future__ import annotations

import resource

import pytest
import torch

from flowbp.cli.rehearsal import (
    faults_of_call,
    made_up_pictures,
    saving_tried,
    try_backbone,
    try_judge,
    try_metric,
    try_reward,
    trying,
)
from flowbp.evaluation import HeldOutPrompt, Sampling
from flowbp.run import main
from flowbp.shapes.embedded import embedded_backbone

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


@pytest.fixture
def small_files():
    """No file may be larger than a few KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_is_too_large_is_one_sentence(yaml, tmp_path, small_files, capsys):
    assert main([yaml]) == 1
    told = capsys.readouterr().err.splitlines()[-1]
    assert "a file is larger than may be written there" in told and "no run was begun" in told
    assert "ulimit -f" in told
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def bright(images, prompts):
    return images.mean((1, 2, 3))


def test_sound_components_pass():
    pictures = made_up_pictures(Sampling(steps=1, height=8, width=4), torch.device("cpu"))
    assert pictures.shape == (2, 3, 8, 4)
    try_reward(bright, pictures, ["a", "b"])
    try_judge(lambda images, prompts: torch.ones(2), pictures, ["a", "b"])
    try_metric("bright", bright, pictures[:1], [HeldOutPrompt("a circle")])
    try_backbone(embedded_backbone(), Sampling(steps=2, height=64, width=64), "a circle")


class Linking:
    """Writes a file, and a link to a folder of its own."""

    def __init__(self, target):
        self.target = target

    def save(self, folder):
        (folder / "weights").write_text("many")
        (folder / "tokenizer").symlink_to(self.target, target_is_directory=True)


def test_a_backbone_may_save_a_link_to_a_folder(tmp_path):
    own, run = tmp_path / "own", tmp_path / "run"
    own.mkdir()
    (own / "vocabulary").write_text("a b")
    run.mkdir()
    with saving_tried(Linking(own), run) as frozen:
        assert not frozen.are_there()
    assert not list(run.iterdir()) and (own / "vocabulary").read_text() == "a b"


def test_short_memory_is_no_failure_of_what_is_tried():
    with trying("the reward", torch.device("cpu")):
        raise MemoryError


def test_other_gpus_than_the_run_s_are_left_alone(monkeypatch):
    def count():
        raise AssertionError("all GPUs are counted")

    monkeypatch.setattr(torch.cuda, "device_count", count)
    with trying("the reward", torch.device("cpu")):
        drawn = torch.rand(2)
    assert torch.equal(torch.rand(2), drawn)


def test_what_a_call_raises_is_a_problem_of_its_key():
    def fail():
        raise ValueError("is gone")

    assert list(faults_of_call(("reward",), lambda: None)) == []
    ((path, message),) = faults_of_call(("reward",), fail)
    assert path == ("reward",) and "is gone" in message

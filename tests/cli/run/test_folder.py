"""The files of a run's folder are read as they were written, or refused."""

from __future__ import annotations

import pytest
import torch

from flowbp.cli.run.folder import (
    BEFORE_PICTURES,
    CONFIGURATION,
    Finished,
    claim_folder,
    read_before,
    read_finished,
    write_before,
    write_finished,
)
from flowbp.config import DamagedError
from flowbp.evaluation import Evaluation, ScoreRow


def test_a_folder_is_claimed_once(tmp_path):
    claim_folder(tmp_path, "run: {}")
    assert [path.name for path in tmp_path.iterdir()] == [CONFIGURATION]
    with pytest.raises(FileExistsError, match=r"run\.folder"):
        claim_folder(tmp_path, "run: {}")


def test_how_a_run_ended_is_read_back(tmp_path):
    assert read_finished(tmp_path) is None
    write_finished(tmp_path, 100)
    assert read_finished(tmp_path) == Finished(steps=100, ended_early=False)


def test_the_evaluation_before_training_is_read_back_bit_for_bit(tmp_path):
    row = ScoreRow(model="before", number=0, seed=0, prompt="a", kind="k", values={"reward": 0.25})
    evaluation = Evaluation(label="before", noise_seed=0, seconds=1, rows=[row])
    pictures = torch.rand((1, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    assert read_before(tmp_path) is None
    write_before(tmp_path, evaluation, pictures)
    again, same = read_before(tmp_path)
    assert again == evaluation and torch.equal(same, pictures)
    (tmp_path / BEFORE_PICTURES).unlink()
    with pytest.raises(DamagedError, match="cannot be read"):
        read_before(tmp_path)

"""A disk that refuses the files of a run is met before the first step, and told like a disk."""

from __future__ import annotations

import resource

import pytest

from flowbp.run import main

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

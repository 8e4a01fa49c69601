"""Fixtures of the commands' tests."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    """Starts `flowbp` in several processes; a job's `path` is where it finds a user's modules."""
    from ..training.processes import Together

    started = Together(tmp_path_factory.mktemp("together"), "flowbp")
    # The imports are none of a test's seconds.
    started.start(1, "flowbp", typed=["--version"])
    started.finish()
    yield started
    started.close()

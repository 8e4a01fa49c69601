"""Fixtures of the tests of training."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def together(tmp_path_factory):
    """Starts jobs in several processes."""
    from .processes import Together

    started = Together(tmp_path_factory.mktemp("together"))
    yield started
    started.close()

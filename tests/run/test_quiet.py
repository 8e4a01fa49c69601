"""The libraries' own notices do not reach a user, and come back afterwards."""

from __future__ import annotations

import logging

from flowbp.run.quiet import quiet


def test_the_tries_of_a_hub_out_of_reach_are_not_listed():
    hub = logging.getLogger("huggingface_hub.utils._http")
    with quiet():
        assert not hub.isEnabledFor(logging.WARNING) and hub.isEnabledFor(logging.ERROR)
    assert hub.isEnabledFor(logging.WARNING)

"""How all property tests draw, wherever they lie: without a deadline, and in CI always the same."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

PROFILE = "flowbp-ci" if os.environ.get("CI") else "flowbp"

for name, derandomize in [("flowbp", False), ("flowbp-ci", True)]:
    settings.register_profile(
        name,
        # What else a machine does is no fault of the code.
        deadline=None,
        derandomize=derandomize,
        max_examples=100,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(PROFILE)

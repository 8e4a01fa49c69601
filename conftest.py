"""How all property tests draw, wherever they lie: without a deadline, and in CI always the same.

It also makes `benchmarks` importable, which is no part of the package; gives each of several test
processes one thread, as with more threads than cores they wait for each other by spinning, and the
suite takes many times as long; and keeps the search for garbage, which the commands do at each
failure, to what the test itself has made.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is imported; what a test starts has it too.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = str(Path(__file__).parent)
if ROOT not in sys.path:
    # Last, so that an installed flowbp is still the one that is tested.
    sys.path.append(ROOT)

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


def pytest_collection_finish() -> None:
    # All that the tests import, a million objects and more.
    gc.freeze()


def pytest_runtest_teardown() -> None:
    # What was imported since, and what fixtures share.
    gc.collect()
    gc.freeze()

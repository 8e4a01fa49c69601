"""Makes `benchmarks` importable, which is no part of the package."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    # Last, so that an installed flowbp is still the one that is tested.
    sys.path.append(ROOT)

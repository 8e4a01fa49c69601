"""The mean of paired differences of one group, for the tests of its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flowbp.evaluation.statistics import Gain, stratified_gain


def bootstrap_gain(
    differences: Sequence[float], *, prompts: Sequence[str] | None = None, **options: Any
) -> Gain:
    own = None if prompts is None else [prompts]
    return stratified_gain([differences], prompts=own, **options)

"""The strategies give what they promise, and say what to install when they cannot."""

from __future__ import annotations

import subprocess
import sys

import torch
from hypothesis import find, given, settings
from hypothesis import strategies as st

from flowbp.testing.strategies import grids, surrogates


@settings(deadline=None, max_examples=50)
@given(low=st.integers(1, 5), extra=st.integers(0, 5), data=st.data())
def test_grids_fall_from_at_most_one_to_zero(low, extra, data):
    sigmas = data.draw(grids(low, low + extra))
    assert low <= sigmas.shape[0] - 1 <= low + extra
    assert sigmas[0] <= 1 and sigmas[-1] == 0 and (sigmas.diff() < 0).all()


def test_the_segments_of_a_surrogate_are_as_many_as_are_asked_for():
    found = find(surrogates(torch.linspace(1, 0, 5), min_segments=3), lambda each: True)
    assert len(found.segments) == 3 and found.segments[-1].stop == 4


def test_without_hypothesis_the_checks_work_and_the_strategies_say_what_to_install():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "import flowbp.testing\n"
        "flowbp.testing.check_method(flowbp.Sparse(), draws=1)\n"
        "import flowbp.testing.strategies"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ModuleNotFoundError: `hypothesis`" in result.stderr
    assert 'pip install "flowbp-align[testing]"' in result.stderr

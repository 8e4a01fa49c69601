"""A step without gradient is told."""

from __future__ import annotations

import pytest

from flowbp.core import Hinge
from flowbp.training import NoGradientWarning

from .fakes import make_step, make_trainer


def test_a_hinge_that_every_sample_has_passed_is_told_once() -> None:
    with pytest.warns(NoGradientWarning) as told:
        make_trainer(make_step(shape=Hinge(-1.0)), steps=3).run()
    (warning,) = told
    assert "step 1 has no gradient" in str(warning.message)
    assert "under Hinge(target=-1.0) 0;" in str(warning.message)

"""The strategies of methods give what they promise."""

from __future__ import annotations

import torch
from hypothesis import Phase, find, settings

from flowbp.core import Bridge, DRaFT, DRaFTLV, DRTune, Lagrange, LeapAlign, ReFL, Sparse

from .strategies import methods, variants

# Any example will do; a smaller one is not looked for.
ANY = settings(max_examples=2000, phases=[Phase.generate], database=None)


def test_every_method_can_be_drawn():
    for kind in (ReFL, DRaFTLV, DRTune, DRaFT, LeapAlign, Sparse, Bridge, Lagrange):
        found = find(methods(4), lambda method, kind=kind: isinstance(method, kind), settings=ANY)
        assert isinstance(found, kind)


def test_every_axis_can_be_varied():
    for axis in ("reward_input", "alpha", "quadrature", "active"):
        found = find(
            variants(torch.linspace(1, 0, 5)),
            lambda variant, axis=axis: getattr(variant, axis) is not None,
            settings=ANY,
        )
        assert getattr(found, axis) is not None

"""Every backbone of the library keeps the protocol: a new one is an entry of `FAMILIES`."""

from __future__ import annotations

import pytest

from flowbp.testing import check_backbone

from .families import FAMILIES


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24)])
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.filterwarnings("ignore:a prompt has")
def test_a_backbone_keeps_the_protocol(name, height, width):
    backbone = FAMILIES[name].backbone()
    check_backbone(backbone, ["a circle", "two blue", "red"], height=height, width=width)

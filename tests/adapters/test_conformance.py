"""Every backbone of the library keeps the protocol: a new one is an entry of `FAMILIES`."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from flowbp.adapters import DtypePolicy
from flowbp.testing import check_backbone

from .families import FAMILIES

FLOAT64 = DtypePolicy(torch.float64, torch.float64)
PROMPTS = ["a circle", "two blue", "red"]
SIZES = pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 24)])
GUIDANCE = pytest.mark.parametrize("guidance", [1.0, 3.5])

pytestmark = [
    pytest.mark.parametrize("name", FAMILIES),
    pytest.mark.filterwarnings("ignore:a prompt has"),
]


@SIZES
@GUIDANCE
def test_a_backbone_keeps_the_protocol(name, height, width, guidance):
    backbone = FAMILIES[name].backbone()
    check_backbone(backbone, PROMPTS, height=height, width=width, guidance=guidance)


@SIZES
@GUIDANCE
def test_in_float64_its_gradients_are_exact(name, height, width, guidance):
    family = FAMILIES[name]
    backbone = family.backbone(deepcopy(family.pipeline()), policy=FLOAT64)
    check_backbone(
        backbone,
        PROMPTS,
        height=height,
        width=width,
        guidance=guidance,
        dtype=torch.float64,
        tolerance=1e-12,
        difference_tolerance=family.coarseness,
        step=1e-5,
    )

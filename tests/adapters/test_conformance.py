"""Every backbone of the library keeps the protocol: a new one is a line in `BACKBONES`."""

from __future__ import annotations

import pytest

from flowbp.adapters import SD3Backbone
from flowbp.testing import check_backbone

BACKBONES = {
    "sd3": lambda pipelines: SD3Backbone.from_pipeline(pipelines(False), text_length=0),
    "sd3 with T5": lambda pipelines: SD3Backbone.from_pipeline(pipelines(True), text_length=8),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_keeps_the_protocol(pipelines, name):
    backbone = BACKBONES[name](pipelines)
    check_backbone(backbone, ["a circle", "two blue squares", "red"], height=16, width=24)

"""What a model that is not loaded says of the pictures that it can draw."""

from __future__ import annotations

from flowbp.cli.unloaded_model import named_model, picture_size_problems
from flowbp.config import Component
from flowbp.evaluation import Sampling
from flowbp.shapes.embedded import embedded_backbone


def test_a_side_that_the_model_cannot_draw_is_refused_with_the_nearest():
    backbone = Component("shapes", embedded_backbone)
    assert named_model(backbone).picture_sizes.multiple == 16
    asked = Sampling(steps=4, height=60, width=64)
    ((path, message),) = picture_size_problems(backbone, asked)
    assert path == ("sampling", "height")
    assert "got 60" in message and "48 and 64" in message


def test_of_any_other_model_nothing_is_known():
    other = Component("mine", lambda: None)
    assert named_model(other) is None
    assert list(picture_size_problems(other, Sampling(steps=4, height=61, width=1))) == []

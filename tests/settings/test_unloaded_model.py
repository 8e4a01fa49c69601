"""What a model that is not loaded says of the pictures that it can draw."""

from __future__ import annotations

from flowbp.adapters import SD3Backbone
from flowbp.config import Component
from flowbp.evaluation import Sampling
from flowbp.settings.unloaded_model import named_model, picture_size_problems
from flowbp.shapes.embedded import base_folder, embedded_backbone


def test_a_side_that_the_model_cannot_draw_is_refused_with_the_nearest():
    backbone = Component("shapes", embedded_backbone)
    assert named_model(backbone).picture_sizes.multiple == 16
    asked = Sampling(steps=4, height=60, width=64)
    ((path, message),) = picture_size_problems(backbone, asked)
    assert path == ("sampling", "height")
    assert "got 60" in message and "48 and 64" in message


class Mine(SD3Backbone):
    """A family that someone registers from outside."""


def test_a_family_of_ones_own_is_known_as_the_librarys_are():
    mine = Component("mine", Mine.from_pretrained, {"source": base_folder(), "use_t5": False})
    assert named_model(mine).family is Mine
    assert named_model(mine).picture_sizes.multiple == 16
    ((path, _),) = picture_size_problems(mine, Sampling(steps=4, height=60, width=64))
    assert path == ("sampling", "height")


def test_of_any_other_model_nothing_is_known():
    other = Component("mine", lambda: None)
    assert named_model(other) is None
    assert list(picture_size_problems(other, Sampling(steps=4, height=61, width=1))) == []

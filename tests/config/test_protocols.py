"""What a component lacks of its protocol, found without calling it."""

from __future__ import annotations

import os
from typing import Protocol

from flowbp.config.protocols import lacking, made_by, members, misfit


class Door(Protocol):
    def open(self, width: float) -> None: ...


class Wall:
    def open(self) -> None: ...


def test_what_lacks_is_said_in_words() -> None:
    assert list(members(Door)) == ["open"]
    assert lacking(Wall, Door) == "has an `open` that does not take (width)"
    assert lacking(object(), Door) == "has no `open(width)`"
    assert lacking(object(), int) == ""


def test_what_python_itself_has_is_no_component() -> None:
    assert misfit(os.system, "reward", None) == "is a function of Python itself, and no reward"


def test_what_a_target_makes_is_read_from_its_annotation() -> None:
    assert made_by(Wall) is Wall
    assert (made_by(int.from_bytes), made_by(len)) == (int, None)

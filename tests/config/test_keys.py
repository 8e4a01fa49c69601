"""The keys of classes and components: their types in words, defaults and descriptions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest

from flowbp.config import Component, Registry
from flowbp.config.keys import DEPENDS, REQUIRED, Keys, description, summary
from flowbp.validators import integer, real


class Engine:
    """What moves."""


@attrs.frozen
class Steam(Engine):
    """An engine of iron. It is loud."""


ENGINES = Registry(
    "engine", {"steam": f"{__name__}:Steam"}, builds=Engine, entry_points="x.engines"
)


class Colour(Enum):
    RED, BLUE = "red", "blue"


@attrs.frozen(kw_only=True)
class Wheel:
    """One wheel.

    Args:
        size: in inches,
            never below 1.
    """

    size: int = attrs.field(validator=integer(1))


@attrs.frozen(kw_only=True)
class Base:
    """A base.

    Args:
        base: of all; None has ``none``.
    """

    base: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(real(0, 1, above=True))
    )


@attrs.frozen(kw_only=True)
class Car(Base):
    """A car.

    Args:
        engine: moves it.
        global_: N, a number.

    Raises:
        ValueError: no: entry.
    """

    engine: Engine = attrs.field(factory=Steam)
    spare: Component[Engine] | None = None
    global_: int = 3
    wheels: Mapping[str, Wheel] = attrs.field(factory=dict)
    front: Wheel | None = None
    mode: Literal["slow", "fast"] = "fast"
    place: Path = attrs.field(factory=lambda: Path.home() / "cars")
    limits: tuple[float, float] = (0.5, 2)
    names: tuple[str, ...] = ("a: b",)
    late: int = attrs.field()
    hook: Callable[[], None] | None = None
    colour: Colour = Colour.RED
    notes: dict = attrs.field(factory=dict)

    @late.default
    def _late(self) -> int:
        return self.global_


def found(target: Any, **options: Any) -> dict[str, tuple[str, str]]:
    keys = Keys([ENGINES], scalars=()).of(target, **options)
    return {each.path: (each.kind, each.default) for key in keys for each in key.flat()}


def test_types_and_defaults_are_those_of_yaml():
    assert found(Car) == {
        "engine": ("engine", "steam"),
        "global": ("integer", "3"),
        "base": ("number or null, above 0, at most 1", "null"),
        "spare": ("engine or null", "null"),
        "wheels": ("mapping of labels to a mapping", "{}"),
        "wheels.LABEL.size": ("integer, at least 1", REQUIRED),
        "front": ("mapping or null", "null"),
        "front.size": ("integer, at least 1", REQUIRED),
        "mode": ("slow or fast", "fast"),
        "place": ("path", "~/cars"),
        "limits": ("list of 2 numbers", "[0.5, 2]"),
        "names": ("list of texts", "['a: b']"),
        "late": ("integer", DEPENDS),
        "colour": ("red or blue", "red"),
        "notes": ("mapping", "{}"),
    }


def test_descriptions_are_those_of_the_class_or_of_the_one_it_inherits_from():
    assert description(Wheel, "size") == "In inches, never below 1."
    assert description(Car, "global") == "N, a number."
    assert description(Car, "base") == "Of all; null has `none`."
    assert description(Car, "spare") == description(Car, "ValueError") == ""
    assert summary(Steam) == "An engine of iron. It is loud."


def function(*, size: int, device: str = "cpu", text: str = None, **rest: Any) -> Engine:  # noqa: RUF013
    """Make an engine.

    Args:
        size: in inches.
        device: is offered.
    """
    return Steam()


def test_of_a_function_what_it_is_offered_and_what_stands_for_any_keyword_are_no_keys():
    keys = found(function, above="engine", offered=frozenset({"device"}))
    assert keys == {"engine.size": ("integer", REQUIRED), "engine.text": ("text", REQUIRED)}


class Built:
    """A class."""

    @classmethod
    def load(cls, source: str) -> Built:
        """Load it.

        Args:
            source: where.
        """
        return cls()


class Special(Built):
    """A special class."""

    @classmethod
    def load(cls, source: str, extra: int = 0) -> Special:
        """Load it.

        Args:
            extra: more.
        """
        return cls()


def test_a_classmethod_inherits_descriptions_and_its_class_says_what_it_builds():
    assert description(Special.load, "source") == "Where."
    assert description(Special.load, "extra") == "More."
    assert summary(Special.load) == "A special class."


@pytest.mark.parametrize(
    ("validator", "words"),
    [
        (integer(2), "at least 2"),
        (integer(0, 2**63 - 1), "0 to 2^63 - 1"),
        (real(0), "at least 0"),
        (real(float("-inf")), ""),
        (attrs.validators.instance_of(int), ""),
    ],
)
def test_ranges_are_those_of_the_validators(validator, words):
    cls = attrs.make_class("One", {"x": attrs.field(type=int, validator=validator)})
    assert found(cls)["x"][0] == ", ".join(filter(None, ("integer", words)))

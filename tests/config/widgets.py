"""A small world of components and a schema, with every kind of field, for the tests."""

from __future__ import annotations

import os
from collections.abc import Sequence
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import attrs

from flowbp.config import Component, Registry, Scalar

if TYPE_CHECKING:
    from decimal import Decimal


class Pair(Protocol):
    def draw(self) -> int: ...


class Method(Protocol):
    def step(self) -> int: ...


class Engine(Protocol):
    def run(self) -> int: ...


class Rule(Protocol):
    def __call__(self, value: float, /) -> float: ...


def at_least_one(_: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if value < 1:
        raise ValueError(f"`{attribute.name}` must be >= 1, got {value}")


def below_order(instance: Any, attribute: attrs.Attribute[Any], value: int) -> None:
    if value > instance.order:
        raise ValueError(f"`{attribute.name}` must be <= order={instance.order}, got {value}")


@attrs.frozen
class Uniform:
    def draw(self) -> int:
        return 0


@attrs.frozen
class Dirichlet:
    end: float
    gap: float
    cap: int | None = None

    def draw(self) -> int:
        return 1


@attrs.frozen
class Bridge:
    active: int = attrs.field(default=5, validator=at_least_one)
    alpha: float = attrs.field(default=0.5, validator=attrs.validators.in_([0.0, 0.5, 1.0]))
    pair: Pair = attrs.field(factory=Uniform, kw_only=True)

    def step(self) -> int:
        return self.active


@attrs.frozen
class Lagrange:
    order: int = attrs.field(default=3, validator=at_least_one)
    active: int = attrs.field(default=2, validator=[at_least_one, below_order])

    def __attrs_post_init__(self) -> None:
        if self.order == 13:
            raise ValueError("`order` must not be 13, got 13")

    def step(self) -> int:
        return self.order


class LoudEngine:
    def __init__(self, source: str, *, device: str, size: int = 1, pair: Pair | None = None):
        self.arguments = (source, device, size, pair)

    @classmethod
    def from_pretrained(cls, source: str, device: str, price: Decimal | None = None) -> LoudEngine:
        return cls(source, device=device)


class PlainClass:
    pass


@attrs.frozen
class Unusable:
    name: str


def any_options(source: str, **options: Any) -> tuple[str, dict[str, Any]]:
    return source, options


def halve(value: float, /) -> float:
    return value / 2


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@attrs.frozen
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@attrs.frozen
class Training:
    steps: int
    optimizer: Optimizer = attrs.field(factory=Optimizer)


@attrs.frozen
class Run:
    training: Training
    method: Method
    engine: Component[Engine] | None = None
    rule: Rule | None = None
    methods: tuple[Method, ...] = ()
    verbose: bool = False
    colour: Colour = Colour.RED
    mode: Literal["fast", "exact", 1] = "fast"
    folder: Path = Path("runs")
    place: str | os.PathLike[str] = "runs"
    sizes: Sequence[int] = ()
    weights: dict[str, float] = attrs.field(factory=dict)
    ratio: Fraction = Fraction(1, 2)
    seed: int | str | None = None
    extra: Any = None


HERE = __name__
METHODS = Registry(
    "method",
    {"bridge": f"{HERE}:Bridge", "lagrange": f"{HERE}:Lagrange", "halve": f"{HERE}:halve"},
    builds=Method,
    entry_points="widgets.methods",
)
PAIRS = Registry(
    "pair",
    {"uniform": f"{HERE}:Uniform", "dirichlet": f"{HERE}:Dirichlet"},
    builds=Pair,
    entry_points="widgets.pairs",
)
ENGINES = Registry(
    "engine",
    {
        "loud": f"{HERE}:LoudEngine",
        "pretrained": f"{HERE}:LoudEngine.from_pretrained",
        "bridge": f"{HERE}:Bridge",
        "any": f"{HERE}:any_options",
    },
    builds=Engine,
    entry_points="widgets.engines",
    offers=frozenset({"device"}),
)
RULES = Registry("rule", {"halve": f"{HERE}:halve"}, builds=Rule, entry_points="widgets.rules")
REGISTRIES = (METHODS, PAIRS, ENGINES, RULES)
SCALARS = (Scalar(Fraction, read=Fraction, write=str),)

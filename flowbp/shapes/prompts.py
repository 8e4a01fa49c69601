"""What a prompt is: six kinds that mirror GenEval, their wordings and their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from types import MappingProxyType

import attrs

from flowbp.shapes.scene import COLOURS, KINDS

PROMPT_KINDS: tuple[str, ...] = (
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
)
"""The kinds of prompt, spelled as GenEval spells them."""

COUNTS: Mapping[int, str] = MappingProxyType({2: "two", 3: "three", 4: "four"})
"""The counts of `counting` prompts, in words."""

RELATIONS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}
)
"""The relations: the axis (0 is x, 1 is y), and the sign of first − second along it."""

TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "single_object": (
            "a {}",
            "one {}",
            "a picture of a {}",
            "a picture of one {}",
            "an image of a {}",
            "an image of one {}",
            "a drawing of a {}",
            "a drawing of one {}",
            "there is a {}",
            "there is one {}",
        ),
        "two_object": (
            "a {} and a {}",
            "a picture of a {} and a {}",
            "an image of a {} and a {}",
            "there is a {} and a {}",
        ),
        "counting": ("{count} {}", "a picture of {count} {}", "there are {count} {}"),
        "colors": (
            "a {}",
            "one {}",
            "a picture of a {}",
            "a picture of one {}",
            "there is a {}",
            "there is one {}",
        ),
        "position": ("a {} {relation} a {}", "a picture of a {} {relation} a {}"),
        "color_attr": ("a {} and a {}", "a picture of a {} and a {}", "there is a {} and a {}"),
    }
)
"""The wordings of every kind of prompt; each hole takes one object."""

OBJECT_COUNTS: Mapping[str, int] = MappingProxyType(
    {kind: TEMPLATES[kind][0].count("{}") for kind in PROMPT_KINDS}
)
"""How many objects a prompt of each kind names."""

_PLURALS = {kind: kind + ("es" if kind.endswith("s") else "s") for kind in KINDS}


def _vocabulary() -> tuple[str, ...]:
    texts = chain(*TEMPLATES.values(), RELATIONS, COUNTS.values(), COLOURS, KINDS)
    words = chain(_PLURALS.values(), *(text.split() for text in texts))
    return tuple(sorted({word for word in words if "{" not in word}))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word that occurs in a prompt, sorted."""


@attrs.frozen
class Wanted:
    """An object that a prompt names; `colour` is None where the prompt names none."""

    kind: str
    colour: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"`kind` must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.colour is not None and self.colour not in COLOURS:
            raise ValueError(f"`colour` must be one of {', '.join(COLOURS)}, got {self.colour!r}")

    @property
    def noun(self) -> str:
        """The object in words, singular and without an article."""
        return self._named(self.kind)

    @property
    def nouns(self) -> str:
        """The object in words, plural."""
        return self._named(_PLURALS[self.kind])

    def _named(self, word: str) -> str:
        return word if self.colour is None else f"{self.colour} {word}"


@attrs.frozen
class Prompt:
    """A caption together with what it asks of a picture.

    Args:
        kind: one of `PROMPT_KINDS`.
        objects: the objects named, one or two; two are of different shapes.
        count: how many of the first object; 2 to 4 for `counting`, 1 for the others.
        relation: one of `RELATIONS` for `position`, None for the others.
        template: one of `TEMPLATES[kind]`; by default the first.

    Attributes:
        text: the caption, which follows from the rest.
    """

    kind: str
    objects: tuple[Wanted, ...]
    count: int = 1
    relation: str | None = None
    template: str = attrs.field()
    text: str = attrs.field(init=False)

    @template.default
    def _first_template(self) -> str:
        return TEMPLATES[self.kind][0] if self.kind in TEMPLATES else ""

    @text.default
    def _compose(self) -> str:
        if fault := _fault(self):
            raise ValueError(fault)
        named = (thing.noun if self.count == 1 else thing.nouns for thing in self.objects)
        return self.template.format(*named, count=COUNTS.get(self.count), relation=self.relation)


def _fault(prompt: Prompt) -> str | None:
    kind, objects = prompt.kind, prompt.objects
    if kind not in PROMPT_KINDS:
        return f"`kind` must be one of {', '.join(PROMPT_KINDS)}, got {kind!r}"
    if prompt.template not in TEMPLATES[kind]:
        return f"`template` must be one of TEMPLATES[{kind!r}], got {prompt.template!r}"
    if len(objects) != OBJECT_COUNTS[kind]:
        return f"`objects` must hold {OBJECT_COUNTS[kind]} for {kind}, got {len(objects)}"
    if len({thing.kind for thing in objects}) < len(objects):
        return f"`objects` must be of different shapes, got two of {objects[0].kind!r}"
    if (prompt.count in COUNTS) != (kind == "counting") or prompt.count not in (1, *COUNTS):
        return f"`count` must be 2 to 4 for counting and 1 for other kinds, got {prompt.count}"
    if (prompt.relation is not None) != (kind == "position"):
        return f"`relation` must be given for position only, got {prompt.relation!r} for {kind}"
    if prompt.relation is not None and prompt.relation not in RELATIONS:
        return f"`relation` must be one of {', '.join(RELATIONS)}, got {prompt.relation!r}"
    return colour_fault(kind, [thing.colour for thing in objects])


def colour_fault(kind: str, colours: Sequence[str | None]) -> str | None:
    """What is wrong with the colours of a prompt's objects, or None."""
    named = sum(colour is not None for colour in colours)
    if kind in ("single_object", "two_object") and named:
        return f"`objects` must name no colour for {kind}, got {colours}"
    if kind in ("colors", "color_attr") and named < len(colours):
        return f"`objects` must each name a colour for {kind}, got {colours}"
    if kind == "position" and named not in (0, len(colours)):
        return f"`objects` must name both colours or none for position, got {colours}"
    if kind == "color_attr" and len(set(colours)) < len(colours):
        return f"`objects` must be of different colours for color_attr, got {colours}"
    return None

"""Prompts of the world, of six kinds that mirror GenEval: each of them, and those held out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import chain, permutations, product
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

_HELD_OUT_PART = 0.15
# With fewer meanings than this held out, a kind of prompt is split by its wordings instead.
_LEAST_MEANINGS = 10
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
    """A caption, its `text`, together with what it asks of a picture."""

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


def _objects_of(kind: str) -> Iterator[tuple[Wanted, ...]]:
    choices: dict[str, Sequence[str | None]] = {
        "single_object": [None],
        "two_object": [None],
        "colors": list(COLOURS),
        "color_attr": list(COLOURS),
    }
    colours = choices.get(kind, [None, *COLOURS])
    number = OBJECT_COUNTS[kind]
    for shapes, paints in product(permutations(KINDS, number), product(colours, repeat=number)):
        if colour_fault(kind, paints) is None:
            yield tuple(map(Wanted, shapes, paints))


@cache
def all_prompts() -> tuple[Prompt, ...]:
    """Every prompt of the world, kind by kind, in a fixed order; no two have the same text."""
    return tuple(
        Prompt(kind, objects, count, relation, template)
        for kind in PROMPT_KINDS
        for objects in _objects_of(kind)
        for count in (COUNTS if kind == "counting" else (1,))
        for relation in (RELATIONS if kind == "position" else (None,))
        for template in TEMPLATES[kind]
    )


@cache
def _held_out_texts() -> frozenset[str]:
    held: set[str] = set()
    for kind in PROMPT_KINDS:
        groups: dict[object, list[str]] = {}
        for prompt in all_prompts():
            if prompt.kind == kind:
                groups.setdefault(_meaning(prompt), []).append(prompt.text)
        if _HELD_OUT_PART * len(groups) < _LEAST_MEANINGS:
            groups = {text: [text] for texts in groups.values() for text in texts}
        ranked = sorted(groups.values(), key=lambda texts: _rank(min(texts)))
        held.update(*ranked[: round(_HELD_OUT_PART * len(ranked))])
    return frozenset(held)


def _meaning(prompt: Prompt) -> object:
    """What a prompt asks for, however it says it: equal for "a above b" and "b below a"."""
    if prompt.relation is None:
        return frozenset(prompt.objects), prompt.count
    axis, sign = RELATIONS[prompt.relation]
    return frozenset(zip(prompt.objects, (sign, -sign), strict=True)), axis


def _rank(text: str) -> bytes:
    """A place in an order that looks random and never changes."""
    return hashlib.sha256(text.encode()).digest()


@cache
def training_prompts() -> tuple[Prompt, ...]:
    """The prompts that training may see: about 85 % of every kind, in the same order."""
    return tuple(prompt for prompt in all_prompts() if not is_held_out(prompt))


@cache
def heldout_prompts() -> tuple[Prompt, ...]:
    """The prompts kept for evaluation, about 15 % of every kind, chosen by a stable hash.

    Of `counting`, `position` and `color_attr` whole meanings are held out, in every wording. The
    other kinds have too few meanings for that; of those, wordings are held out.
    """
    return tuple(prompt for prompt in all_prompts() if is_held_out(prompt))


def is_held_out(prompt: Prompt) -> bool:
    """Whether a prompt is one of `heldout_prompts`."""
    return prompt.text in _held_out_texts()


@cache
def _by_text() -> Mapping[str, Prompt]:
    return MappingProxyType({prompt.text: prompt for prompt in all_prompts()})


def parse(text: str) -> Prompt:
    """Read a caption: the inverse of `Prompt.text`.

    Example:
        >>> parse("a green triangle above a yellow circle").relation
        'above'
    """
    prompt = _by_text().get(text)
    if prompt is None:
        raise ValueError(
            f"`text` must be a caption of this world, got {text!r}; for example "
            "'two blue squares' or 'a circle left of a square' (all_prompts() lists them)"
        )
    return prompt

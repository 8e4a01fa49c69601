"""Every prompt of the world, the held-out split, and parsing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import permutations, product
from types import MappingProxyType

from flowbp.shapes.prompts import (
    COUNTS,
    OBJECT_COUNTS,
    PROMPT_KINDS,
    RELATIONS,
    TEMPLATES,
    Prompt,
    Wanted,
    colour_fault,
)
from flowbp.shapes.scene import COLOURS, KINDS

_HELD_OUT_PART = 0.15
# With fewer meanings than this held out, a kind of prompt is split by its wordings instead.
_LEAST_MEANINGS = 10


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

    Of `counting`, `position` and `color_attr` whole meanings are held out, in every wording: no
    training prompt of that kind asks for the same, though one of another kind, or one that also
    names colours, may ask for something more specific. The other kinds have too few meanings for
    that; of those, wordings are held out, which say anew what some training prompt says.
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

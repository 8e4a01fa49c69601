"""What a prompt of GenEval asks for, as values that cannot be wrong."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from flowbp.geneval.vocabulary import CLASSES, COLOURS, RELATIONS, TASKS


def _one_of(words: Sequence[str], what: str) -> Any:
    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value in words:
            return
        near = difflib.get_close_matches(str(value), words, 1) or words[:1]
        raise ValueError(f"`{_name(attribute)}` must be {what}, such as {near[0]!r}, got {value!r}")

    return validate


def _name(attribute: attrs.Attribute[Any]) -> str:
    # Messages speak the metadata's language.
    return {"name": "class", "colour": "color", "kind": "tag"}.get(attribute.name, attribute.name)


def _count(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`count` must be a whole number of at least 1, got {value!r}")


def _pair(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _position(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    well = isinstance(value, tuple) and len(value) == 2 and value[0] in RELATIONS
    if not well or isinstance(value[1], bool) or not isinstance(value[1], int) or value[1] < 0:
        relations = ", ".join(RELATIONS)
        raise ValueError(
            f"`position` must be one of {relations} and the number of an earlier entry of "
            f"`include`, such as ['left of', 0], got {value!r}"
        )


@attrs.frozen
class Wanted:
    """So many objects of a class, perhaps of a colour or in a place.

    Args:
        name: the class.
        count: how many at least.
        colour: of each of them.
        position: a relation, and the number of the entry of `Task.include` that it is seen from.

    Raises:
        ValueError: a class, colour or relation that GenEval does not have, or a count below 1.

    Example:
        >>> Wanted("dog", 1, position=("left of", 0)).position
        ('left of', 0)
    """

    name: str = attrs.field(validator=_one_of(CLASSES, "one of COCO's 80 classes"))
    count: int = attrs.field(validator=_count)
    colour: str | None = attrs.field(
        default=None, validator=attrs.validators.optional(_one_of(COLOURS, "one of 10 colours"))
    )
    position: tuple[str, int] | None = attrs.field(
        default=None, converter=_pair, validator=attrs.validators.optional(_position)
    )


def _tuple(values: Iterable[Wanted]) -> tuple[Wanted, ...]:
    return tuple(values)


def _text(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`prompt` must be a text, got {value!r}")


@attrs.frozen
class Task:
    """A prompt and what a picture of it must show; a held-out prompt, too.

    Args:
        text: the prompt.
        kind: the task it belongs to, one of `TASKS`.
        include: what must be there, all of it.
        exclude: what must not be there, none of it.

    Raises:
        ValueError: nothing to include, or too little for its task: a counting task excludes one
            more of each class, colour tasks name a colour for each entry, a position task names a
            position, seen from an earlier entry.

    Example:
        >>> Task("a photo of a dog", "single_object", [Wanted("dog", 1)]).kind
        'single_object'

    Source: Ghosh et al., "GenEval", arXiv 2310.11513, section 3.
    """

    text: str = attrs.field(validator=_text)
    kind: str = attrs.field(validator=_one_of(TASKS, "one of the six tasks"))
    include: tuple[Wanted, ...] = attrs.field(converter=_tuple)
    exclude: tuple[Wanted, ...] = attrs.field(default=(), converter=_tuple)

    def __attrs_post_init__(self) -> None:
        if not self.include:
            raise ValueError("`include` must hold at least one object, got none")
        for number, wanted in enumerate(self.include):
            if wanted.position is not None and wanted.position[1] >= number:
                raise ValueError(
                    f"`position` of entry {number} of `include` must be seen from an earlier "
                    f"entry, got {wanted.position[1]}"
                )
        for unwanted in self.exclude:
            if unwanted.colour is not None or unwanted.position is not None:
                raise ValueError("`exclude` must give `class` and `count` alone")
        self._check_kind()

    def _check_kind(self) -> None:
        over = {(unwanted.name, unwanted.count) for unwanted in self.exclude}
        for wanted in self.include:
            if self.kind == "counting" and (wanted.name, wanted.count + 1) not in over:
                raise ValueError(
                    f"`exclude` of a counting task must hold {wanted.count + 1} of "
                    f"{wanted.name!r}, because more than asked for is wrong, too"
                )
            if self.kind in ("colors", "color_attr") and wanted.colour is None:
                raise ValueError(f"`color` is missing at {wanted.name!r} of a {self.kind} task")
        if self.kind == "position" and all(wanted.position is None for wanted in self.include):
            raise ValueError("`position` is missing: no entry of a position task has one")

"""What GenEval's prompts ask for, and the metadata file that says so."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
"""The six tasks, as the metadata calls them."""

RELATIONS = ("left of", "right of", "above", "below")
"""Where one object can be asked to be, seen from another."""

COLOURS = (
    *("red", "orange", "yellow", "green", "blue"),
    *("purple", "pink", "brown", "black", "white"),
)
"""What the colour classifier chooses from."""

CLASSES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball"),
    *("kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket"),
    *("bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
    *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop"),
    *("computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven"),
    *("toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""COCO's 80 classes in the order of a detector's outputs, three of them under GenEval's own names:
computer mouse, tv remote and computer keyboard."""


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
    """So many objects of a class, perhaps of a colour or in a place."""

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
    """A prompt and what a picture of it must show; a held-out prompt, too."""

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


_KEYS = {"tag", "include", "exclude", "prompt"}
_REQUIRED = _KEYS - {"exclude"}
_ENTRY = {"class", "count", "color", "position"}
_SHOWN = 5
_WHERE = (
    "take evaluation_metadata.jsonl of github.com/djghosh13/geneval, one JSON object a line: "
    '{"tag", "include": [{"class", "count"}], "prompt"}'
)


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """Read GenEval's metadata, a task a line."""
    path = Path(path).expanduser()
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ValueError(
            f"`metadata` must be a file, got {str(path)!r}, which cannot be read "
            f"({error.strerror}); {_WHERE}"
        ) from error
    tasks: dict[str, tuple[int, Task]] = {}
    faults: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            task = parse_task(line)
            if task.text in tasks:
                first = tasks[task.text][0]
                raise ValueError(f"`prompt` {task.text!r} stands on line {first}, too; remove one")
            tasks[task.text] = number, task
        except ValueError as error:
            faults.append(f"line {number}: {error}")
    if faults:
        more = f"\n… and {len(faults) - _SHOWN} lines more" if len(faults) > _SHOWN else ""
        listed = "\n".join(faults[:_SHOWN])
        raise ValueError(f"`metadata` {str(path)!r} is not GenEval's:\n{listed}{more}\n{_WHERE}")
    if not tasks:
        raise ValueError(f"`metadata` {str(path)!r} holds no task; {_WHERE}")
    return tuple(task for _, task in tasks.values())


def parse_task(line: str | bytes) -> Task:
    """The task of one line."""
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON ({error}); write one object a line, in UTF-8") from error
    _check_keys(found, required=_REQUIRED, known=_KEYS, what="a task")
    include, exclude = (_entries(found, key) for key in ("include", "exclude"))
    return Task(found["prompt"], found["tag"], include, exclude)


@attrs.frozen
class GenEvalHeldOut:
    """GenEval's prompts as held-out prompts; their kinds are the six tasks.

    Args:
        metadata: the path of ``evaluation_metadata.jsonl``; a relative path starts from the
            working folder.
        tasks: what is in it.

    Raises:
        ValueError: as `read_tasks`.

    Example:
        ``GenEvalHeldOut(Path("evaluation_metadata.jsonl")).prompts()``
    """

    metadata: Path
    tasks: tuple[Task, ...] = attrs.field(init=False, eq=False, repr=False)

    @tasks.default
    def _read(self) -> tuple[Task, ...]:
        return read_tasks(self.metadata)

    def prompts(self) -> tuple[Task, ...]:
        """The prompts, always in the order of the file."""
        return self.tasks


def _entries(found: Mapping[str, Any], key: str) -> tuple[Wanted, ...]:
    entries = found.get(key, [])
    if not isinstance(entries, list):
        raise ValueError(f"`{key}` must be a list, got {entries!r}")
    return tuple(_entry(entry, key) for entry in entries)


def _entry(entry: Any, key: str) -> Wanted:
    _check_keys(entry, required={"class", "count"}, known=_ENTRY, what=f"an entry of `{key}`")
    return Wanted(entry["class"], entry["count"], entry.get("color"), entry.get("position"))


def _check_keys(found: Any, *, required: set[str], known: set[str], what: str) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} must be a JSON object, got {found!r}")
    for key in sorted(required - set(found)):
        raise ValueError(f"`{key}` is missing")
    for key in sorted(set(found) - known):
        raise ValueError(f"`{key}` is no key of {what}; there are: {', '.join(sorted(known))}")

"""What GenEval's prompts ask for, and the metadata file that says so."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.evaluation.metric import as_tuple
from flowbp.validators import integer

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


def _one_of(words: Sequence[str], key: str, what: str) -> Any:
    """A validator that speaks of the metadata's own key."""

    def validate(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
        if value not in words:
            near = difflib.get_close_matches(str(value), words, 1) or words[:1]
            raise ValueError(f"`{key}` must be {what}, such as {near[0]!r}, got {value!r}")

    return validate


def _position(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    well = isinstance(value, tuple) and len(value) == 2 and value[0] in RELATIONS
    if not well or isinstance(value[1], bool) or not isinstance(value[1], int) or value[1] < 0:
        raise ValueError(
            f"`position` must be one of {', '.join(RELATIONS)} and the number of an earlier entry "
            f"of `include`, such as ['left of', 0], got {value!r}"
        )


@attrs.frozen
class Wanted:
    """So many objects of a class, perhaps of a colour or in a place."""

    name: str = attrs.field(validator=_one_of(CLASSES, "class", "one of COCO's 80 classes"))
    count: int = attrs.field(validator=integer(1))
    colour: str | None = attrs.field(
        default=None,
        validator=attrs.validators.optional(_one_of(COLOURS, "color", "one of 10 colours")),
    )
    position: tuple[str, int] | None = attrs.field(
        default=None, validator=attrs.validators.optional(_position)
    )


def _text(_: Any, __: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"`prompt` must be a text, got {value!r}")


@attrs.frozen
class Task:
    """A prompt and what a picture of it must show; a held-out prompt, too."""

    text: str = attrs.field(validator=_text)
    kind: str = attrs.field(validator=_one_of(TASKS, "tag", "one of the six tasks"))
    include: tuple[Wanted, ...] = attrs.field(converter=as_tuple)
    exclude: tuple[Wanted, ...] = attrs.field(default=(), converter=as_tuple)

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
    _check_keys(found, "a task", required=("tag", "include", "prompt"), optional=("exclude",))
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


def _entries(found: Mapping[str, Any], key: str) -> list[Wanted]:
    entries = found.get(key, [])
    if not isinstance(entries, list):
        raise ValueError(f"`{key}` must be a list, got {entries!r}")
    wanted = []
    for entry in entries:
        what, optional = f"an entry of `{key}`", ("color", "position")
        _check_keys(entry, what, required=("class", "count"), optional=optional)
        position = entry.get("position")
        position = tuple(position) if isinstance(position, list) else position
        wanted.append(Wanted(entry["class"], entry["count"], entry.get("color"), position))
    return wanted


def _check_keys(found: Any, what: str, *, required: Sequence[str], optional: Sequence[str]) -> None:
    if not isinstance(found, dict):
        raise ValueError(f"{what} must be a JSON object, got {found!r}")
    for key in sorted(required):
        if key not in found:
            raise ValueError(f"`{key}` is missing")
    known = sorted([*required, *optional])
    for key in sorted(found):
        if key not in known:
            raise ValueError(f"`{key}` is no key of {what}; there are: {', '.join(known)}")

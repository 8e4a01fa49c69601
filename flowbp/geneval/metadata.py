"""GenEval's metadata file, read line by line, and its prompts as a held-out source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.geneval.task import Task, Wanted

_KEYS = {"tag", "include", "exclude", "prompt"}
_REQUIRED = _KEYS - {"exclude"}
_ENTRY = {"class", "count", "color", "position"}
_SHOWN = 5
_WHERE = (
    "take evaluation_metadata.jsonl of github.com/djghosh13/geneval, one JSON object a line: "
    '{"tag", "include": [{"class", "count"}], "prompt"}'
)


def read_tasks(path: str | Path) -> tuple[Task, ...]:
    """Read GenEval's metadata, a task a line.

    Args:
        path: of ``evaluation_metadata.jsonl``.

    Returns:
        The tasks, in the order of the file.

    Raises:
        ValueError: the file cannot be read, or some of its lines are wrong: their numbers and what
            is wrong with each of the first five.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "evaluation_metadata.jsonl"
        >>> path.write_text('{"tag": "single_object", "include": [{"class": "dog", "count": 1}], '
        ...                 '"prompt": "a photo of a dog"}')
        97
        >>> [task.text for task in read_tasks(path)]
        ['a photo of a dog']

    Source: github.com/djghosh13/geneval, prompts/evaluation_metadata.jsonl (MIT).
    """
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
        told = "\n".join(faults[:_SHOWN])
        raise ValueError(f"`metadata` {str(path)!r} is not GenEval's:\n{told}{more}\n{_WHERE}")
    if not tasks:
        raise ValueError(f"`metadata` {str(path)!r} holds no task; {_WHERE}")
    return tuple(task for _, task in tasks.values())


def parse_task(line: str | bytes) -> Task:
    """The task of one line.

    Args:
        line: a JSON object.

    Returns:
        The task.

    Raises:
        ValueError: what is wrong.

    Example:
        >>> parse_task('{"tag": "colors", "prompt": "a red dog"}')
        Traceback (most recent call last):
            ...
        ValueError: `include` is missing
    """
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

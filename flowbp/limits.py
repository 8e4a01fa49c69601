"""The largest numbers that a configuration may hold, and the labels that it may give.

Each number is far beyond any use. Beyond it lies a slip of the keyboard, which should be refused
when it is read and not hang, or fill the memory, hours later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs

STEPS = 10_000_000  # optimizer steps, and what is counted in them
GRID = 10_000  # steps of one sampled picture
BATCH = 65_536  # pictures or prompts at a time
COUNT = 1_000_000  # prompts or pictures in all
SHOWN = 1_024  # pictures in one grid
SIDE = 16_384  # pixels of a picture's side
SEED = 2**63 - 1  # what torch takes as a seed
RANK = 4_096  # of a LoRA
SEEDS = 1_000  # different seeds
THREADS = 4_096  # of a process
LENGTH = 64  # letters of a label

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def label_fault(labels: Iterable[Any], reserved: Mapping[str, str]) -> str:
    """What is wrong with labels, which become names of columns, charts, files and folders.

    The first fault and its cure, empty if there is none. `reserved` maps words, in lower case, to
    what they stand for instead.
    """
    found: dict[str, str] = {}
    for label in labels:
        if not isinstance(label, str) or not _LABEL.fullmatch(label) or len(label) > LENGTH:
            shown = repr(label) if len(repr(label)) <= 2 * LENGTH else f"{repr(label)[:LENGTH]}…"
            return (
                f"must have labels of letters, digits, - and _, {LENGTH} at most, that begin with "
                f"a letter, got {shown}; they name files and columns, so that only a to z and A to "
                "Z are letters"
            )
        word = label.lower()
        if word in reserved:
            return (
                f"must not hold the label {label!r}, which is {reserved[word]} there; give it "
                f"another, such as 'my_{label}'"
            )
        if word in found:
            return (
                f"must differ in more than case, got {found[word]!r} and {label!r}; files of the "
                "two would be one on some disks, so give one another label"
            )
        found[word] = label
    return ""


def labels(
    reserved: Mapping[str, str] | None = None,
) -> Callable[[Any, attrs.Attribute[Any], Mapping[str, Any]], None]:
    """A validator of a mapping by labels, see `label_fault`."""

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
        fault = label_fault(value, reserved or {})
        if fault:
            raise ValueError(f"`{attribute.name}` {fault}")

    return validate

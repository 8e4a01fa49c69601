"""The distinct prompts of a file or data set, with an account of what was left out."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from flowbp.evaluation import HeldOutPrompt
from flowbp.limits import COUNT
from flowbp.prompts.formats import (
    NOT_A_TEXT,
    NOT_AN_OBJECT,
    NOT_UTF8,
    OTHER_FIELDS,
    READERS,
    TOO_LONG,
    Columns,
    Entry,
    UnusableFileError,
    read_dataset,
)

_BLANK, _DUPLICATE = "blank", "duplicate"
_NO_TEXT, _NO_KIND = "without a text", "without a kind"
LONGEST = 10_000
"""Characters of a prompt, of which text encoders read some hundreds."""

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_CURES = {
    NOT_A_TEXT: "remove that character",
    TOO_LONG: f"shorten prompts to at most {LONGEST:,} characters",
    NOT_UTF8: "save it as UTF-8",
    NOT_AN_OBJECT: "write one JSON object a line",
    OTHER_FIELDS: "put double quotes around fields with commas",
    _NO_TEXT: "write a text in `column`",
    _NO_KIND: "write a kind in `kind_column`",
}
_SHOWN = 5


@attrs.frozen
class LeftOut:
    """The numbers, from 1, of lines that gave no prompt for one reason."""

    reason: str
    lines: tuple[int, ...]

    def __str__(self) -> str:
        first = ", ".join(map(str, self.lines[:_SHOWN]))
        more = ", …" if len(self.lines) > _SHOWN else ""
        return f"{len(self.lines):,} {self.reason} ({first}{more})"


@attrs.frozen
class PromptTable:
    """The distinct prompts of a source, in its order, and which lines or rows gave none."""

    prompts: tuple[HeldOutPrompt, ...]
    left_out: tuple[LeftOut, ...] = ()
    unit: str = "line"

    def account(self) -> str:
        """What was left out, in words; empty if nothing was."""
        listed = "; ".join(map(str, self.left_out))
        return f"{self.unit}s left out: {listed}" if listed else ""


def prompt_table(
    entries: Iterable[Entry], *, origin: str, unit: str = "line", kinds: bool = False
) -> PromptTable:
    """Check the entries of a source: each prompt once, without the white space around it.

    Lines that hold something and give no prompt are warned of, with the reason. With `kinds` each
    prompt must have one, and may stand once under each.
    """
    found: dict[HeldOutPrompt, None] = {}
    left_out: dict[str, list[int]] = {}
    for entry in entries:
        checked = _prompt_or_fault(entry, kinds)
        fault = checked if isinstance(checked, str) else _DUPLICATE
        if isinstance(checked, str) or checked in found:
            left_out.setdefault(fault, []).append(entry.number)
            continue
        if len(found) == COUNT:
            raise ValueError(f"{origin} holds more than {COUNT:,} different prompts; take fewer")
        found[checked] = None
    table = PromptTable(
        tuple(found), tuple(LeftOut(why, tuple(lines)) for why, lines in left_out.items()), unit
    )
    cures = "; ".join(_CURES[reason] for reason in left_out if reason in _CURES)
    if not found:
        account = table.account() or "it is empty"
        raise ValueError(f"{origin} holds no prompts: {account}; {cures or 'write at least one'}")
    if cures:
        warnings.warn(f"{origin}: {table.account()}; {cures}", stacklevel=2)
    return table


def read_prompts(path: Path, columns: Columns | None = None) -> PromptTable:
    """Read the distinct prompts of a `.txt`, `.csv`, `.jsonl` or `.parquet` file.

    A file is regular, and of at most 1 GiB if it is no `.parquet`. A prompt has at most 10,000
    characters, and none that controls a terminal.

    Raises:
        ValueError: the file cannot be read, is of another kind, lacks the columns or holds no
            prompt, or is a `.parquet` file and pyarrow is not installed.
    """
    columns = columns or Columns()
    refusal = f"`path` must be a file of prompts, got {str(path)!r}, which"
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        endings = ", ".join(READERS)
        raise ValueError(f"{refusal} ends in {path.suffix or 'nothing'!r}; use one of {endings}")
    unit = "row" if path.suffix.lower() == ".parquet" else "line"
    try:
        entries = reader(path, columns)
        kinds = columns.kind is not None
        return prompt_table(entries, origin=str(path), unit=unit, kinds=kinds)
    except UnusableFileError as error:
        raise ValueError(f"{refusal} {error}") from error
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"{refusal} cannot be read ({reason}); check the path") from error


def load_prompts(
    dataset: str, columns: Columns, *, split: str, configuration: str | None = None
) -> PromptTable:
    """Load the distinct prompts of one split of a data set; see `DatasetPrompts`.

    Raises:
        ValueError: no such data set, split or column, or no prompt, or `datasets` is not
            installed; the message says how to install it.
    """
    rows = read_dataset(dataset, columns, split=split, configuration=configuration)
    kinds = columns.kind is not None
    return prompt_table(rows, origin=f"{dataset} ({split})", unit="row", kinds=kinds)


def _prompt_or_fault(entry: Entry, kinds: bool) -> HeldOutPrompt | str:
    """The prompt of an entry, or why it has none."""
    if entry.fault is not None:
        return entry.fault
    if entry.text is None:
        return _BLANK
    text = _text(entry.text)
    if text is None:
        return NOT_UTF8 if isinstance(entry.text, (str, bytes)) else _NO_TEXT
    text = text.strip()
    if not text:
        return _BLANK
    if len(text) > LONGEST:
        return TOO_LONG
    if _CONTROL.search(text):
        return NOT_A_TEXT
    if not kinds:
        return HeldOutPrompt(text)
    kind = _text(entry.kind)
    return HeldOutPrompt(text, kind.strip()) if kind and kind.strip() else _NO_KIND


def _text(value: Any) -> str | None:
    try:
        # Old writers of Parquet keep texts as bytes.
        text = value.decode("utf-8") if isinstance(value, bytes) else value
        # A lone surrogate, which JSON can spell, is no character.
        if isinstance(text, str):
            text.encode("utf-8")
            return text
    except UnicodeError:
        return None
    return None

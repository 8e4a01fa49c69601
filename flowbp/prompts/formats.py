"""Readers of prompt files, one for each ending."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flowbp.adapters.extras import require
from flowbp.files import read_regular
from flowbp.prompts.entries import NOT_AN_OBJECT, NOT_UTF8, OTHER_FIELDS, Columns, Entry

Reader = Callable[[Path, Columns], Iterator[Entry]]

LARGEST = 2**30
"""Bytes of a file that is read whole."""


class UnusableFileError(ValueError):
    """No file that can hold prompts; what is wrong follows its name."""


_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_text(path: Path, columns: Columns) -> Iterator[Entry]:
    """Read a text file of one prompt a line.

    Args:
        path: of the file.
        columns: none.

    Yields:
        An entry a line.

    Raises:
        ValueError: a column was asked for, or the file is UTF-16.
        OSError: it cannot be read.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.txt"
        >>> path.write_text("a circle")
        8
        >>> [entry.text for entry in read_text(path, Columns())]
        ['a circle']
    """
    columns.refuse(path.name)
    for number, line in _lines(path):
        text = _decoded(line)
        yield Entry(number, fault=NOT_UTF8) if text is None else Entry(number, text)


def read_json_lines(path: Path, columns: Columns) -> Iterator[Entry]:
    """Read a file of one JSON object a line.

    Args:
        path: of the file.
        columns: the keys that are wanted; an object without the key is left out later, a key that
            no object has is refused.

    Yields:
        An entry a line.

    Raises:
        ValueError: no object has the columns, or the file is UTF-16.
        OSError: it cannot be read.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.jsonl"
        >>> path.write_text('{"caption": "a circle"}')
        23
        >>> [entry.text for entry in read_json_lines(path, Columns("caption"))]
        ['a circle']
    """
    read = [(number, _object(line)) for number, line in _lines(path)]
    objects = [found for _, found in read if isinstance(found, dict)]
    if objects:
        text = columns.check(
            list(dict.fromkeys(key for each in objects for key in each)), path.name
        )
    for number, found in read:
        if isinstance(found, dict):
            kind = None if columns.kind is None else found.get(columns.kind)
            yield Entry(number, found.get(text), kind)
        elif found:
            yield Entry(number, fault=found)
        else:
            yield Entry(number, "")


def read_csv(path: Path, columns: Columns) -> Iterator[Entry]:
    """Read comma-separated values under a header, quoted by double quotes.

    Args:
        path: of the file.
        columns: the columns that are wanted.

    Yields:
        An entry a row, numbered by the line it starts on.

    Raises:
        ValueError: the file has no such column, its quoting is broken, or it is UTF-16.
        OSError: it cannot be read.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.csv"
        >>> path.write_text('caption,"a circle, red"'.replace(",", chr(10), 1))
        23
        >>> [entry.text for entry in read_csv(path, Columns("caption"))]
        ['a circle, red']
    """
    # Undecodable bytes become lone surrogates, so that only their own rows are lost.
    content = _content(path).decode("utf-8", errors="surrogateescape")
    rows = _rows(path, csv.reader(io.StringIO(content, newline=""), strict=True))
    header = next((row for _, row in rows if row), [])
    _refuse_delimiter(path, header, columns)
    place = header.index(columns.check(header, path.name))
    other = None if columns.kind is None else header.index(columns.kind)
    for number, row in rows:
        if not row:
            yield Entry(number, "")
        elif len(row) != len(header):
            yield Entry(number, fault=OTHER_FIELDS)
        else:
            yield Entry(number, row[place], None if other is None else row[other])


def read_parquet(path: Path, columns: Columns) -> Iterator[Entry]:
    """Read a Parquet file.

    Args:
        path: of the file.
        columns: the columns that are wanted; no other is read.

    Yields:
        An entry a row.

    Raises:
        ValueError: the file has no such column or is damaged, or pyarrow is not installed; the
            message says how to install it.
        OSError: it cannot be read.

    Example:
        ``list(read_parquet(Path("prompts.parquet"), Columns("caption")))``
    """
    if not path.is_file() and path.exists() and not path.is_dir():
        raise UnusableFileError("is a pipe or a device; copy what it holds into a file")
    with path.open("rb") as stream:
        # Late, so that a missing file is told before a missing package.
        try:
            pyarrow, parquet = (require(n, extra="data") for n in ("pyarrow", "pyarrow.parquet"))
        except ModuleNotFoundError as error:
            raise ValueError(f"`path` is {str(path)!r}: {error}") from error
        try:
            file = parquet.ParquetFile(stream)
            text = columns.check(file.schema_arrow.names, path.name)
            number = 0
            for batch in file.iter_batches(columns=[n for n in (text, columns.kind) if n]):
                kinds = batch.column(columns.kind) if columns.kind else [None] * len(batch)
                for value, kind in zip(batch.column(text), kinds, strict=True):
                    number += 1
                    yield _parquet_entry(number, value, kind)
        except pyarrow.ArrowException as error:
            raise ValueError(f"{path} is no whole Parquet file: {error}") from error


READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
"""Reader by ending."""


def _parquet_entry(number: int, value: Any, kind: Any) -> Entry:
    try:
        return Entry(number, value.as_py(), None if kind is None else kind.as_py())
    except UnicodeDecodeError:
        return Entry(number, fault=NOT_UTF8)


def _content(path: Path) -> bytes:
    try:
        content = read_regular(path, LARGEST)
    except ValueError as error:
        raise UnusableFileError(str(error)) from error
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16; save it as UTF-8")
    if b"\0" in content:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        raise ValueError(
            f"{path} holds a NUL byte on line {line}, as UTF-16 and files of other kinds do; save "
            "it as UTF-8 text"
        )
    return content.removeprefix(codecs.BOM_UTF8)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    # Of bytes, because a text also ends its lines at characters that a prompt may hold.
    return enumerate(_content(path).splitlines(), 1)


def _decoded(line: bytes) -> str | None:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _object(line: bytes) -> dict[str, Any] | str:
    """The object of a line, or why there is none; blank for a blank line."""
    text = _decoded(line)
    if text is None:
        return NOT_UTF8
    if not text.strip():
        return ""
    try:
        found = json.loads(text)
    # It nests too deep.
    except (ValueError, RecursionError):
        return NOT_AN_OBJECT
    return found if isinstance(found, dict) else NOT_AN_OBJECT


def _refuse_delimiter(path: Path, header: list[str], columns: Columns) -> None:
    if len(header) != 1 or columns.text == header[0]:
        return
    for sign, word in _DELIMITERS.items():
        if sign in header[0]:
            raise ValueError(
                f"{path} has columns that {word} separate, in {header[0]!r}; save it with commas, "
                "and double quotes around a field that holds one"
            )


def _rows(path: Path, reader: Any) -> Iterator[tuple[int, list[str]]]:
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path} is no CSV from line {number} on: {error}; put double quotes around a "
                "field that holds commas, quotes or line ends, and double each quote inside it"
            ) from error
        yield number, row

"""Formats of prompts: a reader for each ending of a file, and one for data sets."""

from __future__ import annotations

import codecs
import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.extras import require
from flowbp.files import read_regular

NOT_UTF8 = "not UTF-8"
NOT_AN_OBJECT = "no JSON object"
NOT_A_TEXT = "with NUL or another control character"
TOO_LONG = "too long"
OTHER_FIELDS = "with more or fewer fields than the header"


@attrs.frozen
class Entry:
    """One line or row of a source, before it is checked.

    `fault` is why it could not be read; a `text` that is none is left out later.
    """

    number: int
    text: Any = None
    kind: Any = None
    fault: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Columns:
    """The columns of the prompts, None for a file without columns, and of their kinds, if any."""

    text: str | None = None
    kind: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.text is not None and self.text == self.kind:
            raise ValueError(
                f"`kind_column` must be another column than `column`, got {self.kind!r} for both"
            )

    def check(self, there: Sequence[str], origin: str) -> str:
        """The column of the prompts, refused if the names that are `there` lack one asked for."""
        listed = ", ".join(map(repr, there)) or "none"
        if self.text is None:
            raise ValueError(
                f"`column` must name the column of {origin} that holds the prompts, got none. "
                f"There are: {listed}"
            )
        for argument, name in (("column", self.text), ("kind_column", self.kind)):
            if name is None or there.count(name) == 1:
                continue
            if name in there:
                raise ValueError(
                    f"`{argument}` must be a column of {origin} that stands there once, got "
                    f"{name!r}, which {there.count(name)} columns are called; rename the others"
                )
            near = difflib.get_close_matches(name, there, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"`{argument}` must be a column of {origin}, got {name!r}.{hint} "
                f"There are: {listed}"
            )
        return self.text

    def refuse(self, origin: str) -> None:
        """Refuse columns asked of a text file, which has none."""
        for argument, name in (("column", self.text), ("kind_column", self.kind)):
            if name is not None:
                raise ValueError(
                    f"`{argument}` is {name!r} but {origin} is a text file of one prompt a line, "
                    f"which has no columns; leave `{argument}` out, or give a .csv, .jsonl or "
                    ".parquet file"
                )


Reader = Callable[[Path, Columns], Iterator[Entry]]

LARGEST = 2**30
"""Bytes of a file that is read whole."""


class UnusableFileError(ValueError):
    """No file that can hold prompts; what is wrong follows its name."""


_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars"}


def read_text(path: Path, columns: Columns) -> Iterator[Entry]:
    """An entry for each line of a text file."""
    columns.refuse(path.name)
    for number, line in _lines(path):
        text = _decoded(line)
        yield Entry(number, fault=NOT_UTF8) if text is None else Entry(number, text)


def read_json_lines(path: Path, columns: Columns) -> Iterator[Entry]:
    """An entry for each line of a file of JSON objects.

    An object without the column is left out later; a column that no object has is refused.
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
    """An entry for each row of comma-separated values under a header, quoted by double quotes.

    It is numbered by the line that it starts on.
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
    """An entry for each row of a Parquet file; no other column is read."""
    if not path.is_file() and path.exists() and not path.is_dir():
        raise UnusableFileError("is a pipe or a device; copy what it holds into a file")
    with path.open("rb") as stream:
        # Late, so that a missing file is reported before a missing package.
        pyarrow = _required("pyarrow", "path", path)
        parquet = _required("pyarrow.parquet", "path", path)
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


def read_dataset(
    dataset: str, columns: Columns, *, split: str, configuration: str | None = None
) -> Iterator[Entry]:
    """An entry for each row of a data set's split; no other column is decoded."""
    datasets = _required("datasets", "dataset", dataset)
    refused = (OSError, ValueError, datasets.exceptions.DatasetsError)
    try:
        loaded = datasets.load_dataset(dataset, configuration, split=split)
    except refused as error:
        raise ValueError(
            f"`dataset` {dataset!r} with configuration {configuration!r} and split {split!r} "
            f"could not be loaded: {' '.join(str(error).split())}"
        ) from error
    text = columns.check(loaded.column_names, f"{dataset} ({split})")
    wanted = [name for name in (text, columns.kind) if name is not None]
    for number, row in enumerate(loaded.select_columns(wanted), 1):
        yield Entry(number, row[text], row.get(columns.kind))


READERS: Mapping[str, Reader] = {
    ".txt": read_text,
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
"""Reader by ending."""


def _required(module: str, argument: str, value: str | Path) -> Any:
    try:
        return require(module, extra="data")
    except ModuleNotFoundError as error:
        raise ValueError(f"`{argument}` is {str(value)!r}: {error}") from error


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

"""What a reader finds on each line of a source, and which columns it was asked for."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import attrs

NOT_UTF8 = "not UTF-8"
NOT_AN_OBJECT = "no JSON object"
NOT_A_TEXT = "with NUL or another control character"
TOO_LONG = "too long"
OTHER_FIELDS = "with more or fewer fields than the header"


@attrs.frozen
class Entry:
    """One line or row of a source, before it is judged.

    Args:
        number: of the line or row, from 1.
        text: the prompt; anything but a text is left out later.
        kind: the value of the kind's column.
        fault: why the line could not be read; None where it could.

    Example:
        >>> Entry(3, "a circle").text
        'a circle'
    """

    number: int
    text: Any = None
    kind: Any = None
    fault: str | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Columns:
    """The columns that a table is asked for.

    Args:
        text: of the prompts; None for a file without columns.
        kind: of the groups that the prompts are counted in; None has none.

    Raises:
        ValueError: one column for both.

    Example:
        >>> Columns("caption").check(["id", "captions"], "prompts.csv")
        Traceback (most recent call last):
        ValueError: `column` must be a column of prompts.csv, got 'caption'. Did you mean \
'captions'? There are: 'id', 'captions'
    """

    text: str | None = None
    kind: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.text is not None and self.text == self.kind:
            raise ValueError(
                f"`kind_column` must be another column than `column`, got {self.kind!r} for both"
            )

    def check(self, there: Sequence[str], origin: str) -> str:
        """Refuse columns that a table does not have.

        Args:
            there: the names of its columns.
            origin: what the table is called in messages.

        Returns:
            The column of the prompts.

        Raises:
            ValueError: names the argument and the columns there are.
        """
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
        """Refuse columns where there can be none.

        Args:
            origin: what the file is called in messages.

        Raises:
            ValueError: a column was asked for.
        """
        for argument, name in (("column", self.text), ("kind_column", self.kind)):
            if name is not None:
                raise ValueError(
                    f"`{argument}` is {name!r} but {origin} is a text file of one prompt a line, "
                    f"which has no columns; leave `{argument}` out, or give a .csv, .jsonl or "
                    ".parquet file"
                )

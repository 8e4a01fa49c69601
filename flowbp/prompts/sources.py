"""Sources of prompts: files, data sets and the embedded world."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import torch

from flowbp.evaluation import HeldOut
from flowbp.limits import COUNT
from flowbp.prompts.formats import Columns
from flowbp.prompts.table import PromptTable, load_prompts, read_prompts
from flowbp.shapes import PROMPT_KINDS, heldout_prompts, training_prompts
from flowbp.training import PromptList
from flowbp.validators import integer


class HeldOutSource(Protocol):
    """A fixed list of prompts for evaluation.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> class Two:
        ...     def prompts(self):
        ...         return HeldOutPrompt("a circle"), HeldOutPrompt("a square")
        >>> [prompt.text for prompt in Two().prompts()]
        ['a circle', 'a square']
    """

    def prompts(self) -> tuple[HeldOut, ...]:
        """The prompts, always the same ones in the same order."""
        ...


class TableSource:
    """What these sources have in common: a table of prompts."""

    table: PromptTable

    def account(self) -> str:
        """What was left out of the table, in words; empty if nothing was."""
        return self.table.account()


class _TrainingTable(TableSource):
    def __len__(self) -> int:
        return len(self.table.prompts)

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Prompts without end: each epoch is a new permutation, which `generator` decides."""
        return PromptList(prompt.text for prompt in self.table.prompts).stream(generator)


class _HeldOutTable(TableSource):
    def prompts(self) -> tuple[HeldOut, ...]:
        """The prompts, always in the order of the source."""
        return self.table.prompts


@attrs.frozen
class TextPrompts(_TrainingTable):
    """The distinct prompts of a file, without end, shuffled anew for each pass.

    Args:
        path: a `.txt` file of one prompt a line, or a `.csv`, `.jsonl` or `.parquet` file; a
            relative path starts from the working folder.
        column: of the prompts; a `.txt` file has none.

    Raises:
        ValueError: as `read_prompts`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.csv"
        >>> lines = ["id,caption", "1,a circle", "2,a square", "3,a circle"]
        >>> path.write_text(chr(10).join(lines))
        43
        >>> len(TextPrompts(path, column="caption"))
        2
    """

    path: Path
    column: str | None = None
    table: PromptTable = attrs.field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> PromptTable:
        return read_prompts(self.path, Columns(self.column))


@attrs.frozen
class TextHeldOut(_HeldOutTable):
    """The distinct prompts of a file, in its order.

    Args:
        path: a `.txt` file of one prompt a line, or a `.csv`, `.jsonl` or `.parquet` file; a
            relative path starts from the working folder.
        column: of the prompts; a `.txt` file has none.
        kind_column: of the kinds that the evaluation reports separately; None makes them one kind.

    Raises:
        ValueError: as `read_prompts`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.txt"
        >>> path.write_text("a circle")
        8
        >>> TextHeldOut(path).prompts()
        (HeldOutPrompt(text='a circle', kind='prompts'),)
    """

    path: Path
    column: str | None = None
    kind_column: str | None = None
    table: PromptTable = attrs.field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> PromptTable:
        return read_prompts(self.path, Columns(self.column, self.kind_column))


@attrs.frozen
class DatasetPrompts(_TrainingTable):
    """The distinct prompts of a data set, without end, shuffled anew for each pass.

    Args:
        dataset: a hub id, or a local folder that `datasets` knows how to read.
        column: the name of that with the prompts.
        split: such as `train`, or `train[:1000]`.
        configuration: the data set's own, where it has several.

    Raises:
        ValueError: as `load_prompts`.

    Example:
        ``DatasetPrompts("owner/captions", column="caption")``
    """

    dataset: str | os.PathLike[str]
    column: str
    split: str = "train"
    configuration: str | None = None
    table: PromptTable = attrs.field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> PromptTable:
        columns = Columns(self.column)
        return load_prompts(
            os.fspath(self.dataset), columns, split=self.split, configuration=self.configuration
        )


@attrs.frozen
class DatasetHeldOut(_HeldOutTable):
    """The distinct prompts of a data set, in its order.

    Args:
        dataset: a hub id, or a local folder that `datasets` knows how to read.
        column: the name of that with the prompts.
        split: the part of the data set, such as `test`.
        configuration: the data set's own, where it has several.
        kind_column: of the kinds that the evaluation reports separately; None makes them one kind.

    Raises:
        ValueError: as `load_prompts`.

    Example:
        ``DatasetHeldOut("owner/captions", column="caption", split="test", kind_column="tag")``
    """

    dataset: str | os.PathLike[str]
    column: str
    split: str = "test"
    configuration: str | None = None
    kind_column: str | None = None
    table: PromptTable = attrs.field(init=False, eq=False, repr=False)

    @table.default
    def _table(self) -> PromptTable:
        columns = Columns(self.column, self.kind_column)
        return load_prompts(
            os.fspath(self.dataset), columns, split=self.split, configuration=self.configuration
        )


@attrs.frozen
class ShapesPrompts:
    """The training captions of the embedded world, the six kinds in equal parts."""

    def __len__(self) -> int:
        return len(training_prompts())

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Captions without end, in an order that `generator` alone decides."""
        kinds = [
            PromptList(prompt.text for prompt in training_prompts() if prompt.kind == kind)
            for kind in PROMPT_KINDS
        ]
        streams = [texts.stream(generator) for texts in kinds]
        while True:
            for index in torch.randperm(len(streams), generator=generator).tolist():
                yield next(streams[index])


@attrs.frozen
class ShapesHeldOut:
    """Held-out captions of the embedded world, spread evenly over the six kinds.

    Args:
        count: how many captions.
    """

    count: int = attrs.field(default=192, validator=integer(1, COUNT))

    def prompts(self) -> tuple[HeldOut, ...]:
        """The captions, the kinds taking turns."""
        kinds = [
            _even([prompt for prompt in heldout_prompts() if prompt.kind == kind], share)
            for kind, share in zip(PROMPT_KINDS, self._shares(), strict=True)
        ]
        turns = len(PROMPT_KINDS)
        return tuple(kinds[i % turns][i // turns] for i in range(self.count))

    def _shares(self) -> list[int]:
        whole, rest = divmod(self.count, len(PROMPT_KINDS))
        return [whole + (place < rest) for place in range(len(PROMPT_KINDS))]


def _even(prompts: Sequence[HeldOut], share: int) -> list[HeldOut]:
    if share > len(prompts):
        return [prompts[i % len(prompts)] for i in range(share)]
    return [prompts[i * len(prompts) // share] for i in range(share)]

"""Prompts of a data set that the `datasets` library loads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flowbp.adapters.extras import require
from flowbp.prompts.entries import Columns, Entry
from flowbp.prompts.reading import PromptTable, prompt_table


def load_prompts(
    dataset: str, columns: Columns, *, split: str, configuration: str | None = None
) -> PromptTable:
    """Load the prompts of one split of a data set.

    Args:
        dataset: a hub id, or a local folder that `datasets` knows how to read.
        columns: which columns to read; no other is decoded.
        split: such as `train`, or `train[:1000]`.
        configuration: the data set's own, where it has several.

    Returns:
        The distinct prompts.

    Warns:
        UserWarning: rows could not be read and are left out, with their numbers.

    Raises:
        ValueError: no such data set, split or column, or no prompt, or `datasets` is not
            installed; the message says how to install it.

    Example:
        ``load_prompts("owner/captions", Columns("caption"), split="train")``
    """
    try:
        datasets = require("datasets", extra="data")
    except ModuleNotFoundError as error:
        raise ValueError(f"`dataset` is {dataset!r}: {error}") from error
    refused = (OSError, ValueError, datasets.exceptions.DatasetsError)
    try:
        loaded = datasets.load_dataset(dataset, configuration, split=split)
    except refused as error:
        raise ValueError(
            f"`dataset` {dataset!r} with configuration {configuration!r} and split {split!r} "
            f"could not be loaded: {' '.join(str(error).split())}"
        ) from error
    origin = f"{dataset} ({split})"
    text = columns.check(loaded.column_names, origin)
    wanted = [name for name in (text, columns.kind) if name is not None]
    rows = _entries(loaded.select_columns(wanted), columns)
    return prompt_table(rows, origin=origin, unit="row", kinds=columns.kind is not None)


def _entries(rows: Any, columns: Columns) -> Iterator[Entry]:
    for number, row in enumerate(rows, 1):
        yield Entry(number, row[columns.text], row.get(columns.kind))

"""Parquet files and data sets; the libraries behind them, and what is said without them."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from flowbp.prompts import Columns, DatasetHeldOut, DatasetPrompts, read_prompts


class Rows(list):
    """A split with the two methods of `datasets.Dataset` that are used."""

    @property
    def column_names(self):
        return list(self[0])

    def select_columns(self, names):
        return Rows({name: row[name] for name in names} for row in self)


ROWS = Rows({"id": i, "text": text, "tag": "k"} for i, text in enumerate(["a", "b", "a", None, 5]))


@pytest.fixture
def library(monkeypatch):
    """Stands for `datasets`; returns what it was asked for."""
    asked = []

    class DatasetsError(Exception):
        pass

    def load_dataset(name, configuration=None, *, split):
        asked.append((name, configuration, split))
        if name == "gone/away":
            raise FileNotFoundError("no such data set")
        return ROWS

    exceptions = SimpleNamespace(DatasetsError=DatasetsError)
    module = SimpleNamespace(load_dataset=load_dataset, exceptions=exceptions)
    monkeypatch.setitem(sys.modules, "datasets", module)
    return asked


def test_a_data_set(library):
    with pytest.warns(UserWarning, match=r"owner/set \(test\): rows left out: .*1 without a text"):
        held_out = DatasetHeldOut("owner/set", "text", kind_column="tag")
    assert [(p.text, p.kind) for p in held_out.prompts()] == [("a", "k"), ("b", "k")]
    with pytest.warns(UserWarning):
        assert len(DatasetPrompts("owner/set", "text", "train[:9]", "v2")) == 2
    assert library == [("owner/set", None, "test"), ("owner/set", "v2", "train[:9]")]


def test_a_data_set_that_does_not_fit(library):
    with pytest.raises(ValueError, match=r"`dataset` 'gone/away' .*could not be loaded: no such"):
        DatasetPrompts("gone/away", "text")
    with pytest.raises(ValueError, match=r"`column` must be .*There are: 'id', 'text', 'tag'"):
        DatasetPrompts("owner/set", "caption")


@pytest.mark.parametrize("module", ["datasets", "pyarrow"])
def test_a_missing_library_is_reported_with_the_command(tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / "p.parquet"
    path.touch()
    with pytest.raises(
        ValueError, match=rf'`{module}` is needed.*pip install "flowbp-align\[data\]"'
    ):
        if module == "pyarrow":
            read_prompts(path, Columns("text"))
        else:
            DatasetPrompts("owner/set", "text")

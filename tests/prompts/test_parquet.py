"""Parquet with pyarrow itself, and data sets with `datasets` itself."""

from __future__ import annotations

import pyarrow
import pytest
from pyarrow import parquet

from flowbp.prompts import Columns, DatasetPrompts, read_prompts


@pytest.fixture
def path(tmp_path):
    texts = pyarrow.array(["a", None, " b ", "a", ""])
    table = pyarrow.table({"id": pyarrow.array(range(5)), "text": texts, "tag": list("kklkk")})
    parquet.write_table(table, tmp_path / "p.parquet", row_group_size=2)
    return tmp_path / "p.parquet"


def test_rows_of_all_groups_are_read(path):
    table = read_prompts(path, Columns("text", "tag"))
    assert [(p.text, p.kind) for p in table.prompts] == [("a", "k"), ("b", "l")]
    assert table.account() == "rows left out: 2 blank (2, 5); 1 duplicate (4)"


@pytest.mark.filterwarnings("ignore:.*rows left out")
def test_rows_that_are_no_utf8(path):
    broken = pyarrow.array([b"a", b"\xff", b"c"], pyarrow.binary())
    texts = pyarrow.StringArray.from_buffers(3, *broken.buffers()[1:])
    for column in (broken, texts):
        parquet.write_table(pyarrow.table({"text": column}), path)
        table = read_prompts(path, Columns("text"))
        assert [p.text for p in table.prompts] == ["a", "c"]
        assert [(left.reason, left.lines) for left in table.left_out] == [("not UTF-8", (2,))]


def test_columns_and_damage_are_reported(path):
    with pytest.raises(ValueError, match=r"`column` must be .*There are: 'id', 'text', 'tag'"):
        read_prompts(path, Columns("caption"))
    with pytest.raises(ValueError, match="holds no prompts: rows left out: 5 without a text"):
        read_prompts(path, Columns("id"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no whole Parquet file"):
        read_prompts(path, Columns("text"))


def test_a_data_set_in_a_folder(path):
    assert len(DatasetPrompts(str(path.parent), "text")) == 2
    with pytest.raises(ValueError, match=r"split 'test' could not be loaded: .*test"):
        DatasetPrompts(str(path.parent), "text", "test")

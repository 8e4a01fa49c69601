"""Every format, and every fault that a line or a file can have."""

from __future__ import annotations

import json
from itertools import islice

import pytest
import torch

from flowbp.prompts import Columns, TextHeldOut, TextPrompts, read_prompts


@pytest.fixture
def written(tmp_path):
    """Writes a file and returns its path."""

    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def texts(table):
    return [prompt.text for prompt in table.prompts]


def lines_left_out(table):
    return {left.reason: left.lines for left in table.left_out}


def test_text_is_one_prompt_a_line(written, recwarn):
    path = written("prompts.txt", "\ufeffa circle\n\n  \n two squares \r\na\u2028b\ra circle")
    table = read_prompts(path)
    assert texts(table) == ["a circle", "two squares", "a\u2028b"]
    assert lines_left_out(table) == {"blank": (2, 3), "duplicate": (6,)}
    assert table.account() == "lines left out: 2 blank (2, 3); 1 duplicate (6)"
    assert not recwarn.list


def test_csv_quotes_commas_and_line_ends(written):
    content = 'id,caption\r\n1,"a circle, ""red"""\r\n\r\n2,"two\nlines"\r\n3,\r\n4,a square\r\n'
    table = read_prompts(written("prompts.CSV", content), Columns("caption"))
    assert texts(table) == ['a circle, "red"', "two\nlines", "a square"]
    assert lines_left_out(table) == {"blank": (3, 6)}


@pytest.mark.parametrize(("sign", "word"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_another_delimiter_is_named(written, sign, word):
    path = written("prompts.csv", f"id{sign}caption\n1{sign}a circle\n")
    with pytest.raises(ValueError, match=f"has columns that {word} separate, in .*save it with c"):
        read_prompts(path, Columns("caption"))
    single = written("single.csv", "what; how\na circle\n")
    assert texts(read_prompts(single, Columns("what; how"))) == ["a circle"]


def test_json_lines(written):
    rows = ['{"caption": "a circle", "id": 1}', "", '{"caption": null}', '{"caption": "b\u2028c"}']
    table = read_prompts(written("prompts.jsonl", "\n".join(rows)), Columns("caption"))
    assert texts(table) == ["a circle", "b\u2028c"]
    assert lines_left_out(table) == {"blank": (2, 3)}


@pytest.mark.parametrize(
    ("name", "content", "reason", "lines", "cure"),
    [
        ("p.txt", b"a\n\xffb\nc\n\xfe", "not UTF-8", (2, 4), "save it as UTF-8"),
        ("p.csv", b"caption,n\na,1\nb\xff,2\nc,\xff3", "not UTF-8", (3,), "save it as UTF-8"),
        ("p.csv", b"caption,n\na,1\nb, red,2\nc,3", "with more or fewer fields", (3,), "quotes"),
        ("p.jsonl", b'{"caption": "a"}\n{"caption": \n["c"]', "no JSON object", (2, 3), "write"),
        ("p.jsonl", b'{"caption": "a"}\n{"caption": "\xff"}', "not UTF-8", (2,), "save"),
        ("p.jsonl", b'{"caption": "a"}\n{"caption": "\\ud800"}', "not UTF-8", (2,), "save"),
        ("p.jsonl", b'{"caption": "a"}\n{"caption": 3}', "without a text", (2,), "write a text"),
    ],
)
def test_lines_that_cannot_be_read_are_left_out_and_reported(
    written, name, content, reason, lines, cure
):
    columns = Columns(None if name.endswith("txt") else "caption")
    with pytest.warns(UserWarning, match=f"{name}: lines left out: .*{reason}.*{cure}") as reported:
        table = read_prompts(written(name, content), columns)
    assert len(reported) == 1
    assert texts(table)[0] == "a"
    assert [left.lines for left in table.left_out] == [lines]


def test_many_faults_are_counted_and_the_first_are_named(written):
    with pytest.warns(UserWarning, match=r"7 not UTF-8 \(2, 3, 4, 5, 6, …\)"):
        read_prompts(written("p.txt", b"a" + b"\n\xff" * 7))


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("p.txt", "", Columns(), "p.txt holds no prompts: it is empty; write at least one"),
        ("p.txt", "\n \n", Columns(), r"holds no prompts: lines left out: 2 blank \(1, 2\)"),
        ("p.txt", b"\xff\xfa", Columns(), "holds no prompts: .*1 not UTF-8.*save it as UTF-8"),
        ("p.txt", "a".encode("utf-16"), Columns(), "p.txt is UTF-16; save it as UTF-8"),
        ("p.txt", "a", Columns("caption"), "`column` is 'caption' but p.txt is a text file"),
        ("p.txt", "a", Columns(None, "tag"), "`kind_column` is 'tag' but p.txt"),
        ("p.doc", "a", Columns(), "which ends in '.doc'; use one of .txt, .csv, .jsonl, .parquet"),
        ("prompts", "a", Columns(), "which ends in 'nothing'"),
        ("p.csv", "", Columns("caption"), "got 'caption'. There are: none"),
        ("p.csv", "id,caption\n1,a", Columns(), "`column` must name .*There are: 'id', 'caption'"),
        ("p.csv", "id,captoin\n1,a", Columns("caption"), "Did you mean 'captoin'. There are: 'id'"),
        ("p.csv", "a,a\n1,2", Columns("a"), "stands there once, got 'a', which 2 columns"),
        ("p.csv", "a,b\n1,2", Columns("a", "tag"), "`kind_column` must be .*There are: 'a', 'b'"),
        ("p.csv", 'a\n"b" c\n', Columns("a"), "no CSV from line 2 on: .*double each quote"),
        ("p.csv", 'a\nb\n"c\nd', Columns("a"), "no CSV from line 3 on: unexpected end"),
        ("p.jsonl", '{"id": 1}', Columns("caption"), "`column` must be .*There are: 'id'"),
        ("p.jsonl", "[]", Columns("caption"), "holds no prompts: .*1 no JSON object"),
    ],
)
def test_files_without_prompts_are_refused(written, name, content, columns, message):
    with pytest.raises(ValueError, match=message):
        read_prompts(written(name, content), columns)


def test_a_file_that_is_not_there(tmp_path):
    for ending in ("txt", "csv", "jsonl", "parquet"):
        with pytest.raises(ValueError, match=r"`path` must be .*cannot be read.*check the path"):
            read_prompts(tmp_path / f"none.{ending}", Columns(None if ending == "txt" else "a"))


def test_one_column_cannot_be_both():
    with pytest.raises(ValueError, match="`kind_column` must be another column than `column`"):
        Columns("a", "a")


def test_training_goes_through_the_file_shuffled_by_the_generator(written):
    source = TextPrompts(written("p.txt", "\n".join("abcdefgh")))

    def first(count, seed):
        return list(islice(source.stream(torch.Generator().manual_seed(seed)), count))

    assert len(source) == 8
    assert sorted(first(8, 0)) == list("abcdefgh") == sorted(first(16, 0)[8:])
    assert first(16, 0) == first(16, 0) != first(16, 1)


def test_held_out_prompts_keep_order_and_kinds(written):
    rows = [("b", "colours"), ("a", "shapes"), ("b", "shapes"), ("a", "shapes"), ("c", None)]
    content = "\n".join(json.dumps({"text": text, "tag": tag}) for text, tag in rows)
    path = written("p.jsonl", content)
    with pytest.warns(UserWarning, match=r"1 without a kind \(5\); write a kind"):
        source = TextHeldOut(path, "text", "tag")
    found = [(prompt.text, prompt.kind) for prompt in source.prompts()]
    assert found == [("b", "colours"), ("a", "shapes"), ("b", "shapes")]
    assert {prompt.kind for prompt in TextHeldOut(path, "text").prompts()} == {"prompts"}
    assert "duplicate (4)" in source.account()

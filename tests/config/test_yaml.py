"""YAML text: the scalars of YAML 1.2, limits, refusals with line numbers, and the way back."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from flowbp.config import ConfigurationError, dump, plain, read_file, read_text
from flowbp.config.command_line import read_arguments
from flowbp.config.tree import origin_of
from flowbp.config.yaml import LARGEST, MOST, parsed_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("-.5e+3", -500.0),
        ("3.", 3.0),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("+3", 3),
        ("!!float 1", 1.0),
        ("!!str 1", "1"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("on", "on"),
        ("2024-01-01", "2024-01-01"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("e5", "e5"),
        ("<<", "<<"),
        ("'1e-5'", "1e-5"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = plain(read_text(f"key: {text}", "a.yaml"))["key"]
    assert read == value
    assert type(read) is type(value)


def test_nan() -> None:
    assert math.isnan(plain(read_text(".nan", "a.yaml")))


def test_origins_are_the_lines_of_the_keys() -> None:
    tree = read_text("a:\n  b:\n    c: 1\nd:\n- x\n- y\n", "a.yaml")
    paths = [("a",), ("a", "b"), ("a", "b", "c"), ("d", 1), ("a", "missing"), ("d", 7)]
    lines = [origin_of(tree, path) for path in paths]
    assert lines == ["a.yaml:1", "a.yaml:2", "a.yaml:3", "a.yaml:6", "a.yaml:1", "a.yaml:4"]


def test_anchors_are_shared_values() -> None:
    assert plain(read_text("a: &x [1]\nb: *x", "a.yaml")) == {"a": [1], "b": [1]}


def test_duplicate_keys_are_all_reported_with_both_lines() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_text("a: 1\nb:\n  c: 1\n  c: 2\na: 3\n", "a.yaml")
    assert [str(problem) for problem in caught.value.problems] == [
        "a.yaml:4: b.c: is given twice, first on line 3; keep one of them",
        "a.yaml:5: a: is given twice, first on line 1; keep one of them",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [1, 2", "a.yaml:2: is not YAML: expected ',' or ']'"),
        ("a: *nothing", "a.yaml:1: is not YAML: found undefined alias 'nothing'"),
        ("a: 1\n---\nb: 2", "a.yaml:2: is not YAML: but found another document"),
        ("a: \x07", "a.yaml: is not YAML: special characters are not allowed"),
        ("a: !!python/object:os.system x", "a.yaml:1: a: has the tag !!python/object:os.system"),
        ("a: !mine {b: 1}", "a.yaml:1: a: has the tag !mine"),
        ("a: !!int x", "a.yaml:1: a: has the tag !!int"),
        ("1: a", "a.yaml:1: has a key that is not text: 1; quote it"),
        ("[a]: b", "a.yaml:1: has a key that is not text: a list or a mapping; quote it"),
        ("a: &x\n  b: *x", "a.yaml:2: a.b: is an alias of one of its own parents"),
    ],
)
def test_refusals_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_text(text, "a.yaml")
    assert message in str(caught.value)


def test_files(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("# nothing yet\n")
    assert plain(read_file(file)) == {}
    file.write_text("- a\n")
    with pytest.raises(ConfigurationError, match=r"a\.yaml:1: must hold a mapping"):
        read_file(file)
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigurationError, match=r"a\.yaml: is not UTF-8 text.*at byte 3"):
        read_file(file)
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        read_file(tmp_path)


def test_dump_quotes_what_either_yaml_would_misread() -> None:
    texts = ["1e-5", "1:30", "no", "2024-01-01", "0o7", "null", "", "plain"]
    written = dump(texts)
    assert plain(read_text(written, "a.yaml")) == texts
    assert (
        written == "- '1e-5'\n- '1:30'\n- 'no'\n- '2024-01-01'\n- '0o7'\n- 'null'\n- ''\n- plain\n"
    )


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(ord(last) + 1)}: &{chr(ord(last) + 1)} [{', '.join([f'*{last}'] * 8)}]\n"
    for last in "abcdefghijkl"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"a: {'9' * 5000}", "a: is an integer of 5,000 characters"),
        (f"a: -0{'9' * 5000}", "a: is an integer of 5,002 characters"),
        (f"a: 0x{'f' * 5000}", "a: is an integer of 5,002 characters"),
        ("a: 1e999", "a: is the number 1e999, and the largest that can be held is 1.8e308"),
        ("a: " + "[" * 100_000, "nests deeper than 64 levels"),
        ("\n".join(" " * n + "a:" for n in range(100)), "nests deeper than 64 levels"),
        (BOMB, "holds more than 100,000 values"),
        ("a: [" + "1, " * (MOST + 1) + "]", "holds more than 100,000 values"),
        ("a: b\0c", "is not YAML: it holds NUL characters, as UTF-16 does; save it as UTF-8"),
    ],
)
def test_what_is_too_large_or_too_deep(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_text(text, "a.yaml")
    assert message in str(caught.value) and len(str(caught.value)) < 400


def test_what_is_just_within_them_is_read() -> None:
    assert plain(read_text("[" * 64 + "]" * 64, "a.yaml"))
    assert plain(read_text(f"a: {2**63 - 1}", "a.yaml")) == {"a": 2**63 - 1}
    assert len(plain(read_text("[" + "1, " * 1000 + "]", "a.yaml"))) == 1000


def test_files_that_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_text("# " + " " * LARGEST)
    (tmp_path / "wide.yaml").write_bytes("a: 1".encode("utf-16"))
    (tmp_path / "wider.yaml").write_bytes("a: 1".encode("utf-16-le"))
    (tmp_path / "marked.yaml").write_bytes(b"\xef\xbb\xbfa: 1")
    for name, message in {
        tmp_path / "pipe.yaml": "is a pipe or a device and no regular file; copy what it holds",
        Path("/dev/zero"): "is a pipe or a device",
        tmp_path / "large.yaml": f"and at most {LARGEST:,} are read",
        tmp_path / "wide.yaml": "is not UTF-8 text",
        tmp_path / "wider.yaml": "NUL characters, as UTF-16 does; save it as UTF-8",
    }.items():
        with pytest.raises(ConfigurationError, match=message):
            read_file(name)
    assert plain(read_file(tmp_path / "marked.yaml")) == {"a": 1}


def test_a_block_that_is_no_yaml_hides_none_of_the_others() -> None:
    text = "a: {b: 1\nc: !x 1\nd: 2\ne: [1\nf: *g\ng: 3\n"
    tree, problems = parsed_text(text, "a.yaml")
    assert [problem.origin for problem in problems] == ["a.yaml:2", "a.yaml:5", "a.yaml:2"]
    assert [plain(tree)[key] for key in "dg"] == [2, 3]


def test_typed_keys_and_values_have_limits_too() -> None:
    (problem,) = read_arguments([".".join(["a"] * 3000) + "=1"]).problems
    assert "has a key of 3000 parts" in problem.message and len(problem.message) < 200
    (problem,) = read_arguments([f"{'x' * 10_000}!=1"]).problems
    assert len(problem.message) < 300

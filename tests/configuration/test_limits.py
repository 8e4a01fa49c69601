"""What is too large, too deep or no text is refused at once, in words."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowbp.configuration import ConfigurationError, plain, read_file, read_text
from flowbp.configuration.arguments import gathered
from flowbp.configuration.text import LARGEST, MOST, parsed

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
def test_texts(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_text(text, "a.yaml")
    assert message in str(caught.value) and len(str(caught.value)) < 400


def test_what_is_just_within_them_is_read() -> None:
    assert plain(read_text("[" * 64 + "]" * 64, "a.yaml"))
    assert plain(read_text(f"a: {2**63 - 1}", "a.yaml")) == {"a": 2**63 - 1}
    assert len(plain(read_text("[" + "1, " * 1000 + "]", "a.yaml"))) == 1000


def test_files(tmp_path: Path) -> None:
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
    tree, problems = parsed(text, "a.yaml")
    assert [problem.origin for problem in problems] == ["a.yaml:2", "a.yaml:5", "a.yaml:2"]
    assert [plain(tree)[key] for key in "dg"] == [2, 3]


def test_typed_keys_and_values_have_limits_too() -> None:
    (problem,) = gathered([".".join(["a"] * 3000) + "=1"]).problems
    assert "has a key of 3000 parts" in problem.message and len(problem.message) < 200
    (problem,) = gathered([f"{'x' * 10_000}!=1"]).problems
    assert len(problem.message) < 300

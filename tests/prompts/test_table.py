"""Prompt files that are none, or hold what no prompt can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flowbp.prompts import read_prompts
from flowbp.prompts.formats import Columns, Entry
from flowbp.prompts.table import LONGEST, prompt_table


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl", "parquet"])
def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path, ending: str) -> None:
    pipe, link = tmp_path / f"pipe.{ending}", tmp_path / f"device.{ending}"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link):
        with pytest.raises(ValueError, match=f"got '{path}', which is a pipe or a device"):
            read_prompts(path, Columns("c") if ending != "txt" else None)


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_with_and_without_its_mark(
    tmp_path: Path, ending: str, encoding: str
) -> None:
    path = tmp_path / f"prompts.{ending}"
    text = {"txt": "a circle", "csv": "c\na circle", "jsonl": '{"c": "a circle"}'}[ending]
    path.write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match=r"UTF-16.* save it as UTF-8"):
        read_prompts(path, Columns("c") if ending != "txt" else None)


def test_a_nul_byte_is_reported_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a circle\na\0b\n")
    with pytest.raises(ValueError, match="holds a NUL byte on line 2"):
        read_prompts(path)


def test_prompts_that_hold_control_characters_or_are_endless_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    nested = "[" * 100_000
    path.write_text(
        f'{{"c": "a circle"}}\n{{"c": "a\\u0000b"}}\n{{"c": "{"x" * 10_001}"}}\n{nested}\n'
    )
    with pytest.warns(UserWarning) as caught:
        table = read_prompts(path, Columns("c"))
    assert [prompt.text for prompt in table.prompts] == ["a circle"]
    reported = str(caught[0].message)
    for piece in ("control character (2)", "too long (3)", "no JSON object (4)", f"{LONGEST:,}"):
        assert piece in reported


@pytest.mark.parametrize("sign", ["\x00", "\x0b", "\x0c", "\x1b", "\x1c", "\x1f", "\x7f"])
def test_every_control_character_but_tabs_and_ends_of_lines_counts(sign: str) -> None:
    entries = [Entry(1, "a circle"), Entry(2, f"a{sign}b"), Entry(3, "a\tb\nc\rd")]
    with pytest.warns(UserWarning, match=r"control character \(2\)"):
        assert len(prompt_table(entries, origin="a list").prompts) == 2


def test_more_prompts_than_a_source_may_have(monkeypatch) -> None:
    monkeypatch.setattr("flowbp.prompts.table.COUNT", 2)
    with pytest.raises(ValueError, match="a list holds more than 2 different prompts"):
        prompt_table([Entry(n, f"prompt {n}") for n in range(3)], origin="a list")

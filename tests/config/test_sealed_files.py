"""Sealed files: what no writer of ours could have made is refused, however it is made."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flowbp.config import (
    DamagedError,
    read_sealed,
    read_sealed_lines,
    sealed,
    sealed_line,
)


@attrs.frozen
class Holder:
    value: Any


@pytest.mark.parametrize("depth", [1, 100, *range(900, 1000, 5), 5000])
def test_nesting_beyond_all_bounds_is_damage(tmp_path, depth):
    path = tmp_path / "file.json"
    path.write_text('{"value": ' + "[" * depth + "]" * depth + ', "sha256": "0"}\n')
    with pytest.raises(DamagedError, match=r"file\.json is damaged.*; remove it"):
        read_sealed(Holder, path, cure="remove it")
    with pytest.raises(DamagedError, match=r"file\.json is damaged.*; remove it"):
        read_sealed_lines(path, cure="remove it")


def test_what_was_sealed_is_read_and_a_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / "file.json"
    path.write_text(sealed({"value": 3}))
    assert read_sealed(Holder, path, cure="remove it") == Holder(3)
    path.write_text(sealed({"value": 3}).replace("3,", "4,"))
    with pytest.raises(DamagedError, match="it has changed since it was written; remove it"):
        read_sealed(Holder, path, cure="remove it")
    path.write_text(sealed_line({"value": 3}) + '{"val')
    assert read_sealed_lines(path, cure="remove it") == [{"value": 3}]

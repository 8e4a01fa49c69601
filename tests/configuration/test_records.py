"""Sealed files: what no writer of ours could have made is refused, however it is made."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from flowbp.configuration import DamagedError, read_sealed, read_sealed_lines


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

"""What is typed for a text or a path is the text; other values are YAML."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest

from flowbp.configuration import ConfigurationError, read_arguments, structure
from flowbp.configuration.arguments import gathered
from flowbp.configuration.structuring import structured


@attrs.frozen
class Inner:
    text: str = ""
    number: int = 0


@attrs.frozen
class Fields:
    path: Path = Path("a")
    text: str = ""
    maybe: Path | None = None
    number: float = 0.0
    both: int | str = 0
    inner: Inner = attrs.field(factory=Inner)
    by_label: Mapping[str, str] = attrs.field(factory=dict)
    counts: Mapping[str, int] = attrs.field(factory=dict)


def typed(*arguments: str) -> Fields:
    found, problems = structured(Fields, gathered(arguments).tree)
    if problems:
        raise ConfigurationError(problems)
    assert isinstance(found, Fields)
    return found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("runs/try #2", "runs/try #2"),
        ("2026", "2026"),
        ("1e-5", "1e-5"),
        ("a: b", "a: b"),
        ("yes", "yes"),
        ("true", "true"),
        ("=x", "=x"),
        ("[a", "[a"),
        ("{a: b}", "{a: b}"),
        ("#2", "#2"),
        ("*x", "*x"),
        ("!x y", "!x y"),
        ("it's", "it's"),
        ("'it''s'", "it's"),
        ('"two words"', "two words"),
        ("''", ""),
        ("'null'", "null"),
        (" x ", "x"),
        ("a'", "a'"),
        ("'a' and 'b'", "'a' and 'b'"),
    ],
)
def test_texts_are_what_was_typed(text: str, value: str) -> None:
    assert typed(f"text={text}").text == value
    assert typed(f"inner.text={text}").inner.text == value
    assert typed(f"by_label.a={text}").by_label == {"a": value}
    if value:
        assert typed(f"path={text}").path == typed(f"maybe={text}").maybe == Path(value)


def test_null_is_none_where_there_can_be_none() -> None:
    assert typed("maybe=null").maybe is None
    for key in ("path", "text"):
        with pytest.raises(ConfigurationError, match=f"{key}: must be .*got None"):
            typed(f"{key}=null")


def test_other_values_are_yaml() -> None:
    assert typed("number=1e-5 # small").number == 1e-5
    assert typed("both=3").both == 3
    assert typed("inner={text: '3', number: 4}").inner == Inner("3", 4)
    assert typed("counts.a=3").counts == {"a": 3}
    assert typed("by_label={a: b}").by_label == {"a": "b"}
    with pytest.raises(ConfigurationError, match=r"`number=\[1` has a value that is not YAML"):
        typed("number=[1")
    with pytest.raises(ConfigurationError, match="`number=#1` has no value"):
        typed("number=#1")


def test_without_a_schema_values_are_yaml() -> None:
    with pytest.raises(ConfigurationError, match="is not YAML"):
        read_arguments(["text=[a"])


def test_what_is_no_text_is_refused() -> None:
    for text in ("a\x07b", "a\x00b", "a\udcffb"):
        with pytest.raises(ConfigurationError, match="is no part of a text; remove it"):
            typed(f"text={text}")


def test_paths_are_of_the_home_folder_and_never_empty(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed("path=~/x").path == typed("maybe=~/x").maybe == tmp_path / "x"
    assert typed("text=~/x").text == "~/x"
    for key in ("path", "maybe"):
        for text in ("''", "' '", "~no-such-user/x"):
            with pytest.raises(ConfigurationError, match=f"{key}: must be a path, got "):
                typed(f"{key}={text}")


def test_structure_takes_the_tree_of_read_arguments() -> None:
    assert structure(Fields, read_arguments(["path=2026", "number=2026"])).path == Path("2026")

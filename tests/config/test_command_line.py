"""Files, overlays and overrides; what is typed for a text or a path is the text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowbp.config import ConfigurationError, merge, plain, read_text, structure
from flowbp.config.command_line import read_arguments
from flowbp.config.structuring import structured
from flowbp.config.tree import origin_of

BASE = "method: {name: lagrange, order: 3}\nsizes: [1, 2]\ntraining:\n  steps: 3\n  rate: 1e-3\n"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return "base.yaml"


def read(*arguments: str) -> Any:
    found = read_arguments(arguments)
    assert not found.problems
    return found.tree


@attrs.frozen
class Loose:
    method: Any = None
    sizes: Any = None
    training: Any = None
    a: Any = None
    colour: Any = None
    seed: Any = None


def problems(*arguments: str) -> list[str]:
    found = read_arguments(arguments)
    # A value that is not YAML may be a text, as the schema says.
    return [str(problem) for problem in (*found.problems, *structured(Loose, found.tree)[1])]


def test_mappings_merge_and_lists_are_replaced() -> None:
    over = read_text("sizes: [9]\ntraining: {steps: 4}\nnew: 1", "over.yaml")
    merged = merge(read_text(BASE, "base.yaml"), over)
    assert plain(merged) == {
        "method": {"name": "lagrange", "order": 3},
        "sizes": [9],
        "training": {"steps": 4, "rate": 1e-3},
        "new": 1,
    }
    assert origin_of(merged, ("training", "steps")) == "over.yaml:2"
    assert origin_of(merged, ("training", "rate")) == "base.yaml:5"
    assert origin_of(merged, ("training", "absent")) == "base.yaml:3"


def test_a_component_of_another_name_is_replaced() -> None:
    base = read_text(BASE, "base.yaml")
    replaced = merge(base, read_text("method: {name: bridge, alpha: .5}", "over.yaml"))
    assert plain(replaced)["method"] == {"name": "bridge", "alpha": 0.5}
    for same in ("{name: lagrange, active: 2}", "{active: 2}"):
        merged = merge(base, read_text(f"method: {same}", "over.yaml"))
        assert plain(merged)["method"] == {"name": "lagrange", "order": 3, "active": 2}


def test_nothing_merges_to_an_empty_mapping() -> None:
    assert plain(merge()) == plain(read()) == {}


def test_overrides_win_wherever_they_stand_and_are_yaml(base: str) -> None:
    arguments = ["training.rate=1e-5", base, "sizes=[3, 4]", "note=two squares, no circle"]
    tree = read(*arguments)
    assert plain(tree)["training"] == {"steps": 3, "rate": 1e-5}
    assert plain(tree)["sizes"] == [3, 4]
    assert plain(tree)["note"] == "two squares, no circle"
    assert origin_of(tree, ("training", "rate")) == "command line"


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_overrides_does_not_matter(base: str, reverse: bool) -> None:
    overrides = ["method.name=bridge", "method.alpha=1"]
    tree = read(base, *(overrides[::-1] if reverse else overrides))
    assert plain(tree)["method"] == {"name": "bridge", "alpha": 1}


def test_null_clears_and_can_be_filled(base: str) -> None:
    assert plain(read(base, "method=null"))["method"] is None
    Path("null.yaml").write_text("method: null")
    assert plain(read("null.yaml", "method.name=x")) == {"method": {"name": "x"}}


def test_a_bare_name_after_a_null_stands_alone(base: str) -> None:
    Path("deep.yaml").write_text("method: {name: bridge, active: 3, opts: {p: 1}}")
    read_so = [
        plain(read("deep.yaml", *typed))["method"]
        for typed in (
            ["method=null", "method=bridge"],
            ["method.active=4", "method=null", "method=bridge"],
            ["method=null", "method.name=bridge"],
        )
    ]
    assert [each if each == "bridge" else each["name"] for each in read_so] == ["bridge"] * 3
    assert all(each == "bridge" or each == {"name": "bridge"} for each in read_so)


def test_a_path_may_contain_an_equals_sign(base: str) -> None:
    Path("rate=1").mkdir()
    Path("rate=1/run.yaml").write_text("a: 1")
    assert plain(read("./rate=1/run.yaml")) == {"a": 1}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("=3", "`=3` has the key ''; write key.subkey=value"),
        ("a..b=3", "has the key 'a..b'"),
        ("sizes[0]=3", "has the key 'sizes[0]'"),
        ("--seed=3", "has the key '--seed'"),
        ("seed=", "`seed=` has no value; write seed=null for none"),
        ("colour=#fff", "`colour=#fff` has no value; write colour=null for none, quotes for"),
        ("a=[1", "`a=[1` has a value that is not YAML"),
        ("a={b: 1, b: 2}", "has a value that at `a.b` is given twice, first on line 1; keep"),
        (
            "sizes.first=3",
            "sizes.first: cannot be reached: sizes is [1, 2] in base.yaml:2; override",
        ),
        ("training.steps.x=3", "cannot be reached: training.steps is 3 in base.yaml:4"),
        ("missing", "missing: cannot be read: No such file or directory; check the path"),
    ],
)
def test_wrong_arguments(base: str, argument: str, message: str) -> None:
    (problem,) = problems(base, argument)
    assert message in problem


def test_of_a_key_given_twice_the_later_counts(base: str) -> None:
    typed = read(base, "training.steps=4", "sizes=[3]", "training.steps=5", "sizes=[4]")
    assert plain(typed)["training"] == {"steps": 5, "rate": 1e-3}
    assert plain(typed)["sizes"] == [4]
    whole = ["method={name: sparse, active: 3}", "method={name: bridge}"]
    assert plain(read(base, *whole))["method"] == {"name": "bridge"}
    assert plain(read(base, *whole, "method=null"))["method"] is None


def test_a_section_and_its_keys_can_be_given_together(base: str) -> None:
    whole, part = "method={name: bridge, alpha: 1}", "method.alpha=2"
    for typed in ([whole, part], [part, "method={name: bridge}"], ["method=bridge", part]):
        assert plain(read(base, *typed))["method"] == {"name": "bridge", "alpha": 2}
    # No key that was typed is lost because the name was typed again.
    again = ["method.name=sparse", "method.active=4", "method.name=bridge"]
    assert plain(read(base, *again))["method"] == {"name": "bridge", "active": 4}


def test_a_section_can_be_replaced_instead_of_merged(base: str) -> None:
    assert plain(read(base, "training=null", "training={steps: 9}"))["training"] == {"steps": 9}
    assert plain(read(base, "training=null", "training.steps=9"))["training"] == {"steps": 9}
    assert plain(read(base, "training.steps=9", "training=null"))["training"] is None
    Path("null.yaml").write_text("training: null")
    Path("fill.yaml").write_text("training: {steps: 9}")
    assert plain(read(base, "null.yaml", "fill.yaml"))["training"] == {"steps": 9}


def test_a_key_below_a_scalar_on_the_command_line(base: str) -> None:
    assert problems(base, "a.b=1", "a=3", "a.bc=4") == [
        "command line: a.bc: cannot be reached: a is 3 on the command line; override a as a whole",
    ]


@pytest.mark.parametrize("below", ["method: lagrange", "method: {name: lagrange}"])
def test_a_bare_name_merges_as_the_name(below: str) -> None:
    base = read_text(below, "base.yaml")
    for above in ("method: {order: 3}", "method: {name: lagrange, order: 3}"):
        merged = plain(merge(base, read_text(above, "over.yaml")))["method"]
        assert merged == {"name": "lagrange", "order": 3}
    three = read_text("method: {name: lagrange, order: 3}", "over.yaml")
    kept = merge(base, three, read_text("method: lagrange", "name.yaml"))
    assert plain(kept)["method"] == {"name": "lagrange", "order": 3}
    for above in ("method: bridge", "method: {name: bridge}"):
        other = merge(base, three, read_text(above, "over.yaml"))
        assert plain(other)["method"] in ("bridge", {"name": "bridge"})


def test_a_file_is_laid_over_those_that_it_names(base: str) -> None:
    Path("one.yaml").write_text("files: base.yaml\ntraining: {steps: 4}\nsizes: [0]")
    Path("two.yaml").write_text("files: [one.yaml, other.yaml]\nsizes: [9]")
    Path("other.yaml").write_text("method: {order: 5}")
    found = read_arguments(["two.yaml", "training.rate=1"])
    assert not found.problems
    assert found.files == ("two.yaml", "one.yaml", "base.yaml", "other.yaml")
    assert plain(found.tree) == {
        "method": {"name": "lagrange", "order": 5},
        "sizes": [9],
        "training": {"steps": 4, "rate": 1},
    }
    assert origin_of(found.tree, ("training", "steps")) == "one.yaml:2"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("3", "files: must name a YAML file, or a list of them, got 3"),
        ("[base.yaml, {}]", "files: must name a YAML file, or a list of them, got ['base.yaml'"),
        ("one.yaml", "files: names one.yaml, which leads back here; take it out"),
        ("[two.yaml]", "two.yaml:1: files: names ./one.yaml, which leads back here; take it out"),
        ("nowhere.yaml", "nowhere.yaml: cannot be read: No such file or directory; check the path"),
    ],
)
def test_wrong_names_of_files(base: str, named: str, message: str) -> None:
    Path("two.yaml").write_text("files: ./one.yaml")
    Path("one.yaml").write_text(f"files: {named}")
    (problem,) = read_arguments(["one.yaml"]).problems
    assert message in str(problem)


def test_files_are_not_overridden(base: str) -> None:
    assert problems(base, "files=base.yaml") == [
        "command line: `files=base.yaml` is for YAML files; type the files' own names here"
    ]


def test_all_wrong_arguments_at_once(base: str) -> None:
    Path("twice.yaml").write_text("a: 1\na: 2")
    found = problems(base, "twice.yaml", "nowhere.yaml", "=1", "sizes.x=1")
    sources = [problem.split(": ")[0] for problem in found]
    assert sources == ["twice.yaml:2", "nowhere.yaml", "command line", "command line"]


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
    found, problems = structured(Fields, read_arguments(arguments).tree)
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


def test_structure_takes_the_tree_of_what_was_typed() -> None:
    assert structure(Fields, read("path=2026", "number=2026")).path == Path("2026")

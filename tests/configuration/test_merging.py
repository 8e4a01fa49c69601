"""Overlays and overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowbp.configuration import ConfigurationError, merge, plain, read_arguments, read_text
from flowbp.configuration.tree import origin_of

BASE = "method: {name: lagrange, order: 3}\nsizes: [1, 2]\ntraining:\n  steps: 3\n  rate: 1e-3\n"


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(BASE)
    return "base.yaml"


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_arguments(arguments)
    return [str(problem) for problem in caught.value.problems]


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
    assert plain(merge()) == plain(read_arguments([])) == {}


def test_overrides_win_wherever_they_stand_and_are_yaml(base: str) -> None:
    arguments = ["training.rate=1e-5", base, "sizes=[3, 4]", "note=two squares, no circle"]
    tree = read_arguments(arguments)
    assert plain(tree)["training"] == {"steps": 3, "rate": 1e-5}
    assert plain(tree)["sizes"] == [3, 4]
    assert plain(tree)["note"] == "two squares, no circle"
    assert origin_of(tree, ("training", "rate")) == "command line"


@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_overrides_does_not_matter(base: str, reverse: bool) -> None:
    overrides = ["method.name=bridge", "method.alpha=1"]
    tree = read_arguments([base, *(overrides[::-1] if reverse else overrides)])
    assert plain(tree)["method"] == {"name": "bridge", "alpha": 1}


def test_null_clears_and_can_be_filled(base: str) -> None:
    assert plain(read_arguments([base, "method=null"]))["method"] is None
    Path("null.yaml").write_text("method: null")
    assert plain(read_arguments(["null.yaml", "method.name=x"])) == {"method": {"name": "x"}}


def test_a_path_may_contain_an_equals_sign(base: str) -> None:
    Path("rate=1").mkdir()
    Path("rate=1/run.yaml").write_text("a: 1")
    assert plain(read_arguments(["./rate=1/run.yaml"])) == {"a": 1}


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


def test_conflicting_overrides(base: str) -> None:
    assert problems(base, "a.b=1", "a.b=2", "a=3", "a.bc=4") == [
        "command line: `a.b` is given twice; keep one of them",
        "command line: `a` is given together with `a.b`; keep one of them",
    ]


def test_all_wrong_arguments_at_once(base: str) -> None:
    Path("twice.yaml").write_text("a: 1\na: 2")
    found = problems(base, "twice.yaml", "nowhere.yaml", "=1", "sizes.x=1")
    sources = [problem.split(": ")[0] for problem in found]
    assert sources == ["twice.yaml:2", "nowhere.yaml", "command line", "command line"]

"""Values that depend on another value: the `by` blocks of files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flowbp.configuration import ConfigurationError, Tree, plain, read_arguments
from flowbp.configuration.tree import origin_of

FILES = {
    "small": "backbone: {name: small}",
    "large": "backbone: {name: large, source: here}",
    "other": "backbone: {name: other}",
    "bridge": """
method: {name: bridge, active: 1}
by:
  backbone.name:
    small: {method: {active: 5, alpha: 0.5}}
    large: {method: {active: 3}}
""",
    "sparse": "{method: {name: sparse}, by: {backbone.name: {small: {method: {bias: 4}}}}}",
    "leap": """
method: {name: leap}
by:
  method.name:
    leap:
      rate: 1
      by:
        backbone.name:
          small: {sampling: {detach: false}}
""",
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        Path(name).write_text(text)


def read(*arguments: str) -> Tree:
    return read_arguments(arguments)


def values(*arguments: str) -> Any:
    return plain(read(*arguments))


def problems(text: str, *others: str) -> list[str]:
    Path("wrong").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read_arguments(["wrong", *others])
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("typed", [("small", "bridge"), ("bridge", "small")])
def test_a_case_is_chosen_in_either_order(typed: tuple[str, ...]) -> None:
    assert values(*typed) == {
        "backbone": {"name": "small"},
        "method": {"name": "bridge", "active": 5, "alpha": 0.5},
    }


def test_every_value_keeps_the_line_it_stands_in() -> None:
    tree = read("bridge", "small")
    assert origin_of(tree, ("method", "active")) == "bridge:5"
    assert origin_of(tree, ("method", "name")) == "bridge:2"
    assert origin_of(tree, ("backbone", "name")) == "small:1"


def test_a_value_without_a_case_chooses_nothing() -> None:
    assert values("other", "bridge")["method"] == {"name": "bridge", "active": 1}
    assert values("other", "bridge", "backbone=null")["method"] == {"name": "bridge", "active": 1}
    assert values("other", "bridge", "backbone.name=null")["method"]["active"] == 1


def test_what_is_typed_or_named_last_decides() -> None:
    for last in ("large", "backbone.name=large", "backbone={name: large}"):
        assert values("small", "bridge", last)["method"] == {"name": "bridge", "active": 3}


def test_later_files_and_overrides_win_over_a_case() -> None:
    Path("mine").write_text("method: {active: 7}")
    assert values("bridge", "small", "mine")["method"]["active"] == 7
    assert values("bridge", "mine", "small")["method"]["active"] == 7
    assert values("mine", "bridge", "small")["method"]["active"] == 5
    assert values("method.active=9", "bridge", "small", "mine")["method"]["active"] == 9


def test_another_method_leaves_nothing_of_the_first() -> None:
    assert values("small", "bridge", "sparse")["method"] == {"name": "sparse", "bias": 4}
    assert values("bridge", "sparse", "small")["method"] == {"name": "sparse", "bias": 4}
    assert values("small", "bridge", "method.name=other")["method"] == {"name": "other"}


def test_both_conditions_of_nested_blocks_must_hold() -> None:
    assert values("leap", "small")["sampling"] == {"detach": False}
    assert values("leap", "small")["rate"] == 1
    assert "sampling" not in values("leap", "large")
    assert values("leap", "large")["rate"] == 1
    for later in ("sparse", "bridge"):
        for files in (("leap", "small", later), ("leap", later, "small")):
            assert {"sampling", "rate"}.isdisjoint(values(*files))


def test_cases_of_one_file_are_laid_in_the_order_written() -> None:
    Path("two").write_text(
        "{a: x, b: y, c: 0, by: {a: {x: {c: 1, d: 1}}, b: {y: {c: 2}, z: {c: 3}}}}"
    )
    assert values("two") == {"a": "x", "b": "y", "c": 2, "d": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("by: 3", "wrong:1: by: must map deciding keys to their cases, got 3"),
        ("by:\n  model:", "wrong:2: by.model: must map values of model to what they set, got None"),
        ("by:\n  model:\n    x: 3", "wrong:3: by.model.x: must map keys to values, got 3"),
        ("by:\n  model:\n    x: {}", "wrong:3: by.model.x: must map keys to values, got {}"),
        ("by:\n  a[0]: {x: {b: 1}}", "wrong:2: by.a[0]: is no dotted key, such as backbone.name"),
        (
            "m: x\nby: {m: {x: {by: {m: {y: {b: 1}}}}}}",
            "wrong:2: by.m.x.by.m: lies in a case of m already",
        ),
        (
            "backbone: {name: x}\nby:\n  backbone.nmae: {x: {b: 1}}",
            "wrong:3: by.backbone.nmae: decides on backbone.nmae, which nothing gives. "
            "Did you mean `backbone.name`? Correct the key, or give it",
        ),
        ("by:\n  model: {x: {b: 1}}", "wrong:2: by.model: decides on model, which nothing gives"),
        (
            "a: 3\nby:\n  a: {x: {b: 1}}",
            "wrong:3: by.a: decides on a, which is 3 in wrong:1; only text decides",
        ),
        ("a: {name: x}\nby:\n  a: {x: {b: 1}}", "only text decides, such as a.name of a component"),
        ("a: 3\nby:\n  a.name: {x: {b: 1}}", "decides on a.name, which nothing gives"),
    ],
)
def test_wrong_blocks(text: str, message: str) -> None:
    (problem,) = problems(text)
    assert message in problem


@pytest.mark.parametrize(
    ("case", "path"),
    [
        ("backbone: {name: y}", "backbone.name"),
        ("backbone: null", "backbone"),
        ("method: {name: other}", "method.name"),
        ("method: {kind: {deeper: 1}}", "method.kind.deeper"),
        ("method: {kind: y}", "method.kind"),
    ],
)
def test_no_case_may_set_what_decides(case: str, path: str) -> None:
    Path("kinds").write_text("{method: {kind: x}, by: {method.kind: {x: {seed: 1}}}}")
    (problem,) = problems(f"by:\n  backbone.name:\n    small:\n      {case}", "small", "kinds")
    assert problem.startswith(f"wrong:4: by.backbone.name.small.{path}: sets ")
    assert "decides; set it outside of `by`" in problem


def test_all_that_is_wrong_at_once() -> None:
    assert len(problems("by: {a: 3, b: {x: 3}, c d: {x: {d: 1}}}")) == 3
    assert len(problems("by: {a: 3}", "nowhere", "a..b=3")) == 3
    # What the missing file decides is not asked for.
    assert problems("a: 1", "bridge", "nowhere") == [
        "nowhere: cannot be read: No such file or directory; check the path"
    ]


def test_the_command_line_has_no_block() -> None:
    for typed in ("by={a: {x: {b: 1}}}", "by.a=3"):
        (problem,) = problems("a: x", typed)
        assert "sets `by`, which only files hold" in problem


def test_files_are_found_by_what_is_given() -> None:
    assert plain(read_arguments(["SMALL"], find=lambda typed: Path(typed.lower()))) == {
        "backbone": {"name": "small"}
    }

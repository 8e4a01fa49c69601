"""Names: built in, entry points of installed distributions, dotted paths."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flowbp.config import Component, Registry

from . import widgets
from .widgets import HERE, METHODS

MODULE = """
import attrs

@attrs.frozen
class Mine:
    strength: float = 1.0
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_plugin.py").write_text(MODULE)
    (tmp_path / "my_broken_plugin.py").write_text("import something_not_installed")
    folder = tmp_path / "my_distribution-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: my-distribution\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(
        "[widgets.methods]\nmine = my_plugin:Mine\nbroken = my_broken_plugin:Mine\n"
        "bridge = my_plugin:Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


def refusal(name: str) -> str:
    with pytest.raises(ValueError) as caught:
        METHODS.resolve(name)
    return str(caught.value)


def test_built_in() -> None:
    assert METHODS.resolve("bridge") is widgets.Bridge
    assert METHODS.names() == ("bridge", "lagrange", "halve")


def test_dotted_path() -> None:
    assert METHODS.resolve(f"{HERE}:LoudEngine.from_pretrained")("a", "b").arguments[0] == "a"


@pytest.mark.usefixtures("plugin")
def test_entry_point() -> None:
    assert METHODS.resolve("mine")().strength == 1.0
    assert METHODS.names() == ("bridge", "lagrange", "halve", "broken", "mine")


@pytest.mark.usefixtures("plugin")
def test_entry_point_that_fails_to_import_names_its_distribution() -> None:
    assert refusal("broken") == (
        "the method `broken` of the distribution my-distribution cannot be imported from "
        "my_broken_plugin:Mine (ModuleNotFoundError: No module named 'something_not_installed'); "
        "repair or uninstall it"
    )


@pytest.mark.usefixtures("plugin")
def test_a_name_with_two_sources_is_refused() -> None:
    assert refusal("bridge") == (
        "the method `bridge` comes from flowbp itself and from the distribution my-distribution; "
        "write package.module:Class instead of the name"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:Class", "'nowhere:Class' cannot be imported (ModuleNotFoundError: No module"),
        (f"{HERE}:Absent", "has no attribute 'Absent'"),
        (f"{HERE}:Bridges", "'Bridges'). Did you mean `Bridge`? Correct the path or install what"),
        ("flowbp.cores:Bridge", "'flowbp.cores'). Did you mean `core`? Correct the path"),
        ("a b:C", "'a b:C' is not a dotted path; write package.module:Class"),
        (f"{HERE}:HERE", "is a str; name a class or a function"),
        ("sparse", "no method is called 'sparse'. Names: `bridge`, `lagrange`, `halve`; or"),
    ],
)
def test_refusals(name: str, message: str) -> None:
    assert message in refusal(name)


def test_names_of_targets() -> None:
    assert METHODS.name_of(widgets.Lagrange) == "lagrange"
    assert METHODS.name_of(widgets.Optimizer) == f"{HERE}:Optimizer"
    with pytest.raises(ValueError, match="is not a dotted path"):
        METHODS.name_of(lambda: None)


def test_targets_are_checked_at_construction() -> None:
    with pytest.raises(ValueError, match=re.escape("`targets` must map names to package.module")):
        Registry("method", {"a": "no.colon"}, builds=int, entry_points="x")


def test_a_collaborator_cannot_replace_an_argument() -> None:
    with pytest.raises(TypeError, match="source"):
        Component("any", widgets.any_options, {"source": "a"}).build(source="b")


def scored(images: object, prompts: object, scale: float = 1.0) -> float:
    return scale


class Scorer:
    def __init__(self, images: object, prompts: object) -> None: ...

    def __call__(self, images: object, prompts: object) -> float:
        return 2.0


scorer = Scorer(None, None)


def makes_one(images: str, device: str) -> str:
    return images


def test_what_is_called_as_a_component_is_one() -> None:
    called = frozenset({"images", "prompts"})
    registry = Registry("scorer", {}, builds=Scorer, entry_points="none", called_with=called)
    assert registry.is_ready(scored) and registry.is_ready(scorer)
    # A class makes one, whatever its constructor takes.
    assert not registry.is_ready(Scorer) and not registry.is_ready(makes_one)
    assert not METHODS.is_ready(scored)
    assert Component("mine", scored, ready=True).build(device="cpu") is scored

"""Trees into typed values: what is accepted, and every message of what is not."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import pytest

from flowbp.config import (
    Component,
    ConfigurationError,
    Registry,
    dump,
    merge,
    read_text,
    structure,
    tree_of,
    unstructure,
)
from flowbp.config.command_line import read_arguments
from flowbp.config.partial import Partial, UnknownValueError, run_check
from flowbp.config.structuring import structured
from flowbp.validators import integer

from . import widgets
from .widgets import (
    HERE,
    METHODS,
    REGISTRIES,
    SCALARS,
    Bridge,
    Colour,
    Dirichlet,
    Lagrange,
    Run,
    Uniform,
)

VALID = "training: {steps: 3}\nmethod: {name: bridge}\n"
FULL = f"""
training: {{steps: 3, optimizer: {{learning_rate: 1e-5}}}}
method: {{name: bridge, pair: {{name: dirichlet, end: 2.5, gap: 6}}}}
engine: {{name: loud, source: "1e-5", pair: {{name: uniform}}}}
methods: [{{name: "{HERE}:Lagrange"}}, {{name: bridge}}]
rule: {{name: halve}}
colour: blue
folder: a/b
weights: {{b: 1, a: 2}}
ratio: 2/3
seed: "7"
extra: [{{x: null}}]
"""


def load(text: str, cls: type[Any] = Run) -> Any:
    tree = read_text(text, "run.yaml")
    return structure(cls, tree, registries=REGISTRIES, scalars=SCALARS)


def problems(text: str, cls: type[Any] = Run) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(text, cls)
    return [str(problem) for problem in caught.value.problems]


def problem(line: str, cls: type[Any] = Run) -> str:
    (only,) = problems(VALID + line, cls)
    return only.removeprefix("run.yaml:3: ")


def test_a_whole_configuration() -> None:
    run = load(
        """
        training: {steps: 3, optimizer: {learning_rate: 1, betas: [0.5, 1]}}
        method: {name: bridge, active: 3, pair: {name: dirichlet, end: 2.5, gap: 6}}
        methods: [{name: lagrange, order: 4}, {name: bridge}]
        rule: {name: halve}
        colour: blue
        mode: 1
        folder: runs/one
        sizes: [1, 2]
        weights: {clip: 1, "no": 2.5}
        ratio: 1/3
        seed: seven
        extra: {anything: [1]}
        """
    )
    assert run.training.optimizer == widgets.Optimizer(1.0, (0.5, 1.0))
    assert isinstance(run.training.optimizer.learning_rate, float)
    assert run.method == Bridge(active=3, pair=Dirichlet(2.5, 6.0))
    assert run.methods == (Lagrange(order=4), Bridge())
    assert run.rule is widgets.halve
    assert (run.colour, run.mode, run.folder) == (Colour.BLUE, 1, Path("runs/one"))
    assert (run.sizes, run.weights) == ((1, 2), {"clip": 1.0, "no": 2.5})
    assert (run.ratio, run.seed, run.extra) == (Fraction(1, 3), "seven", {"anything": [1]})


def test_a_bare_name_is_a_component_without_keys() -> None:
    assert load("training: {steps: 3}\nmethod: bridge\nmethods: [lagrange]\nrule: halve") == load(
        VALID + "methods: [{name: lagrange}]\nrule: {name: halve}"
    )
    merged = merge(read_text(VALID, "a"), read_text("method: {active: 3}", "b"))
    assert structure(Run, merged, registries=REGISTRIES).method == Bridge(active=3)


def test_a_bare_name_is_none_of_a_section() -> None:
    over = merge(read_text(VALID, "a"), read_text("training: fast", "b"))
    with pytest.raises(ConfigurationError) as caught:
        structure(Run, over, registries=REGISTRIES)
    assert [str(each) for each in caught.value.problems] == [
        "a:1: training: must be a mapping, got 'fast' with `steps` below it; write its keys below "
        "it"
    ]
    under = merge(read_text(f"{VALID}folder: x\nweights: y", "a"))
    under = merge(under, read_text("folder: {z: 1}\nweights: {z: 1}", "b"))
    with pytest.raises(ConfigurationError) as caught:
        structure(Run, under, registries=REGISTRIES)
    assert [str(each) for each in caught.value.problems] == [
        "a:3: folder: must be a path, got 'x' with `z` below it",
        "a:4: weights: must be a mapping, got 'y' with `z` below it",
    ]


def test_null_clears_a_section_that_has_a_default() -> None:
    assert load(f"{VALID}weights: null") == load(VALID)
    assert problem("verbose: null") == "verbose: must be true or false, got None"
    assert problems("training: null\nmethod: null") == [
        "run.yaml:1: training: must be a mapping, got None; write its keys below it",
        "run.yaml:2: method: must be the name of a method, or a mapping with its `name`, got None; "
        "names: `bridge`, `lagrange`, `halve`",
    ]


def test_defaults() -> None:
    assert load(VALID) == Run(widgets.Training(3), Bridge())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("verbose: 1", "verbose: must be true or false, got 1"),
        ("sizes: [true]", "sizes[0]: must be an integer, got True"),
        ("sizes: ['3']", "sizes[0]: must be an integer, got '3'; remove the quotes"),
        ("sizes: [1e3]", "sizes[0]: must be an integer, got 1000.0; write 1000"),
        ("sizes: [1.5]", "sizes[0]: must be an integer, got 1.5"),
        ("sizes: abc", "sizes: must be a list, got 'abc'"),
        ("weights: {a: '1e-5'}", "weights.a: must be a number, got '1e-5'; remove the quotes"),
        ("weights: {a: false}", "weights.a: must be a number, got False"),
        ("weights: {a: fast}", "weights.a: must be a number, got 'fast'"),
        ("weights: [1]", "weights: must be a mapping, got [1]"),
        ("folder: 3", "folder: must be a path, got 3"),
        (f"folder: runs/{'é' * 128}/a", "folder: holds the name éééééééé… of 256 bytes, and file"),
        (f"place: {'a' * 256}", "place: holds the name aaaaaaaa… of 256 bytes, and file systems"),
        ("colour: green", "colour: must be 'red' or 'blue', got 'green'"),
        ("mode: true", "mode: must be 'fast' or 'exact' or 1, got True"),
        ("seed: 1.5", "seed: must be an integer or text, got 1.5"),
        ("ratio: half", "ratio: Invalid literal for Fraction: 'half'"),
        ("methods: {name: bridge}", "methods: must be a list, got {'name': 'bridge'}"),
        ("methods: [3]", "methods[0]: must be the name of a method, or a mapping with its `name`"),
        ("methods: [{active: 3}]", "methods[0]: must be the name of a method, or a mapping with"),
        ("methods: [brigde]", "methods[0]: no method is called 'brigde'. Did you mean `bridge`?"),
        ("methods: [{name: 3}]", "methods[0].name: must be text, got 3; names: `bridge`"),
        ("rule: {name: halve, x: 1}", "rule: names the function 'halve', which takes no keys"),
    ],
)
def test_wrong_values(line: str, message: str) -> None:
    assert problem(line).startswith(message)


def test_a_sentence_may_be_longer_than_a_name() -> None:
    sentence = "How good is it? " * 40
    assert load(f"{VALID}place: {sentence}").place == sentence.strip()
    assert load(f"{VALID}folder: {'a' * 255}/{'b' * 255}").folder.name == "b" * 255


def test_text_must_be_text() -> None:
    text = "source: 1e3"
    with pytest.raises(ConfigurationError, match=r"source: must be text, got 1000\.0; put it in"):
        load(text, attrs.make_class("Text", {"source": attrs.field(type=str)}))


def test_fixed_tuples_have_their_length() -> None:
    assert problems("training: {steps: 1, optimizer: {betas: [1]}}\nmethod: {name: bridge}") == [
        "run.yaml:1: training.optimizer.betas: must be a list of 2 items, got [1]"
    ]
    assert problems("training: {steps: 1, optimizer: {betas: [1, x]}}\nmethod: {name: bridge}") == [
        "run.yaml:1: training.optimizer.betas[1]: must be a number, got 'x'"
    ]


def test_unknown_key_names_the_nearest_and_all() -> None:
    text = "training:\n  steps: 3\n  optimizer:\n    learning_rat: 1\nmethod: {name: bridge}"
    assert problems(text) == [
        "run.yaml:4: training.optimizer.learning_rat: is an unknown key. "
        "Did you mean `learning_rate`? Valid keys: `learning_rate`, `betas`"
    ]
    assert "is an unknown key. Valid keys: `training`, " in problem("zzz: 1")


def test_unknown_key_where_there_are_none() -> None:
    found = problem("methods: [{name: bridge, pair: {name: uniform, end: 1}}]")
    assert found == ("methods[0].pair.end: is an unknown key, there are none here; remove it")


def test_missing_key_has_the_origin_of_its_parent() -> None:
    assert problems("verbose: true\ntraining:\n  optimizer: {}\n") == [
        "run.yaml:2: training.steps: is missing; it has no default",
        "run.yaml:1: method: is missing; it has no default",
    ]


def test_a_section_must_be_a_mapping() -> None:
    assert problems("training: 3\nmethod: {name: bridge}") == [
        "run.yaml:1: training: must be a mapping, got 3; write its keys below it"
    ]


def test_every_validator_of_a_class_speaks() -> None:
    text = "training: {steps: 3}\nmethod:\n  name: bridge\n  active: 0\n  alpha: 3\n"
    first, second = problems(text)
    assert first == "run.yaml:4: method.active: must be >= 1, got 0"
    assert second.startswith("run.yaml:5: method.alpha: must be in [0.0, 0.5, 1.0] (got 3.0)")


def test_validators_speak_beside_wrong_types() -> None:
    text = "training: {steps: 3}\nmethod:\n  name: bridge\n  active: 0\n  alpha: x\n"
    assert [found.split(":")[1] for found in problems(text)] == ["5", "4"]


def test_a_validator_that_compares_waits_for_its_sibling() -> None:
    assert problem("methods: [{name: lagrange, order: 2, active: 5}]") == (
        "methods[0].active: must be <= order=2, got 5"
    )
    assert problem("methods: [{name: lagrange, order: x, active: 5}]") == (
        "methods[0].order: must be an integer, got 'x'"
    )


def test_a_constructor_that_refuses_is_placed_at_the_field_it_names() -> None:
    assert problem("methods:\n- name: lagrange\n  order: 13") == (
        "run.yaml:5: methods[0].order: must not be 13, got 13"
    )


def test_unknown_component() -> None:
    assert problem("methods: [{name: brigde}]") == (
        "methods[0].name: no method is called 'brigde'. Did you mean `bridge`? "
        "Names: `bridge`, `lagrange`, `halve`; or write package.module:Class"
    )


def test_components_are_checked_and_built_later() -> None:
    engine = load(VALID + "engine: {name: loud, source: here, pair: {name: uniform}}").engine
    given = {"source": "here", "pair": Uniform()}
    assert engine == Component("loud", widgets.LoudEngine, given, defaults={"size": 1})
    assert engine.arguments == given and engine.defaults == {"size": 1}
    assert engine.build(device="cpu", unused=1).arguments == ("here", "cpu", 1, Uniform())


def test_components_by_method_and_with_free_options() -> None:
    built = load(VALID + "engine: {name: pretrained, source: here}").engine.build(device="cpu")
    assert built.arguments[0] == "here"
    free = load(VALID + "engine: {name: any, source: here, size: 3}").engine.build(device="cpu")
    assert free == ("here", {"size": 3})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "engine.source: is missing; it has no default"),
        ("source: 3", "engine.source: must be text, got 3; put it in quotes"),
        ("source: a, sise: 3", "engine.sise: is an unknown key. Did you mean `size`? Valid keys"),
        ("source: a, device: x", "engine.device: is supplied by the run and cannot be configured"),
        ("source: a, pair: {name: u}", "engine.pair.name: no pair is called 'u'"),
    ],
)
def test_component_signatures(keys: str, message: str) -> None:
    assert problem(f"engine: {{name: loud, {keys}}}").startswith(message)


def test_component_of_an_attrs_class_runs_its_validators() -> None:
    assert problem("engine: {name: bridge, active: 0}") == "engine.active: must be >= 1, got 0"


def test_annotations_that_cannot_be_evaluated() -> None:
    found = problem("engine: {name: pretrained, source: a, price: 3}")
    assert found.startswith("engine.price: is annotated `Decimal | None`, which cannot be eval")


def test_every_error_across_files_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text(
        "training:\n  steps: ten\n  optimizer:\n    learning_rat: 1e-5\n"
        "method:\n  name: bridge\n  active: 0\n"
    )
    Path("over.yaml").write_text(
        "verbos: true\nmethod:\n  pair:\n    name: dirichlet\n    end: 1\n"
    )
    tree = read_arguments(["base.yaml", "over.yaml", "method.alpha=x", "engine.name=loader"]).tree
    with pytest.raises(ConfigurationError) as caught:
        structure(Run, tree, registries=REGISTRIES, scalars=SCALARS)
    found = {(problem.origin, problem.path) for problem in caught.value.problems}
    assert found == {
        ("base.yaml:2", "training.steps"),
        ("base.yaml:4", "training.optimizer.learning_rat"),
        ("base.yaml:7", "method.active"),
        ("over.yaml:1", "verbos"),
        ("over.yaml:3", "method.pair.gap"),
        ("command line", "method.alpha"),
        ("command line", "engine.name"),
    }
    assert str(caught.value).startswith("7 problems in the configuration:\n  base.yaml:2: ")


class Schemas:
    """Classes that no configuration can fill, and what is said of them."""

    @attrs.frozen
    class Reserved:
        section: widgets.Unusable

    @attrs.frozen
    class Sets:
        values: frozenset[int]

    @attrs.frozen
    class Opaque:
        values: memoryview

    @attrs.frozen
    class Unregistered:
        values: Component[int]


@pytest.mark.parametrize(
    ("cls", "text", "message"),
    [
        (Schemas.Reserved, "section: {}", "Unusable has a field `name`, which chooses components"),
        (Schemas.Sets, "values: [1]", "YAML has no sets; annotate it as a tuple"),
        (Schemas.Opaque, "values: 1", "memoryview'>, which has no form in YAML; leave it out"),
        (Schemas.Unregistered, "values: {name: a}", "for which no registry was given; pass one"),
    ],
)
def test_fields_that_yaml_cannot_fill(cls: type[Any], text: str, message: str) -> None:
    (found,) = problems(text, cls)
    assert message in found


def test_a_bug_in_a_validator_is_not_dressed_up_as_a_users_mistake() -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    cls = attrs.make_class("Broken", {"x": attrs.field(type=int, validator=broken)})
    with pytest.raises(RuntimeError, match="a bug"):
        structure(cls, tree_of({"x": 1}, "test"))


def test_a_union_can_be_a_registrys_type() -> None:
    either: Any = Uniform | Dirichlet
    registry = Registry("pair", widgets.PAIRS.targets, builds=either, entry_points="widgets.pairs")
    cls = attrs.make_class("Either", {"pair": attrs.field(type=either | None)})
    tree = tree_of({"pair": {"name": "dirichlet", "end": 1, "gap": 2}}, "test")
    assert structure(cls, tree, registries=[registry]).pair == Dirichlet(1.0, 2.0)
    assert structure(cls, tree_of({"pair": None}, "test"), registries=[registry]).pair is None


def written_of(run: Run) -> str:
    return dump(unstructure(run, registries=REGISTRIES, scalars=SCALARS))


@pytest.mark.parametrize("text", [VALID, FULL, FULL.replace("loud", "any")])
def test_round_trip(text: str) -> None:
    run = load(text)
    written = written_of(run)
    assert load(written) == run
    assert written_of(load(written)) == written


def test_defaults_are_written_in_the_order_of_the_fields() -> None:
    written = written_of(load(VALID))
    assert written.startswith(
        "training:\n  steps: 3\n  optimizer:\n    learning_rate: 0.001\n    betas:\n"
        "    - 0.9\n    - 0.999\nmethod:\n  name: bridge\n  active: 5\n  alpha: 0.5\n"
        "  pair:\n    name: uniform\nengine: null\n"
    )


def test_a_component_made_in_python_without_a_name_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(ValueError, match="is not a dotted path"):
        METHODS.name_of(Local)


@attrs.frozen
class Words:
    """Attributes that cannot be called as their keys are."""

    global_: int = attrs.field(validator=integer(1))
    class_: str = "a"
    mine_: int = 0


def test_the_key_of_a_word_of_python_has_no_underscore() -> None:
    text = "global: 3\nclass: b\nmine_: 2\n"
    assert load(text, Words) == Words(3, "b", 2)
    assert unstructure(Words(3, "b", 2)) == {"global": 3, "class": "b", "mine_": 2}
    assert problems("global: 0", Words) == ["run.yaml:1: global: must be an integer >= 1, got 0"]
    assert "is missing" in problems("class: b", Words)[0]
    assert "Valid keys: `global`, `class`, `mine_`" in problems("global_: 3", Words)[0]
    assert Component("words", Words, {"global": 3}).build() == Words(3)


@attrs.frozen
class Places:
    path: Path
    place: str | os.PathLike[str]
    others: list[Path]
    text: str
    none: Path | None = None
    choice: str | os.PathLike[str] | None = None


def test_what_is_annotated_as_a_place_is_changed_and_texts_are_not():
    places = Places(Path("/a/b"), "/c/d", [Path("/e")], "/imagine fog", None, "owner/name")
    assert unstructure(places, place=lambda text: text.upper()) == {
        "path": "/A/B",
        "place": "/C/D",
        "others": ["/E"],
        "text": "/imagine fog",
        "none": None,
        "choice": "OWNER/NAME",
    }


@attrs.frozen
class Counts:
    limit: int
    counts: dict[str, int]


def test_sound_items_of_a_mapping_are_checked_where_others_are_refused():
    tree = read_text("limit: 3\ncounts: {one: 1, wrong: x, five: 5}", "counts.yaml")
    found, (problem,) = structured(Counts, tree)
    assert problem.path == "counts.wrong" and isinstance(found, Partial)

    def check(settings):
        for name, count in settings.counts.items():
            if count > settings.limit:
                yield name
        yield "none of them is known to be missing"

    assert list(run_check(check, found)) == ["five"]
    for ask in (len, bool, list, lambda counts: counts["wrong"], lambda counts: counts.get("two")):
        with pytest.raises(UnknownValueError):
            ask(found.counts)


def test_keys_that_were_typed_are_shown_as_read() -> None:
    tree = read_arguments(["method.active=3", "method.opts={p: [1]}"]).tree
    with pytest.raises(ConfigurationError) as caught:
        structure(Run, tree, registries=REGISTRIES)
    (text,) = (each.message for each in caught.value.problems if each.path == "method")
    assert "a mapping with its `name`, got {'active': 3, 'opts': {'p': [1]}}; names:" in text

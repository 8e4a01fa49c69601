"""Every default of every component that there is stands in the resolved configuration."""

from __future__ import annotations

import inspect
import json

import attrs
import pytest

from flowbp.cli.evaluate.preflight import load as load_evaluation
from flowbp.config import Component, plain, read_text, structure, tree_of
from flowbp.config.arguments import parameters, required
from flowbp.prompts.formats import Entry
from flowbp.prompts.table import prompt_table
from flowbp.settings import load, resolved
from flowbp.settings.registries import METRICS, REGISTRIES, SCALARS

# What has no default, or none that may stay: by the name of the key, for any component.
GIVEN = {
    "source": "owner/name",
    "head": "head.pth",
    "reward": {"name": "shapes"},
    "judge": {"name": "shapes"},
    "parts": {"a": {"reward": {"name": "shapes"}, "mean": 0, "std": 1}},
    "path": "flowbp/cli/init/prompts.txt",
    "dataset": "owner/name",
    "column": "text",
    "split": "train",
    "question": "Is this {prompt}?",
    "template": "Is this {prompt}?",
    "at_least": 0.5,
    "end": 2.5,
    "gap": 6,
    "start": 2,
    "sigmas": [1, 0.5],
    "target": 0.5,
    "value": 0.5,
    "count": 12,
    "method": {"name": "sparse"},
    "rank": 4,
    "steps": 2,
    "num_warmup_steps": 0,
    "num_decay_steps": 1,
}
# Of one component alone.
OF_ONE = {"variant": {"method": {"name": "bridge"}, "alpha": 0.2}}
# Code and facts of ours, which no YAML can set.
FORMLESS = {"clean", "published"}
NAMED = [(registry, name) for registry in REGISTRIES for name in registry.own_names()]
DEFERRED = {"backbone", "reward", "metric", "picture embedding", "judge", "observer"}


@pytest.fixture
def metadata(tmp_path):
    """A file of GenEval's form."""
    task = {
        "tag": "single_object",
        "include": [{"class": "bench", "count": 1}],
        "prompt": "a bench",
    }
    (tmp_path / "metadata.jsonl").write_text(json.dumps(task) + "\n")
    return str(tmp_path / "metadata.jsonl")


@pytest.fixture
def data_set(monkeypatch):
    """A data set of one column, wherever one is loaded."""
    table = prompt_table([Entry(1, "a circle", None)], origin="test", unit="row", kinds=False)
    monkeypatch.setattr("flowbp.prompts.sources.load_prompts", lambda *args, **options: table)


def written(registry, name, typed):
    """What is written of a component with the keys that are `typed`, and read again."""
    kind = Component[registry.builds] if registry.kind in DEFERRED else registry.builds
    holder = attrs.make_class("Holder", {"it": attrs.field(type=kind)}, frozen=True)
    tree = tree_of({"it": {"name": name, **typed}}, "test")
    first = structure(holder, tree, registries=REGISTRIES, scalars=SCALARS)
    text = resolved(first)
    again = structure(holder, read_text(text, "again"), registries=REGISTRIES, scalars=SCALARS)
    assert again == first and resolved(again) == text
    return plain(read_text(text, "again"))["it"]


@pytest.mark.parametrize("registry, name", NAMED, ids=lambda each: getattr(each, "kind", each))
def test_every_default_is_written_and_read_again(registry, name, metadata, data_set):
    if registry.extra == "optimizers" and name in registry.targets:
        module = registry.targets[name].partition(":")[0]
        pytest.importorskip(module, reason="the extra `optimizers` is not installed")
    target = registry.resolve(name)
    library = registry.library_of(target)
    if not isinstance(target, type) and registry.kind not in DEFERRED and library is None:
        assert written(registry, name, {}) == {"name": name}
        return
    offers = registry.offers if library is None else library.supplied
    keys = {name: p for name, p in parameters(target).items() if name not in offers}
    asked = {key for key in keys if key in {*required(target), "question", "template"}}
    typed = {key: {**GIVEN, "metadata": metadata}[key] for key in asked} | OF_ONE.get(name, {})
    found = written(registry, name, typed)
    missing = {key for key, p in keys.items() if p.kind is not p.VAR_KEYWORD} - found.keys()
    assert missing <= FORMLESS
    for key in keys.keys() - typed.keys():
        default = keys[key].default
        if isinstance(default, bool | int | float | str):
            assert found[key] == default


def test_metrics_name_the_embedding_that_they_take():
    for name in ("distance", "diversity"):
        embedding = written(METRICS, name, {})["embedding"]
        assert embedding["name"] == "clip" and embedding["source"].startswith("openai/")


def test_a_default_that_yaml_cannot_hold_is_left_out():
    found = written(METRICS, f"{__name__}:metric_with_an_object", {})
    assert found == {"name": f"{__name__}:metric_with_an_object", "share": 0.5}


def metric_with_an_object(*, share: float = 0.5, thing: object = object()):
    """A metric of one's own."""
    return lambda images, prompts: images.mean((1, 2, 3)) * share


def test_a_run_loads_what_it_wrote(yaml, tmp_path):
    first = load([yaml]).settings
    (tmp_path / "again.yaml").write_text(resolved(first))
    again = load([str(tmp_path / "again.yaml")]).settings
    assert again == first and resolved(again) == resolved(first)
    tree = plain(read_text(resolved(first), "written"))
    assert tree["backbone"]["policy"] == {"weights": "float32", "compute": "float32"}
    assert tree["backbone"]["use_t5"] is False and tree["backbone"]["clamp"] == {"name": "hard"}
    assert tree["reward"]["resize"] == {"name": "crop_shortest_side"}
    assert tree["sampling"]["grid"] == {"name": "model"}


def test_an_evaluation_loads_what_it_wrote(tmp_path):
    typed = [
        f"evaluation.folder={tmp_path / 'out'}",
        "backbone.name=shapes",
        "prompts={name: shapes, count: 12}",
        "metrics={likeness: {name: clipscore}, far: {name: distance}}",
        "sampling={steps: 4, height: 64, width: 64, grid: {name: even, shift: 3}}",
    ]
    first = load_evaluation(typed).settings
    (tmp_path / "again.yaml").write_text(resolved(first))
    assert load_evaluation([str(tmp_path / "again.yaml")]).settings == first


def test_a_given_default_is_the_same_component(yaml):
    plain_one = load([yaml]).settings.backbone
    length = inspect.signature(plain_one.target).parameters["decode_batch"].default
    assert (
        load(
            [yaml, f"backbone.decode_batch={'null' if length is None else length}"]
        ).settings.backbone
        == plain_one
    )
    assert load([yaml, "backbone.decode_batch=2"]).settings.backbone != plain_one

"""Every key is described, and is found by section, by path and by the name of a component."""

from __future__ import annotations

import re

import pytest

from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.config.problems import Rejected
from flowbp.settings import REGISTRIES, Settings
from flowbp.settings.key_reference import component, look_up, preset_values, sections
from flowbp.study.settings import StudySettings

NAMED = [(registry, name) for registry in REGISTRIES for name in registry.targets]


def bounds_alone(keys):
    """The keys of which only a range is said, which `--keys` shows anyway."""
    bound = re.compile(
        r"\W*(in|from|above|below|at (least|most)|[\W\d]+)[\W\d]*( to [\W\d]*)?", re.I
    )
    return [key.path for key in keys if bound.fullmatch(key.text)]


@pytest.mark.parametrize("root", [Settings, EvaluateSettings, StudySettings])
def test_every_key_of_every_section_is_described(root):
    keys = [key for entry in sections(root) for key in (entry.key, *entry.keys)]
    assert len(keys) > 15
    assert [key.path for key in keys if not key.text] == [], "add it under `Args:` of its class"
    assert bounds_alone(keys) == [], "say what it does"


@pytest.mark.parametrize("registry, name", NAMED, ids=lambda each: getattr(each, "kind", each))
def test_every_key_of_every_component_is_described(registry, name):
    try:
        entry = component(registry, name)
    except Rejected as error:
        pytest.skip(str(error))
    assert entry.text
    assert [key.path for key in entry.keys if not key.text] == [], "add it under `Args:` of it"
    assert bounds_alone(entry.keys) == [], "say what it does"
    assert not registry.offers.intersection(key.path for key in entry.keys)


def test_a_section_has_the_keys_of_its_class_and_of_those_in_it():
    (entry,) = look_up(["training"], Settings)
    assert entry.key.path == "training"
    assert [key.path for key in entry.keys][:3] == [
        "training.steps",
        "training.clip",
        "training.sample_clip",
    ]
    assert "training.averaging.decay" in {key.path for key in entry.keys}
    (same,) = look_up(["training.clip"], Settings)
    assert same.key == look_up(["training", "clip"], Settings)[0].key == entry.keys[1]


def test_components_are_found_by_section_and_by_kind():
    by_section, by_kind = (look_up([word, "hinge"], Settings) for word in ("loss", "loss_shape"))
    assert by_section == by_kind and by_section[0].keys[0].path == "loss.target"
    (entry,) = look_up(["metric", "pickscore"], Settings)
    assert {key.path for key in entry.keys} >= {"evaluation.metrics.LABEL.source"}
    (entry,) = look_up(["metric", "diversity"], EvaluateSettings)
    assert entry.keys[0].path == "metrics.LABEL.embedding"
    # In no section: only other components name it.
    (entry,) = look_up(["pair_draw", "dirichlet"], Settings)
    assert entry.keys[0].path == "end"
    assert "hpsv2" in look_up(["metric"], Settings)[0].names


def test_a_component_of_ones_own_is_found_by_its_dotted_path():
    (entry,) = look_up(["reward", f"{__name__}:Mine"], Settings)
    assert [(key.path, key.text) for key in entry.keys] == [("reward.sharp", "How sharp it is.")]


class Mine:
    """A reward of one's own.

    Args:
        sharp: how sharp it is.
    """

    def __init__(self, *, sharp: float, device: str):
        self.sharp = sharp

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3)) * self.sharp


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["metod"], ["'metod'", "Did you mean `method`?", "Sections: `run`", "`pair_draw`"]),
        (["method", "bridg"], ["'bridg'", "Did you mean `bridge`?"]),
        (["training", "rate"], ["'rate'", "`training.steps`"]),
        (["method", "bridge", "alpha"], ["'method bridge alpha'", "leave out"]),
        (["reward", "os:system"], ["os:system"]),
        (["reward", "nowhere:Mine"], ["nowhere", "cannot be imported"]),
    ],
)
def test_what_there_is_not_is_refused_with_the_nearest(words, pieces):
    with pytest.raises(Rejected) as caught:
        look_up(words, Settings)
    assert all(piece in str(caught.value) for piece in pieces), caught.value


def values(*words: str) -> dict[str, tuple[str, ...]]:
    (entry,) = look_up(words[:2] if len(words) > 2 else words, Settings)
    keys = {key.path: key for key in (entry.key, *entry.keys) if key}
    return preset_values(keys[words[-1]], entry.component)


def test_presets_are_those_that_set_the_key():
    (models,) = values("training.steps").values()
    assert {"flux1_dev", "flux2_klein", "sd35_medium"} <= {*models}
    assert values("method")["refl"] == ("*/refl",)
    assert values("method", "sparse", "method.active") == {
        "3": ("flux1_dev/sparse",),
        "4": ("flux2_klein/sparse", "sd35_medium/sparse"),
    }
    # `active` of other methods is another key.
    assert values("method", "drtune", "method.active") == {"3": ("*/drtune",)}
    assert values("loss", "hinge", "loss.target") == {"0.55": ("hpsv2",)}
    assert values("training.sample_clip") == {}
    everywhere = {name for names in values("batching.samples").values() for name in names}
    assert "flux2_klein/draft_lv" in everywhere

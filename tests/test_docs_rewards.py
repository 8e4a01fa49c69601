"""What docs/rewards.md shows runs, and what it lists is what there is."""

from __future__ import annotations

import re
import sys

import pytest

from flowbp.config import Component
from flowbp.settings import REGISTRIES, load

from .pages import ROOT, blocks, run_python, write_modules

NAME = "docs/rewards.md"
PAGE = (ROOT / NAME).read_text()


@pytest.fixture
def my_rewards(tmp_path, monkeypatch):
    write_modules("docs/extending/reward.md", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    # Another test's module of this name is another module.
    sys.modules.pop("my_rewards", None)


def test_python_runs(my_rewards):
    assert len(blocks(NAME, "python")) == 1
    run_python(NAME)


def loaded(yaml, tmp_path, number, *typed):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(blocks(NAME, "yaml")[number])
    return load([yaml, str(overlay), *typed]).settings


def test_words_load(yaml, tmp_path, monkeypatch):
    assert loaded(yaml, tmp_path, 0).reward.arguments["region"] == (0.1, 0.4, 0.9, 0.6)
    (tmp_path / "signs.txt").write_text('a sign that says "OPEN"')
    monkeypatch.chdir(tmp_path)
    settings = loaded(yaml, tmp_path, 1)
    assert [settings.judge.name, settings.evaluation.metrics["words"].name] == ["ppocr"] * 2


def test_a_weighted_sum_loads(my_rewards, yaml, tmp_path):
    reward = loaded(yaml, tmp_path, 2, "reward.parts.sharp.weight=0.3").reward
    assert [part.weight for part in reward.arguments["parts"].values()] == [1.0, 0.3]


@pytest.mark.parametrize("kind", ["reward", "loss shape"])
def test_every_name_is_in_a_table(kind):
    (registry,) = (each for each in REGISTRIES if each.kind == kind)
    for name in registry.targets:
        assert f"| `{name}` |" in PAGE, name


def test_the_repositories_of_every_published_reward_are_told(monkeypatch):
    monkeypatch.setattr("flowbp.source_files.is_offline", lambda: True)
    monkeypatch.setattr("flowbp.source_files.cached_file", lambda *_: None)
    from flowbp.settings.component_needs import missing_needs

    names = ("aesthetic", "clipscore", "hpsv2", "image_reward", "pickscore")
    (rewards,) = (each for each in REGISTRIES if each.kind == "reward")
    for name in names:
        faults = [fault for _, fault in missing_needs(Component(name, rewards.resolve(name)))]
        places = {re.match(r"`\w+` '([^']+)'", fault)[1] for fault in faults}
        assert places and all(place in PAGE for place in places), name
        assert all(f"https://huggingface.co/{place}" in " ".join(faults) for place in places)

"""What docs/rewards.md shows runs, and what it lists is what there is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from flowbp.config import Component
from flowbp.settings import REGISTRIES, load

PAGE = (Path(__file__).parents[1] / "docs" / "rewards.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, flags=re.M | re.S)


@pytest.fixture
def my_rewards(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(blocks("python")[0])
    monkeypatch.syspath_prepend(tmp_path)
    yield
    # Another test's module of this name is another module.
    sys.modules.pop("my_rewards", None)


def test_python_runs(my_rewards):
    examples = blocks("python")[1:]
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "rewards.md", "exec"), {})


@pytest.mark.parametrize("number", range(2))
def test_yaml_loads(my_rewards, yaml, tmp_path, number):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text(blocks("yaml")[number])
    reward = load([yaml, str(overlay)]).settings.reward
    assert reward.name in ("my_rewards:Colour", "weighted")
    if number:
        typed = load([yaml, str(overlay), "reward.parts.sharp.weight=0.3"]).settings.reward
        assert [part.weight for part in typed.arguments["parts"].values()] == [1.0, 0.3]
    else:
        assert reward.build(device="cpu").wanted.tolist() == pytest.approx([0.8, 0.2, 0.2])


@pytest.mark.parametrize("kind", ["reward", "loss shape"])
def test_every_name_is_in_a_table(kind):
    (registry,) = (each for each in REGISTRIES if each.kind == kind)
    for name in registry.targets:
        assert f"| `{name}` |" in PAGE, name


def test_the_repositories_of_every_published_reward_are_told(monkeypatch):
    monkeypatch.setattr("flowbp.hub.is_offline", lambda: True)
    monkeypatch.setattr("flowbp.hub.cached_file", lambda *_: None)
    from flowbp.settings.component_needs import missing_needs

    names = ("aesthetic", "clipscore", "hpsv2", "image_reward", "pickscore")
    (rewards,) = (each for each in REGISTRIES if each.kind == "reward")
    for name in names:
        faults = [fault for _, fault in missing_needs(Component(name, rewards.resolve(name)))]
        places = {re.match(r"`\w+` '([^']+)'", fault)[1] for fault in faults}
        assert places and all(place in PAGE for place in places), name
        assert all(f"https://huggingface.co/{place}" in " ".join(faults) for place in places)

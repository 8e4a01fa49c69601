"""What metrics read is checked without loading it: files, packages, the hub and its cache."""

from __future__ import annotations

import re
import shutil
import sys

import huggingface_hub
import pytest
import safetensors.torch
import torch
import transformers
from huggingface_hub import errors

from flowbp.config import Component
from flowbp.evaluation import HeldOutPrompt
from flowbp.rewards import Need, PublishedFile, Towers
from flowbp.rewards.pretrained import check_whole
from flowbp.settings.component_needs import (
    locations_read,
    missing_needs,
    needs_of,
    reads,
    towers_of,
    unsuitable,
)
from flowbp.settings.registries import METRICS, REWARDS
from flowbp.settings.weighted_reward import PartSettings
from tests.evaluation.metrics.geneval.tiny import save as save_detector
from tests.evaluation.metrics.test_vision_chat import qwen25

from ..evaluation.metrics.test_vision_chat import save as save_judge
from ..rewards.published_rewards import published, save_head, save_hps
from ..rewards.tiny_hpsv3 import TINY, original
from ..rewards.tiny_hpsv3 import save as save_hpsv3
from ..rewards.tiny_image_reward import save as save_image_reward


@pytest.fixture
def arguments(tmp_path, models):
    """What each name that reads files needs, on files in the published layouts."""
    clip = shutil.copytree(models / "reward", tmp_path / "clip")
    hps, words = save_hps(tmp_path / "hps.pt"), tmp_path / "words"
    words.mkdir()
    image = save_image_reward(words)
    save_detector(tmp_path / "detector")
    save_judge(tmp_path / "judge", qwen25)
    head = save_head(tmp_path / "head.pth", 8)
    return {
        "aesthetic": dict(source=head, clip=clip),
        "clip": dict(source=clip),
        "clipscore": dict(source=clip),
        "distance": dict(embedding=named("clip", METRICS, source=clip)),
        "diversity": dict(embedding=named("clip", METRICS, source=clip)),
        "geneval": dict(metadata=tmp_path / "none", source=tmp_path / "detector", clip=clip),
        "hpsv2": dict(source=hps, tokenizer=clip, published=published(hps)),
        "hpsv3": dict(source=save_hpsv3(tmp_path, original()), tokenizer=clip, sizes=TINY),
        "image_reward": dict(source=image, tokenizer=words, published=published(image)),
        "pickscore": dict(source=clip),
        "unified_reward": dict(source=tmp_path / "judge", question="{prompt}?"),
        "weighted": dict(parts={"a": PartSettings(reward=named("clip", REWARDS, source=clip))}),
    }


def named(name, registry=METRICS, **arguments):
    if name == "clip" and registry is METRICS:
        from flowbp.evaluation.metrics import clip_embedding

        return Component(name, clip_embedding, arguments)
    return Component(name, registry.resolve(name), arguments)


def told(component):
    return [message for _, message in missing_needs(component, ("metrics", "mine"))]


NAMES = (
    *("aesthetic", "clip", "clipscore", "distance", "diversity", "geneval", "hpsv2", "hpsv3"),
    *("image_reward", "pickscore", "unified_reward", "weighted"),
)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_metric_reads_is_checked_and_not_loaded(name, arguments, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    component = Component(name, METRICS.resolve(name), arguments[name])
    assert told(component) == []
    weights = {need.tower for _, need in needs_of(component)} - {None}
    assert weights
    for place in weights:
        file = next(place.glob("*.safetensors")) if place.is_dir() else place
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        (fault,) = told(component)
        assert str(file) in fault and "again" in fault
        file.write_bytes(whole)
    assert told(component) == []


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"weighted", "geneval", "hpsv3", "hpsv2"}))
def test_the_towers_are_those_that_are_loaded(name, arguments):
    if name == "image_reward":
        from ..rewards.tiny_image_reward import TINY

        arguments[name]["sizes"] = TINY
    if name == "aesthetic":
        width = transformers.CLIPConfig.from_pretrained(arguments[name]["clip"]).projection_dim
        save_head(arguments[name]["source"], width)
    component, towers = Component(name, METRICS.resolve(name), arguments[name]), Towers()
    metric = component.build(label="mine", device="cpu", towers=towers)
    towers.hold({need.tower for _, need in needs_of(component)} - {None})
    assert len(towers) == 1
    del metric
    assert len(towers) == 1


def test_files_of_another_model_are_no_hpsv3(arguments):
    from flowbp.rewards import HPSv3

    change = arguments["hpsv3"] | {"source": arguments["clip"]["source"]}
    (fault,) = told(Component("hpsv3", HPSv3, change))
    assert "model.safetensors does not hold HPSv3: it lacks body." in fault


def test_packages_are_named_with_the_command(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    component = Component("geneval", METRICS.resolve("geneval"), arguments["geneval"])
    (fault,) = told(component)
    assert 'pip install "flowbp-align[geneval]"' in fault


def test_a_known_hash_is_compared(arguments):
    known = arguments["hpsv2"]["published"]
    other = PublishedFile(
        repository=known.repository, name=known.name, size=known.size, sha256="0" * 64
    )
    change = arguments["hpsv2"] | {"published": other}
    (fault,) = told(Component("hpsv2", METRICS.resolve("hpsv2"), change))
    assert "has sha256" in fault and "verify=false" in fault
    assert told(Component("hpsv2", METRICS.resolve("hpsv2"), change | {"verify": False})) == []


@pytest.mark.parametrize(
    ("remove", "fault"),
    [
        ("config.json", "which has no config.json"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "holds no tokenizer|holds neither"),
    ],
)
def test_a_folder_that_lacks_files(arguments, remove, fault):
    folder = arguments["clip"]["source"]
    for path in [folder / remove, *(folder.glob("vocab.json") if "tok" in remove else ())]:
        path.unlink()
    found = told(Component("clip", METRICS.resolve("clip"), arguments["clip"]))
    assert len(found) == 1
    assert re.search(fault, found[0])


def test_a_missing_shard(arguments):
    folder = arguments["clip"]["source"]
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "second.bin"}}')
    (fault,) = told(Component("clip", METRICS.resolve("clip"), arguments["clip"]))
    assert "lacks second.bin" in fault


@pytest.mark.parametrize(
    ("raised", "cure"),
    [
        (errors.LocalEntryNotFoundError("no"), "could not be reached"),
        (
            errors.LocalEntryNotFoundError("no"),
            "; run `hf download owner/mine` where there is a network, or download ",
        ),
        (errors.LocalEntryNotFoundError("no"), "from https://huggingface.co/owner/mine elsewhere"),
        (ConnectionError("no route"), "could not be reached"),
        (errors.GatedRepoError.__new__(errors.GatedRepoError), "accept its licence on"),
        (
            errors.RepositoryNotFoundError.__new__(errors.RepositoryNotFoundError),
            "or it is private; check the id",
        ),
        (errors.EntryNotFoundError("no"), "does not have it"),
        (None, None),
    ],
)
def test_a_hub_id_is_asked_for_and_nothing_downloaded(monkeypatch, raised, cure):
    asked = []

    def metadata(url):
        asked.append(url)
        if raised is not None:
            raise raised

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", metadata)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: pytest.fail("downloaded"))
    component = Component("pickscore", METRICS.resolve("pickscore"), {"source": "owner/mine"})
    found = told(component)
    assert any(url.endswith("owner/mine/resolve/main/config.json") for url in asked)
    assert bool(found) is (raised is not None)
    assert all(cure in fault and "owner/mine" in fault for fault in found)
    if cure is not None and "huggingface" in cure:
        model, words = found
        assert "download config.json, preprocessor_config.json and the weights (*.safet" in model
        assert "download its tokenizer files (tokenizer*.json, special" in words


def test_what_the_cache_has_is_checked_there(arguments, monkeypatch):
    folder = arguments["clip"]["source"]
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda hub_id, name: str(folder / name) if (folder / name).is_file() else None,
    )
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: pytest.fail("asked"))
    component = Component("clip", METRICS.resolve("clip"), {"source": "owner/mine"})
    assert told(component) == []
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (fault,) = told(component)
    assert str(weights) in fault and "is damaged" in fault


@pytest.mark.parametrize("kept", [0, 10, 0.5, -1])
def test_a_file_of_torch_save_that_was_cut_off(tmp_path, kept):
    path = save_head(tmp_path / "head.pth", 8)
    whole = path.read_bytes()
    check_whole(path)
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(ValueError, match=r"head\.pth is damaged, .*copy or download it again"):
        check_whole(path)


def test_a_check_of_others_may_raise_anything():
    def needs(shade):
        def check():
            raise KeyError(shade)

        return [Need(check=check)]

    def build(shade="dark"):
        return lambda images, prompts: {"mine": images.mean((1, 2, 3))}

    build.needs = needs
    assert told(Component("mine", build)) == ["KeyError: 'dark'"]
    build.needs = lambda shade: 1 / 0
    assert told(Component("mine", build)) == ["ZeroDivisionError: division by zero"]


def test_what_is_read_is_found_in_the_arguments_too():
    inner = named("shapes", REWARDS)
    outer = Component("reward", lambda reward: reward, {"reward": inner})
    paths = [path for path, _ in needs_of(outer, ("metrics", "likeness"))]
    assert paths[0] == ("metrics", "likeness", "reward")
    clip = named("clip", METRICS, source="owner/name")
    assert reads(clip) and not reads(Component("mine", lambda: None))
    assert towers_of(clip) == {"owner/name"}
    assert [line.partition("/owner/")[2] for line in locations_read(clip)] == ["name (not here)"]


def test_what_an_evaluation_lacks_for_a_metric_is_said():
    diversity = named("diversity")
    circle = [HeldOutPrompt("a circle")]
    ((path, found),) = unsuitable(diversity, circle, [0], ("metrics", "diversity"))
    assert path == ("metrics", "diversity")
    assert "give evaluation.seeds more than one number" in found
    assert not list(unsuitable(diversity, circle, [0, 1]))
    assert not list(unsuitable(named("pixel_distance"), circle, [0]))

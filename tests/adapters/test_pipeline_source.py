"""Revisions and variants: which of a model's files are read, and what a wrong name says."""

from __future__ import annotations

import re
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from flowbp.adapters import Lora
from flowbp.run import main
from flowbp.settings.loader import load as load_settings
from flowbp.settings.run_identity import identity

from ..tiny_run import write_configuration
from .families import FAMILIES

HUB_ID = "owner/name"
OLD, NEW = "a" * 40, "b" * 40
NAMES = ["sd3 with T5", "flux1 schnell", "flux2 klein-base", "z_image", "qwen_image"]
PLAIN = "diffusion_pytorch_model.safetensors"


def write_changed(path, to, by):
    """Write weights that can be told from what they were."""
    save_file({k: v + by for k, v in load_file(path).items()}, to, metadata={"format": "pt"})


def add_variant(folder, variant="fp16", by=1.0):
    """Weights of other values beside the plain ones."""
    write_changed(folder / PLAIN, folder / PLAIN.replace(".", f".{variant}."), by)


@pytest.fixture(scope="module", params=NAMES)
def named(request, tmp_path_factory):
    """A family with a folder of its model."""
    family = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("saved") / "model"
    family.backbone().save(folder)
    return family, folder


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    FAMILIES["sd3 with T5"].backbone().save(folder)
    return folder


def in_cache(saved, cache):
    """Two commits of a repository: that of the main branch, and that of the tag v1."""
    repository = cache / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    for name, commit in {"main": NEW, "v1": OLD}.items():
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(saved, repository / "snapshots" / commit)
    weights = repository / "snapshots" / OLD / "transformer" / PLAIN
    write_changed(weights, weights, 1.0)
    return repository / "snapshots"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Of a machine that has no network, empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def load(family, source, *, device="cpu", **options):
    options.setdefault("text_length", family.text_length)
    return family.kind.from_pretrained(source, device=device, **options)


def load_sd3(source, **options):
    return load(FAMILIES["sd3 with T5"], source, **options)


def first(backbone):
    return next(iter(backbone.trainable().values()))


def refusal(source, **options):
    """What loading says, and the same without weights."""
    found = []
    for device in ("cpu", "meta"):
        with pytest.raises((OSError, ValueError)) as refused:
            load_sd3(source, device=device, **options)
        found.append(str(refused.value))
    assert found[0] == found[1]
    return found[0]


def test_a_revision_is_that_of_the_cache(named, cache):
    family, folder = named
    in_cache(folder, cache)
    now = first(load(family, HUB_ID))
    assert torch.equal(first(load(family, HUB_ID, revision="main")), now)
    for revision in ("v1", OLD):
        assert torch.equal(first(load(family, HUB_ID, revision=revision)), now + 1)
    load(family, HUB_ID, revision="v1", device="meta")


def test_text_encoders_come_back_from_the_same_revision(sd3, cache):
    weights = in_cache(sd3, cache) / OLD / "text_encoder" / "model.safetensors"
    write_changed(weights, weights, 1.0)
    backbone = load_sd3(HUB_ID, revision="v1")
    before = backbone.encode(["red"])
    backbone.text_encoders.offload()
    assert torch.equal(backbone.encode(["red"]).tensors["tokens"], before.tensors["tokens"])


def test_a_revision_that_the_cache_lacks(sd3, cache):
    in_cache(sd3, cache)
    said = refusal(HUB_ID, revision="v2")
    assert said.startswith("`revision` must be a branch, tag or commit of owner/name, got 'v2'; ")
    assert "its cache has main, v1: write one of these" in said
    assert "`hf download owner/name --revision v2`" in said


def test_a_revision_that_the_hub_lacks(monkeypatch, cache):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    refs = SimpleNamespace(branches=[SimpleNamespace(name="main")], tags=[])
    monkeypatch.setattr(huggingface_hub, "list_repo_refs", lambda _: refs)
    assert "got 'v2'; the hub has main: write one of these" in refusal(HUB_ID, revision="v2")

    def refuse(*_, **__):
        raise errors.RevisionNotFoundError.__new__(errors.RevisionNotFoundError)

    # Of commits the hub gives no list.
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
    assert f"owner/name has no revision '{NEW}'; write a branch" in refusal(HUB_ID, revision=NEW)


def test_nothing_of_a_repository_is_cached(cache):
    said = refusal(HUB_ID, revision="v1")
    assert "run `hf download owner/name --revision v1` where" in said
    assert "owner/name/tree/v1 elsewhere" in said


def test_a_folder_has_no_revision(sd3):
    said = refusal(sd3, revision="v1")
    assert said.startswith("`revision` must be left out for a folder, got 'v1'")


@pytest.mark.parametrize("name", ["revision", "variant"])
def test_an_empty_name_is_refused(sd3, name):
    assert f"`{name}` must be a name, got ' '; write null" in refusal(sd3, **{name: " "})


def test_a_variant_is_taken_where_a_component_has_it(named, tmp_path):
    family, saved = named
    folder = shutil.copytree(saved, tmp_path / "copy")
    plain = first(load(family, folder))
    add_variant(folder / "transformer")
    assert torch.equal(first(load(family, folder)), plain)
    backbone = load(family, folder, variant="fp16")
    assert torch.equal(first(backbone), plain + 1)
    load(family, folder, variant="fp16", device="meta")
    # It is saved under the plain names.
    backbone.save(tmp_path / "again")
    assert torch.equal(first(load(family, tmp_path / "again")), plain + 1)


def test_one_of_several_variants_is_taken(sd3, tmp_path):
    folder = shutil.copytree(sd3, tmp_path / "copy")
    plain, part = first(load_sd3(folder)), folder / "transformer"
    add_variant(part, "fp16", 1.0)
    add_variant(part, "bf16", 2.0)
    (part / PLAIN).unlink()
    assert "one of bf16, fp16, got none" in refusal(folder)
    assert torch.equal(first(load_sd3(folder, variant="fp16")), plain + 1)
    assert torch.equal(first(load_sd3(folder, variant="bf16")), plain + 2)
    assert "got 'fp8'; it has its weights in bf16, fp16 alone" in refusal(folder, variant="fp8")


def test_a_variant_that_nothing_has(sd3, cache):
    said = refusal(sd3, variant="fp16")
    assert "got 'fp16'; it has plain weights alone: write variant=null" in said
    add_variant(in_cache(sd3, cache) / NEW / "vae", "bf16")
    said = refusal(HUB_ID, variant="fp16")
    assert "'owner/name' has, got 'fp16'; it has bf16: write variant=bf16" in said


def test_the_hub_is_asked_for_a_variant_that_the_cache_lacks(sd3, cache, monkeypatch):
    in_cache(sd3, cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    listed = [f"vae/{PLAIN}", f"vae/{PLAIN.replace('.', '.fp16.')}", "README.md"]
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda *_, **__: listed)
    load_sd3(HUB_ID, variant="fp16", device="meta")
    with pytest.raises(ValueError, match="got 'fp8'; it has fp16: write variant=fp16"):
        load_sd3(HUB_ID, variant="fp8", device="meta")


def test_the_lines_that_load_an_adapter_name_both(sd3, cache, tmp_path):
    add_variant(in_cache(sd3, cache) / OLD / "transformer")
    backbone = load_sd3(HUB_ID, revision="v1", variant="fp16")
    tuned = Lora(rank=2)(backbone, generator=torch.Generator().manual_seed(0))
    tuned.save(tmp_path / "lora")
    lines = tuned.loading(tmp_path / "lora")
    assert "from_pretrained('owner/name', revision='v1', variant='fp16')" in lines


@pytest.fixture
def typed(tmp_path, models):
    yaml = str(write_configuration(tmp_path, models))
    return lambda keys: [yaml, f"backbone={{name: sd3, text_length: 16, {keys}}}"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("source: owner/name, revision: v2", "backbone.revision: must be a branch.*main, v1"),
        ("source: owner/name, variant: fp8", "backbone.variant: must be one .* got 'fp8'"),
    ],
)
def test_a_check_says_what_a_run_would(sd3, cache, typed, capsys, keys, message):
    in_cache(sd3, cache)
    shown = []
    for option in (["--check"], []):
        assert main([*typed(keys), *option]) == 2
        shown.append(capsys.readouterr().err)
    assert shown[0] == shown[1]
    assert re.search(message, shown[0]), shown[0]


def test_they_are_of_the_runs_identity(typed):
    keys = ["", ", revision: v1", ", revision: main", ", variant: fp16"]
    found = [identity(load_settings(typed(f"source: {HUB_ID}{key}")).settings) for key in keys]
    assert len({*found}) == len(keys)

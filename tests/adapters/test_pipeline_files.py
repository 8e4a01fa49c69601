"""A folder or hub id that cannot be read says what is missing, where, and how to get it."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from safetensors.torch import load_file, save_file

from flowbp.adapters.pipeline_files import dtype_option

from .families import FAMILIES

HUB_ID = "owner/name"
COMMIT = "0" * 40


@pytest.fixture(scope="module", params=["sd3 with T5", "flux1 dev", "flux2 klein-base"])
def family(request):
    return FAMILIES[request.param]


@pytest.fixture(scope="module")
def saved(family, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    family.backbone().save(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """The cache of a machine that has no network, empty."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def cached(saved, offline):
    """The model in that cache."""
    repository = offline / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    return shutil.copytree(saved, repository / "snapshots" / COMMIT)


def load(family, source):
    return family.kind.from_pretrained(source, text_length=family.text_length)


def shard(folder):
    """Split the weights in two files with an index, as the hub holds large ones."""
    (path,) = folder.glob("*.safetensors")
    weights = load_file(path)
    names = sorted(weights)
    files = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = folder / f"{path.stem}-{number:05d}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, file, metadata={"format": "pt"})
        files |= dict.fromkeys(part, file.name)
    index = {"metadata": {"total_size": path.stat().st_size}, "weight_map": files}
    (folder / f"{path.name}.index.json").write_text(json.dumps(index))
    path.unlink()
    return file


def parts(folder):
    """Every component with weights."""
    found = sorted({path.parent for path in folder.rglob("*.safetensors")})
    assert len(found) >= 3
    return found


def test_every_missing_or_damaged_file_is_named(family, folder):
    for part in parts(folder):
        (path,) = part.glob("*.safetensors")
        weights = path.read_bytes()
        path.write_bytes(weights[:-100])
        with pytest.raises(ValueError, match=f"{part.name}/{path.name} is damaged.*download it"):
            load(family, folder)
        path.unlink()
        message = f"'{folder}' could not be read, its {part.name}: .*; copy or download the whole"
        with pytest.raises(FileNotFoundError, match=message):
            load(family, folder)
        path.write_bytes(weights)


def test_a_missing_or_damaged_shard_is_named(family, folder):
    last = [shard(part) for part in parts(folder)]
    load(family, folder)
    for path in last:
        weights = path.read_bytes()
        path.write_bytes(weights[:-100])
        name = f"{path.parent.name}/{path.name}"
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            load(family, folder)
        path.unlink()
        message = f"its {path.parent.name}: .*{name}.*; copy or download the whole folder again"
        with pytest.raises(FileNotFoundError, match=message):
            load(family, folder)
        path.write_bytes(weights)


def test_a_tokenizer_or_scheduler_without_files_is_named(family, folder):
    for part in sorted(folder.glob("tokenizer*")):
        shutil.move(part, folder / "away")
        part.mkdir()
        with pytest.raises(
            FileNotFoundError, match=rf"its {part.name}: .* has none of tokenizer\.j"
        ):
            load(family, folder)
        part.rmdir()
        shutil.move(folder / "away", part)
    (folder / "scheduler" / "scheduler_config.json").unlink()
    message = r"could not be read, its scheduler or .*scheduler_config\.json.*; copy or download"
    with pytest.raises(FileNotFoundError, match=message):
        load(family, folder)


def test_a_hub_id_is_loaded_from_the_cache(family, cached):
    backbone = load(family, HUB_ID)
    assert backbone.trainable().keys() == family.backbone().trainable().keys()


def test_offline_with_nothing_cached(family, offline):
    message = (
        rf"as a hub id it could not be read, its model_index\.json: it is not in the cache "
        rf"{offline}, and .* was not asked because HF_HUB_OFFLINE is set; "
        rf"run `hf download {HUB_ID}`"
        ".*give their folder"
    )
    with pytest.raises(FileNotFoundError, match=message):
        load(family, HUB_ID)


def test_without_a_network_and_nothing_cached(family, offline, monkeypatch):
    def unreached(*args, **kwargs):
        raise errors.LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreached)
    with pytest.raises(FileNotFoundError, match=r"the cache .* could not be reached; run"):
        load(family, HUB_ID)


def test_offline_with_one_component_missing(family, cached):
    for part in parts(cached):
        shutil.move(part, cached.parent / "away")
        message = f"`source` '{HUB_ID}' could not be read, its {part.name}: it is not in the cache"
        with pytest.raises(FileNotFoundError, match=message):
            load(family, HUB_ID)
        shutil.move(cached.parent / "away", part)


def test_a_damaged_or_missing_shard_in_the_cache_is_named(family, cached):
    last = [shard(part) for part in parts(cached)]
    load(family, HUB_ID)
    for path in last:
        weights, part = path.read_bytes(), path.parent
        path.write_bytes(weights[:-100])
        with pytest.raises(ValueError, match=f"{path} is damaged, .*; delete it, and copy or"):
            load(family, HUB_ID)
        path.unlink()
        with pytest.raises(FileNotFoundError, match=f"its {part.name}: .*hf download {HUB_ID}"):
            load(family, HUB_ID)
        path.write_bytes(weights)


def refusing(kind):
    response = SimpleNamespace(headers={}, request=None)

    def refuse(*args, **kwargs):
        raise kind("403 Client Error", response=response)

    return refuse


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            errors.GatedRepoError,
            "it is gated; accept its licence on .*/owner/name and run `hf",
        ),
        (errors.RepositoryNotFoundError, "has no owner/name, or it is private; check the id, or"),
        (errors.RemoteEntryNotFoundError, "owner/name does not have it .*layout that is wanted"),
        (errors.HfHubHTTPError, "403 Client Error; try `hf download owner/name`, or download"),
    ],
)
def test_what_the_hub_refuses_is_reported(family, kind, message, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", refusing(kind))
    with pytest.raises(FileNotFoundError, match=rf"its model_index\.json: .*{message}"):
        load(family, HUB_ID)


def test_a_gated_component_is_reported(family, cached, monkeypatch):
    refuse = refusing(errors.GatedRepoError)
    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match="its transformer: it is gated; accept its licence"):
        load(family, HUB_ID)


@pytest.mark.parametrize("source", ["owner/na..me", "owner/name--"])
def test_what_cannot_be_a_hub_id_is_reported(family, offline, source):
    with pytest.raises(FileNotFoundError, match=rf"'{source}' is no local folder.*check the id"):
        load(family, source)


def test_the_dtypes_argument_is_that_of_the_version():
    assert [dtype_option(v) for v in ("0.36.0", "0.42.1")] == ["torch_dtype", "dtype"]

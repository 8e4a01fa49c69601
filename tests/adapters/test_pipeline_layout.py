"""What is wrong with a model's folder is found without its weights, in the words of loading it."""

from __future__ import annotations

import json
import re
import shutil

import attrs
import pytest
import torch
from huggingface_hub import constants

from flowbp.adapters import SD3Backbone, SD3Text
from flowbp.run import main

from ..tiny_run import write_configuration
from .adapted import images_of
from .families import FAMILIES
from .test_pipeline_files import COMMIT, HUB_ID, shard

NAMES = {"sd3 with T5": "sd3", "flux1 schnell": "flux1", "flux2 klein-base": "flux2"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole folder of each family."""
    folders = {}
    for name in NAMES:
        folders[name] = tmp_path_factory.mktemp("saved") / "model"
        FAMILIES[name].backbone().save(folders[name])
    return folders


@pytest.fixture
def copied(saved, tmp_path):
    return lambda name="sd3 with T5": shutil.copytree(saved[name], tmp_path / "copy")


def load(name, source, device, **options):
    options.setdefault("text_length", FAMILIES[name].text_length)
    return FAMILIES[name].kind.from_pretrained(source, device=device, **options)


def refusals(name, source, **options):
    """What loading raises and what is raised without weights."""
    found = []
    for device in ("cpu", "meta"):
        with pytest.raises((OSError, ValueError, TypeError)) as refused:
            load(name, source, device, **options)
        found.append(refused.value)
    return found


def change(path, **changed):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


def index(**changed):
    return lambda folder: change(folder / "model_index.json", **changed)


def config(part, name="config.json", **changed):
    return lambda folder: change(folder / part / name, **changed)


def written(name, text):
    return lambda folder: (folder / name).write_bytes(text.encode())


def removed(name):
    def remove(folder):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove


def cut(folder):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def one_shard_removed(folder):
    shard(folder / "transformer").unlink()


def renamed(part, *variants):
    """Weights of a part under the names of variants alone."""

    def rename(folder):
        (path,) = (folder / part).glob("*.safetensors")
        for variant in variants:
            shutil.copy(path, path.with_name(f"{path.stem}.{variant}.safetensors"))
        path.unlink()

    return rename


SCHEDULER = "scheduler_config.json"
WRONG = {
    "another pipeline": (index(_class_name="FluxPipeline"), "got FluxPipeline.*=flux1"),
    "a pipeline of no backbone": (
        index(_class_name="StableDiffusion3ControlNetPipeline"),
        "got StableDiffusion3ControlNetPipeline.*no backbone",
    ),
    "an index of wrong types": (index(vae="AutoencoderKL"), "lacks vae"),
    "an index of numbers": (index(vae=[1, 2]), "lacks vae"),
    "no class": (index(_class_name=None), "got None"),
    "no transformer": (removed("transformer"), "lacks the folders transformer"),
    "no weights": (removed("vae/diffusion_pytorch_model.safetensors"), "its vae: .*holds config"),
    "no configuration": (removed("vae/config.json"), r"vae', which has no config\.json"),
    "no scheduler": (removed("scheduler"), "lacks the folders scheduler"),
    "no configuration of the scheduler": (removed(f"scheduler/{SCHEDULER}"), "scheduler"),
    "another scheduler": (
        index(scheduler=["diffusers", "DDIMScheduler"]),
        "FlowMatchEulerDiscreteScheduler, got DDIMScheduler",
    ),
    "a stochastic scheduler": (
        config("scheduler", SCHEDULER, stochastic_sampling=True),
        "stochastic_sampling=False",
    ),
    "a class that is nowhere": (index(tokenizer=["transformers", "NoSuch"]), "tokenizer"),
    "a vae of another class": (config("vae", _class_name="AutoencoderTiny"), "got AutoencoderTiny"),
    "a configuration of wrong types": (config("transformer", num_layers="three"), "transformer"),
    "a configuration that is no JSON": (written("vae/config.json", "{"), r"config\.json is not"),
    "a configuration that is a list": (written("vae/config.json", "[]"), "JSON object, got list"),
    "an encoder's that is no JSON": (written("text_encoder/config.json", "{"), "text_encoder/conf"),
    "an encoder of wrong types": (
        config("text_encoder", num_hidden_layers="many"),
        "text_encoder that is no fitting",
    ),
    "a tokenizer that is no JSON": (
        written("tokenizer/tokenizer.json", "{"),
        r"tokenizer\.json is",
    ),
    "a tokenizer that is none": (written("tokenizer/tokenizer.json", "[1]"), "tokenizer"),
    "weights that were cut": (cut, r"diffusion_pytorch_model\.safetensors is damaged"),
    "a missing shard": (one_shard_removed, "its transformer: .*00002-of-00002.safetensors"),
    "an index of shards without a map": (
        lambda folder: (
            removed("vae/diffusion_pytorch_model.safetensors")(folder),
            written("vae/diffusion_pytorch_model.safetensors.index.json", "{}")(folder),
        ),
        "has no `weight_map`",
    ),
    "several variants": (
        renamed("vae", "fp16", "bf16"),
        "one of bf16, fp16, got none.*write variant=bf16",
    ),
    "bitsandbytes": (
        config("transformer", quantization_config={"quant_method": "bitsandbytes"}),
        r"quantised transformer \(bitsandbytes\).*full precision",
    ),
    "a quantised encoder": (
        config("text_encoder_3", quantization_config={"quant_method": "torchao"}),
        r"quantised text_encoder_3 \(torchao\)",
    ),
    "quantised in no known way": (config("vae", quantization_config=[1]), "quantised vae"),
    "gguf": (written("transformer/model-Q4.gguf", "GGUF"), r"quantised .*model-Q4\.gguf"),
    "a t5 that is missing": (removed("text_encoder_3"), "lacks text_encoder_3.*use_t5=false"),
}


@pytest.mark.parametrize("how", WRONG)
def test_it_is_refused_alike_with_and_without_weights(copied, how):
    break_it, message = WRONG[how]
    folder = copied()
    break_it(folder)
    loading, checking = refusals("sd3 with T5", folder)
    assert type(loading) is type(checking) and str(loading) == str(checking)
    assert re.search(message, str(checking)), str(checking)


def test_a_vae_of_another_model_is_refused_before_its_weights(copied):
    folder = copied()
    config("vae", latent_channels=5)(folder)
    _, checking = refusals("sd3 with T5", folder)
    assert "must decode 4 channels like the transformer, got 5" in str(checking)


def test_a_guidance_that_schnell_does_not_have(copied):
    loading, checking = refusals("flux1 schnell", copied("flux1 schnell"), embedded_guidance=3.5)
    assert str(loading) == str(checking) and "`embedded_guidance`" in str(checking)


@pytest.mark.parametrize(
    "pipeline", ["FluxFillPipeline", "FluxControlPipeline", "FluxKontextPipeline"]
)
def test_relatives_of_flux_are_refused(copied, pipeline):
    folder = copied("flux1 schnell")
    index(_class_name=pipeline)(folder)
    loading, checking = refusals("flux1 schnell", folder)
    assert str(loading) == str(checking) and f"got {pipeline} in" in str(checking)


def test_a_family_of_ones_own_is_named_for_its_pipeline(copied):
    class MyText(SD3Text):
        family = "mine"

    class Mine(SD3Backbone):
        layout = attrs.evolve(SD3Backbone.layout, pipeline="MyPipeline")
        text_kind = MyText

    folder = copied()
    index(_class_name="MyPipeline")(folder)
    _, checking = refusals("sd3 with T5", folder)
    assert "write backbone.name=mine" in str(checking)
    index(_class_name="FluxPipeline")(folder)
    with pytest.raises(ValueError, match=r"must hold a MyPipeline, got FluxPipeline .*=flux1"):
        Mine.from_pretrained(folder)


def test_a_fill_model_under_the_name_of_another(copied):
    folder = copied("flux1 schnell")
    config("transformer", in_channels=96)(folder)
    _, checking = refusals("flux1 schnell", folder)
    assert "channels" in str(checking)


def test_a_variant_is_loaded_where_there_is_nothing_else(copied):
    folder = copied()
    whole = images_of(load("sd3 with T5", folder, "cpu"), steps=2)
    for path in sorted(folder.rglob("*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    assert torch.equal(images_of(load("sd3 with T5", folder, "cpu"), steps=2), whole)
    load("sd3 with T5", folder, "meta")


def test_shards_of_a_variant_are_loaded(copied):
    folder = copied()
    whole = images_of(load("sd3 with T5", folder, "cpu"), steps=2)
    part = folder / "transformer"
    shard(part)
    path = part / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(path.read_text())
    renamed_files = {}
    for file in sorted(part.glob("*.safetensors")):
        renamed_files[file.name] = f"{file.stem}.fp16.safetensors"
        file.rename(part / renamed_files[file.name])
    files = {name: renamed_files[file] for name, file in content["weight_map"].items()}
    path.unlink()
    named = part / "diffusion_pytorch_model.safetensors.index.fp16.json"
    named.write_text(json.dumps(content | {"weight_map": files}))
    assert torch.equal(images_of(load("sd3 with T5", folder, "cpu"), steps=2), whole)
    load("sd3 with T5", folder, "meta")
    (part / renamed_files[max(renamed_files)]).unlink()
    loading, checking = refusals("sd3 with T5", folder)
    assert str(loading) == str(checking) and "00002-of-00002.fp16.safetensors" in str(checking)


def test_parts_of_a_pipeline_are_named_in_the_error(saved, tmp_path):
    whole = saved["sd3 with T5"]
    _, checking = refusals("sd3 with T5", whole / "transformer")
    assert "is SD3Transformer2DModel alone; copy it into the folder" in str(checking)
    (tmp_path / "lora").mkdir()
    (tmp_path / "lora" / "adapter_config.json").write_text("{}")
    _, checking = refusals("sd3 with T5", tmp_path / "lora")
    assert "is a LoRA; name the model it belongs to" in str(checking)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "flux1-dev.safetensors").write_bytes(b"")
    _, checking = refusals("sd3 with T5", tmp_path / "file")
    assert "flux1-dev.safetensors; give the folder or hub id" in str(checking)


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("name", ["flux1-dev.safetensors", "sd3.5.ckpt", "model-Q4.gguf"])
def test_a_single_file_is_called_one_and_no_hub_is_asked(
    name, there, tmp_path, monkeypatch, capsys
):
    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", asked)
    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", asked)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    if there:
        (tmp_path / "x" / name).write_bytes(b"")
    _, checking = refusals("flux1 schnell", f"x/{name}")
    assert f"the single file 'x/{name}'" in str(checking)
    assert "the file as transformer=file.safetensors" in str(checking)
    assert ("there is no file" in str(checking)) is not there


@pytest.mark.parametrize(
    "source", ["./owner/name", "/owner/name", "~/owner/name", "a/b/c", "name", ""]
)
def test_what_looks_like_a_folder_asks_no_hub(source, monkeypatch):
    def asked(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", asked)
    _, checking = refusals("sd3 with T5", source)
    assert "must be a folder or a hub id" in str(checking)


def test_a_snapshot_of_the_hub_is_checked_as_a_folder_is(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    folder = shutil.copytree(saved["sd3 with T5"], repository / "snapshots" / COMMIT)
    load("sd3 with T5", HUB_ID, "meta")
    for path in sorted(folder.rglob("*.safetensors")):
        path.rename(path.with_name(f"{path.stem}.fp16.safetensors"))
    load("sd3 with T5", HUB_ID, "cpu")
    config("vae", quantization_config={"quant_method": "gguf"})(folder)
    loading, checking = refusals("sd3 with T5", HUB_ID)
    assert str(loading) == str(checking) and "quantised vae (gguf)" in str(checking)
    removed("vae")(folder)
    loading, checking = refusals("sd3 with T5", HUB_ID)
    assert str(loading) == str(checking) and "not in the cache" in str(checking)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (
            config("transformer", quantization_config={"quant_method": "bitsandbytes"}),
            "(bitsandbytes)",
        ),
        (config("transformer", patch_size="two"), "transformer that is no fitting"),
        (config("vae", block_out_channels=None), "vae that is no fitting"),
        (written("vae/config.json", "[" * 100_000), "config.json is not valid JSON"),
        (written("transformer/config.json", "\x00"), "config.json is not valid JSON"),
    ],
    ids=["quantised", "a word", "nothing", "nested", "a zero"],
)
def test_a_check_of_a_run_says_what_the_run_would(
    break_it, message, copied, tmp_path, models, capsys
):
    folder, yaml = copied(), str(write_configuration(tmp_path, models))
    break_it(folder)
    typed = [yaml, f"backbone={{name: sd3, source: {folder}, text_length: 16}}"]
    shown = []
    for option in (["--check"], []):
        assert main([*typed, *option]) == 2
        shown.append(capsys.readouterr().err.strip().splitlines())
    assert shown[0] == shown[1] and len(shown[0]) == 2
    assert re.search(r"backbone(\.source)?: ", shown[0][1]) and message in shown[0][1]
    assert not (tmp_path / "run").exists()

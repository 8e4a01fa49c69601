"""Transformers in single files: as their publishers write them, beside a folder of all else."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from flowbp.adapters import DtypePolicy, Lora
from flowbp.run import main
from flowbp.settings.loader import load as load_settings
from flowbp.settings.run_identity import decisive, sources_of

from ..tiny_run import write_configuration
from .adapted import images_of
from .families import FAMILIES

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LAYERS = 3

# Of the publisher, to diffusers' own.
SD3_NAMES = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
    "final_layer.linear": "proj_out",
}
SD3_BLOCK_NAMES = {
    "x_block.attn.proj": "attn.to_out.0",
    "x_block.attn2.proj": "attn2.to_out.0",
    "x_block.attn.ln_q": "attn.norm_q",
    "x_block.attn.ln_k": "attn.norm_k",
    "x_block.attn2.ln_q": "attn2.norm_q",
    "x_block.attn2.ln_k": "attn2.norm_k",
    "x_block.adaLN_modulation.1": "norm1.linear",
    "x_block.mlp.fc1": "ff.net.0.proj",
    "x_block.mlp.fc2": "ff.net.2",
    "context_block.attn.proj": "attn.to_add_out",
    "context_block.attn.ln_q": "attn.norm_added_q",
    "context_block.attn.ln_k": "attn.norm_added_k",
    "context_block.adaLN_modulation.1": "norm1_context.linear",
    "context_block.mlp.fc1": "ff_context.net.0.proj",
    "context_block.mlp.fc2": "ff_context.net.2",
}
SD3_JOINED = {
    "x_block.attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "x_block.attn2.qkv": ("attn2.to_q", "attn2.to_k", "attn2.to_v"),
    "context_block.attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def turned(tensor):
    """The halves of a modulation in the publisher's order."""
    scale, shift = tensor.chunk(2)
    return torch.cat([shift, scale])


def published_sd3(own):
    """The weights of a transformer under the names of Stable Diffusion 3.5's publisher."""
    rest = dict(own)
    found = {"pos_embed": rest.pop("pos_embed.pos_embed")}
    for end in ("weight", "bias"):
        for name, ours in SD3_NAMES.items():
            found[f"{name}.{end}"] = rest.pop(f"{ours}.{end}")
        last = rest.pop(f"norm_out.linear.{end}")
        found[f"final_layer.adaLN_modulation.1.{end}"] = turned(last)
        for i in range(LAYERS):
            block, theirs = f"transformer_blocks.{i}.", f"joint_blocks.{i}."
            for name, ours in SD3_BLOCK_NAMES.items():
                if (key := f"{block}{ours}.{end}") in rest:
                    whole = rest.pop(key)
                    is_last = i == LAYERS - 1 and ours == "norm1_context.linear"
                    found[f"{theirs}{name}.{end}"] = turned(whole) if is_last else whole
            for name, ours in SD3_JOINED.items():
                keys = [f"{block}{each}.{end}" for each in ours]
                if keys[0] in rest:
                    found[f"{theirs}{name}.{end}"] = torch.cat([rest.pop(key) for key in keys])
    assert not rest
    return found


def write_sd3(folder, path, *, change=lambda tensors: tensors):
    save_file(change(published_sd3(load_file(folder / WEIGHTS))), path)
    return path


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A whole folder of each family."""
    folders = {}
    for name in ("sd3 with T5", "flux1 dev"):
        folders[name] = tmp_path_factory.mktemp("saved") / "model"
        FAMILIES[name].backbone().save(folders[name])
    return folders


@pytest.fixture
def sd3(saved):
    return saved["sd3 with T5"]


@pytest.fixture
def without(sd3, tmp_path):
    """All of a model but the transformer's weights."""
    folder = shutil.copytree(sd3, tmp_path / "rest")
    (folder / WEIGHTS).unlink()
    return folder


def load(source, name="sd3 with T5", device="cpu", **options):
    length = FAMILIES[name].text_length
    return FAMILIES[name].kind.from_pretrained(source, text_length=length, device=device, **options)


def refusal(source, transformer, **options):
    """What loading says, and the same without weights."""
    found = []
    for device in ("cpu", "meta"):
        with pytest.raises((OSError, ValueError)) as refused:
            load(source, transformer=transformer, device=device, **options)
        found.append(str(refused.value))
    assert found[0] == found[1]
    return found[0]


def prefixed(tensors):
    """As a file that holds the whole model has them, with a part that is left alone."""
    vae = {"first_stage_model.decoder.conv_in.weight": torch.ones(1).to(torch.float8_e4m3fn)}
    return {f"model.diffusion_model.{name}": each for name, each in tensors.items()} | vae


@pytest.mark.parametrize("change", [dict, prefixed])
def test_a_published_file_is_the_model_of_the_folder(sd3, without, tmp_path, change, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors", change=change)
    whole, made = load(sd3), load(without, transformer=path)
    assert made.trainable().keys() == whole.trainable().keys()
    for name, parameter in whole.trainable().items():
        assert torch.equal(made.trainable()[name], parameter)
    assert not made.transformer.training
    assert torch.equal(images_of(made, steps=2), images_of(whole, steps=2))
    load(without, transformer=str(path), device="meta")


def test_what_is_made_of_a_file_is_saved_whole(sd3, without, tmp_path):
    load(without, transformer=write_sd3(sd3, tmp_path / "sd3.5.safetensors")).save(tmp_path / "new")
    for name in (WEIGHTS, "transformer/config.json", "model_index.json"):
        assert (tmp_path / "new" / name).read_bytes() == (sd3 / name).read_bytes(), name


def test_in_bfloat16_too(sd3, without, tmp_path):
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors")
    low = DtypePolicy(torch.bfloat16, torch.bfloat16)
    whole, made = load(sd3, policy=low), load(without, transformer=path, policy=low)
    assert {each.dtype for each in made.transformer.parameters()} == {torch.bfloat16}
    assert torch.equal(images_of(made, steps=1), images_of(whole, steps=1))


def test_the_rest_comes_from_a_cache_without_the_weights(sd3, without, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--owner--name"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "v1").write_text("0" * 40)
    shutil.copytree(without, repository / "snapshots" / ("0" * 40))
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors")
    made = load("owner/name", transformer=path, revision="v1")
    assert torch.equal(images_of(made, steps=1), images_of(load(sd3), steps=1))


@pytest.mark.parametrize("name", ["sd3 with T5", "flux1 dev"])
def test_a_file_as_diffusers_writes_it_is_read_too(saved, tmp_path, name):
    folder = shutil.copytree(saved[name], tmp_path / "rest")
    path = (folder / WEIGHTS).rename(tmp_path / "file.safetensors")
    whole, made = load(saved[name], name), load(folder, name, transformer=path)
    assert torch.equal(images_of(made, steps=2), images_of(whole, steps=2))
    load(folder, name, transformer=path, device="meta")


def write_shapes(path, shapes):
    """A file of bfloat16 zeros, which takes no room on a disk whose files may have holes."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    header = json.dumps(entries).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)
    return path


def published_flux(width=3072, text=32, pooled=8, channels=16):
    """Names and shapes of FLUX.1 dev with two blocks of each kind, as its publisher has them."""
    linear = {"txt_in": (width, text), "img_in": (width, channels)}
    for name, size in {"time_in": 256, "vector_in": pooled, "guidance_in": 256}.items():
        linear |= {f"{name}.in_layer": (width, size), f"{name}.out_layer": (width, width)}
    linear["final_layer.linear"] = (channels, width)
    linear["final_layer.adaLN_modulation.1"] = (2 * width, width)
    norms = []
    for i in range(2):
        for block in (f"double_blocks.{i}.img", f"double_blocks.{i}.txt"):
            norms.append(f"{block}_attn.norm")
            linear |= {
                f"{block}_mod.lin": (6 * width, width),
                f"{block}_attn.qkv": (3 * width, width),
                f"{block}_attn.proj": (width, width),
                f"{block}_mlp.0": (4 * width, width),
                f"{block}_mlp.2": (width, 4 * width),
            }
        block = f"single_blocks.{i}"
        norms.append(f"{block}.norm")
        linear[f"{block}.modulation.lin"] = (3 * width, width)
        linear[f"{block}.linear1"] = (7 * width, width)
        linear[f"{block}.linear2"] = (width, 5 * width)
    shapes = {f"{norm}.{each}_norm.scale": (128,) for norm in norms for each in ("query", "key")}
    shapes |= {f"{name}.weight": shape for name, shape in linear.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in linear.items()}


def test_a_published_flux_is_checked_by_its_header(saved, tmp_path):
    # The converter of FLUX.1 takes its width for granted, so that no small model has that layout.
    folder = shutil.copytree(saved["flux1 dev"], tmp_path / "rest")
    config = folder / "transformer" / "config.json"
    sizes = dict(attention_head_dim=128, num_attention_heads=24, axes_dims_rope=[16, 56, 56])
    config.write_text(json.dumps(json.loads(config.read_text()) | sizes))
    path, shapes = tmp_path / "flux1-dev.safetensors", published_flux()
    load(folder, "flux1 dev", transformer=write_shapes(path, shapes), device="meta")
    write_shapes(path, shapes | {"img_in.weight": (3072, 15)})
    said = refusal(folder, path, name="flux1 dev")
    assert "x_embedder.weight, (3072, 16) there and (3072, 15) in the file" in said
    write_shapes(path, {name: each for name, each in shapes.items() if "guidance" not in name})
    said = refusal(folder, path, name="flux1 dev")
    assert "guidance_embedder.linear_1.bias, (3072,) there and none in the file" in said
    # What the model would ignore is another model too: dev for schnell's configuration.
    config.write_text(json.dumps(json.loads(config.read_text()) | {"guidance_embeds": False}))
    said = refusal(folder, write_shapes(path, shapes), name="flux1 dev")
    assert "guidance_embedder.linear_1.bias, none there and (3072,) in the file" in said


def shorter(tensors):
    return tensors | {"y_embedder.mlp.0.weight": torch.ones(16, 23)}


def fewer(tensors):
    return {name: tensor for name, tensor in tensors.items() if "ln_" not in name}


def eight_bits(tensors):
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shorter, "linear_1.weight, (16, 24) there and (16, 23) in the file; name"),
        (fewer, "norm_added_k.weight, (8,) there and none in the file"),
        (eight_bits, "is quantised, its context_embedder.bias for one"),
        (lambda _: {"lora_A": torch.ones(1)}, "got a file with 1 tensors, the first being lora_A"),
        (lambda _: {}, "got a file with 0 tensors, the first being nothing"),
    ],
    ids=["shape", "missing", "float8", "a LoRA", "empty"],
)
def test_a_file_of_another_model_is_refused(sd3, tmp_path, change, message):
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors", change=change)
    said = refusal(sd3, path)
    assert said.startswith(f"`transformer` {str(path)!r} ") and message in said


def test_what_is_no_whole_file_is_refused(sd3, tmp_path):
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    assert "sd3.5.safetensors' cannot be read: " in refusal(sd3, path)
    assert "there is no file" in refusal(sd3, tmp_path / "no.safetensors")
    for wrong in (tmp_path, tmp_path / "model.gguf", "owner/name"):
        assert "`transformer` must be a .safetensors file, got " in refusal(sd3, wrong)


def test_the_lines_that_load_an_adapter_read_the_file(sd3, without, tmp_path):
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors")
    tuned = Lora(rank=2)(load(without, transformer=path), generator=torch.Generator())
    tuned.save(tmp_path / "lora")
    scope = {}
    exec(tuned.loading(tmp_path / "lora"), scope)
    own = scope["pipeline"].transformer.state_dict()
    own = {name.replace(".base_layer", ""): tensor for name, tensor in own.items()}
    assert all(torch.equal(own[name], each) for name, each in load_file(sd3 / WEIGHTS).items())


@pytest.fixture
def typed(tmp_path, models):
    yaml = str(write_configuration(tmp_path, models))

    def typed(source, path):
        keys = f"source: {source}, transformer: {path}, text_length: 16"
        return [yaml, f"backbone={{name: sd3, {keys}}}"]

    return typed


def test_a_check_says_that_the_file_is_here(sd3, without, typed, tmp_path, capsys):
    path = write_sd3(sd3, tmp_path / "sd3.5.safetensors")
    assert main([*typed(without, path), "--check"]) == 0
    assert f"backbone.transformer reads {path} (here, " in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:-10])
    said = []
    for option in (["--check"], []):
        assert main([*typed(without, path), *option]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and "backbone.transformer: " in said[0]


def test_the_file_is_of_the_runs_identity(sd3, without, typed, tmp_path, monkeypatch):
    write_sd3(sd3, tmp_path / "sd3.5.safetensors")
    monkeypatch.chdir(tmp_path)
    settings = load_settings(typed(without, "sd3.5.safetensors")).settings
    assert "backbone.transformer" in sources_of(decisive(settings))

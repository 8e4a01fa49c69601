"""Adapters that cannot be attached are refused, with the cure."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from flowbp.adapters import Adaptable, Lora
from flowbp.adapters.lora_files import WEIGHTS
from flowbp.adapters.lora_layers import adapter_of

from .adapted import TUNED, attached, seeded, trained

SD3 = TUNED["sd3"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder with a LoRA of the tiny SD3."""
    folder = tmp_path_factory.mktemp("lora")
    trained(SD3).save(folder)
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "`rank` must be an integer >= 1, got 0"),
        ({"rank": None}, "`rank` must be an integer >= 1, got None"),
        ({"alpha": 0}, r"`alpha` must be a number in \(0, inf\), got 0"),
        ({"dropout": 1}, "`dropout` must be below 1, got 1"),
        ({"dropout": -0.1}, r"`dropout` must be a number in \[0, 1\], got -0.1"),
        ({"targets": []}, "`targets` must be names of linear layers, got .*leave it out"),
        ({"targets": [""]}, "`targets` must be names of linear layers"),
        ({"start": "/no/such/lora"}, "got '/no/such/lora'; there is no /no/such/lora"),
        ({"start": "no/such.safetensors"}, "there is no no/such.safetensors"),
    ],
    ids=str,
)
def test_a_wrong_value_is_refused_at_construction(options, message):
    with pytest.raises(ValueError, match=message):
        Lora(**options)


def test_a_single_text_is_no_list_of_targets():
    with pytest.raises(TypeError, match="must be a list of names, got the single text 'to_q'"):
        Lora(targets="to_q")


@pytest.mark.parametrize("name", ["rank", "alpha", "targets"])
def test_what_a_start_would_override_is_refused(exported, name):
    value = ["to_q"] if name == "targets" else 4
    own = "brings its own rank, alpha and targets, but"
    with pytest.raises(ValueError, match=f"{own} {name} is given too; leave it out"):
        Lora(start=str(exported), **{name: value})
    with pytest.raises(ValueError, match=f"{own} rank and alpha are given too; leave them out"):
        Lora(start=str(exported), rank=4, alpha=8)


def test_an_unclear_or_damaged_start_is_refused_at_construction(exported, tmp_path):
    with pytest.raises(ValueError, match=r"with no \.safetensors file; name the file itself"):
        Lora(start=str(tmp_path))
    for name in ("one", "two"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"with one\.safetensors, two\.safetensors; name the file"):
        Lora(start=str(tmp_path))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((exported / WEIGHTS).read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cut\.safetensors is damaged.*download it again"):
        Lora(start=str(cut))
    (tmp_path / "lora.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"must be a \.safetensors file.*nothing is unpickled"):
        Lora(start=str(tmp_path / "lora.bin"))


def test_missing_peft_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r'`lora` cannot be used: `peft`.*"flowbp-align\[lora\]"'):
        Lora()


def changed(exported, tmp_path, **options):
    """A start with further tensors, or other ones."""
    tensors, path = load_file(exported / WEIGHTS), tmp_path / "changed.safetensors"
    first = min(name for name in tensors if ".lora_A." in name)
    for name, tensor in options.pop("added", {}).items():
        tensors[name] = tensor
    if options.pop("halved", False):
        del tensors[first]
    if options.pop("widened", False):
        tensors[first] = torch.zeros(3, 17)
    save_file(tensors, path, options.pop("metadata", None))
    return Lora(start=str(path))


PAIR = (torch.zeros(3, 16), torch.zeros(16, 3))


def pair(layer):
    return {f"{layer}.lora_{side}.weight": each for side, each in zip("AB", PAIR, strict=True)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"added": pair("text_encoder.a")}, "'text_encoder.a.lora_A.weight' is of a text encoder"),
        ({"added": pair("unet.a")}, "'unet.a.lora_A.weight', which has no place in"),
        (
            {"added": pair("transformer.blocks.9.q")},
            "'blocks.9.q.lora_A.weight', .* of a StableDiffusion3Pipeline; that holds of 2",
        ),
        (
            {"added": {"transformer.transformer_blocks.0.attn.norm_q.weight": torch.zeros(8)}},
            "norm_q.weight', which has no place.*no plain LoRA",
        ),
        ({"halved": True}, "without '.*lora_A.weight'; it is damaged"),
        ({"widened": True}, r"of shape \(3, 17\), where the model has 16 features"),
        (
            {"metadata": {"lora_adapter_metadata": json.dumps({"transformer.r": 5})}},
            "metadata of .* says rank 5 of .*, whose tensors have rank 3",
        ),
    ],
    ids=["text encoder", "foreign", "another depth", "norm", "half", "width", "metadata"],
)
def test_a_start_that_does_not_fit_is_refused(exported, tmp_path, options, message):
    lora = changed(exported, tmp_path, **options)
    with pytest.raises(ValueError, match=message):
        attached(SD3, lora)


def test_a_start_of_another_family_is_refused(exported):
    for name in ("flux1 dev", "flux2 klein-base"):
        with pytest.raises(
            ValueError, match=r"which has no place in the transformer|features; it is of a"
        ):
            attached(TUNED[name], Lora(start=str(exported)))


def test_a_form_that_nothing_understands_is_refused(tmp_path):
    save_file({"lora_unet_blocks_0.lora_down.weight": torch.zeros(1)}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match=r"could not be read as a LoRA of FluxPipeline"):
        attached(TUNED["flux1 dev"], Lora(start=str(tmp_path)))


def test_a_hub_that_cannot_be_reached_is_reported(monkeypatch):
    def fail(*_, **__):
        raise OSError("no route to the hub")

    backbone = SD3.backbone(deepcopy(SD3.pipeline()))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "model_info", fail)
    with pytest.raises(FileNotFoundError, match=r"'me/lora'.*: no route to the hub; try `hf"):
        Lora(start="me/lora")(backbone, generator=seeded())


def test_a_file_without_a_lora_is_refused(tmp_path):
    save_file({}, tmp_path / WEIGHTS)
    with pytest.raises(ValueError, match="must hold a LoRA, got a file without tensors"):
        attached(SD3, Lora(start=str(tmp_path)))


def test_targets_that_match_nothing_are_refused_with_what_there_is():
    with pytest.raises(ValueError, match=r"got 'to_qq', which none.*; there are .*attn\.to_q, "):
        attached(SD3, Lora(targets=["to_q", "to_qq"]))


def test_a_backbone_that_takes_no_adapter_is_refused():
    for backbone in (SimpleNamespace(), SimpleNamespace(module=torch.nn.Linear(1, 1))):
        assert not isinstance(backbone, Adaptable)
        with pytest.raises(TypeError, match=r"`tuning` lora needs .*: tuning=\{name: full\}"):
            Lora()(backbone, generator=seeded())


def test_a_second_adapter_is_refused():
    backbone = attached(SD3)
    with pytest.raises(ValueError, match=r"must have no adapter yet.*fuse_lora"):
        Lora()(backbone, generator=seeded())


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_a_model_that_no_file_could_hold_is_refused():
    pipeline = deepcopy(SD3.pipeline())
    SD3.backbone(pipeline)
    Lora(rank=2)(SD3.backbone(pipeline), generator=seeded())
    assert adapter_of(pipeline.transformer) == "default"
    pipeline.transformer.proj_out.requires_grad_(True)
    with pytest.raises(ValueError, match=r"2 other parameters .* first being 'proj_out\.weight'"):
        SD3.backbone(pipeline)
    pipeline.transformer.proj_out.requires_grad_(False)
    from peft import LoraConfig

    pipeline.transformer.add_adapter(LoraConfig(target_modules=["to_q"]), "second")
    with pytest.raises(ValueError, match="one adapter at most, got default, second"):
        SD3.backbone(pipeline)

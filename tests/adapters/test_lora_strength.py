"""An adapter is as strong here as peft makes it, and as strong elsewhere as it was trained."""

from __future__ import annotations

import hashlib
import json
from copy import deepcopy

import peft
import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flowbp.adapters import Lora
from flowbp.adapters.component_files import read_header
from flowbp.adapters.lora_files import PEFT_CONFIG, PEFT_WEIGHTS, WEIGHTS
from flowbp.adapters.lora_layers import adapter_layers

from .adapted import TUNED, attached, trained

CONFIGURATIONS = {
    "alpha": {"r": 4, "lora_alpha": 8},
    "a scale of a third": {"r": 3, "lora_alpha": 1},
    "rank-stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"to_k": 2, "transformer_blocks.0.attn.to_q": 3},
        "alpha_pattern": {"to_k": 5, "transformer_blocks.1.*": 32},
    },
    "a bias of the adapter": {"r": 4, "lora_alpha": 8, "lora_bias": True},
    "a regular expression": {"r": 2, "lora_alpha": 6, "target_modules": r".*\.att\w+\.to_[qv]"},
}


@pytest.fixture(scope="module", params=TUNED)
def family(request):
    return TUNED[request.param]


def adapted_by_peft(family, folder, **options):
    """A folder that peft wrote, and the transformer with that adapter merged by peft itself."""
    module = deepcopy(family.pipeline().transformer)
    config = peft.LoraConfig(**({"target_modules": ["to_q", "to_k", "to_v"]} | options))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = peft.get_peft_model(module, config)
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model.merge_and_unload()


def deltas(backbone):
    """What each layer adds to its weight, in float64, from the tensors that are computed with."""
    return {
        name: layer.scaling["default"]
        * layer.lora_B["default"].weight.double()
        @ layer.lora_A["default"].weight.double()
        for name, layer in adapter_layers(backbone.module).items()
    }


@pytest.mark.filterwarnings("ignore:Adapter 'default'")
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_an_adapter_of_peft_adds_what_peft_merges(family, tmp_path, name):
    unbiased = family in (TUNED["flux2 klein-base"], TUNED["z_image"])
    if "lora_bias" in CONFIGURATIONS[name] and unbiased:
        pytest.skip("its layers have no bias, and peft merges none into them")
    merged = dict(adapted_by_peft(family, tmp_path, **CONFIGURATIONS[name]).named_parameters())
    base = dict(family.pipeline().transformer.named_parameters())
    backbone = attached(family, Lora(start=str(tmp_path)))
    found = deltas(backbone)
    changed = {key for key in base if not torch.equal(base[key], merged[key])}
    assert {f"{layer}.weight" for layer in found} == {
        each for each in changed if "bias" not in each
    }
    for layer, delta in found.items():
        weight = f"{layer}.weight"
        theirs = (merged[weight] - base[weight]).double()
        assert theirs.abs().max() > 1e-3
        assert torch.allclose(delta, theirs, rtol=1e-5, atol=1e-6)
    if CONFIGURATIONS[name].get("lora_bias"):
        for layer, module in adapter_layers(backbone.module).items():
            bias = module.scaling["default"] * module.lora_B["default"].bias
            theirs = merged[f"{layer}.bias"] - base[f"{layer}.bias"]
            assert torch.allclose(bias, theirs, rtol=1e-5, atol=1e-6)


def test_the_file_itself_may_be_named(family, tmp_path):
    adapted_by_peft(family, tmp_path, r=4, lora_alpha=8)
    by_folder = deltas(attached(family, Lora(start=str(tmp_path))))
    by_file = deltas(attached(family, Lora(start=str(tmp_path / PEFT_WEIGHTS))))
    assert all(torch.equal(by_file[layer], delta) for layer, delta in by_folder.items())


def test_alpha_in_tensors_in_metadata_and_in_a_configuration_mean_the_same(family, tmp_path):
    adapted_by_peft(family, tmp_path, r=4, lora_alpha=8)
    wanted = deltas(attached(family, Lora(start=str(tmp_path))))
    plain = {
        name.replace("base_model.model.", "transformer."): tensor
        for name, tensor in load_file(tmp_path / PEFT_WEIGHTS).items()
    }
    alphas = {f"{name.split('.lora_')[0]}.alpha": torch.tensor(8.0) for name in plain}
    metadata = {"transformer.r": 4, "transformer.lora_alpha": 8}
    said = {"lora_adapter_metadata": json.dumps(metadata)}
    down = {
        name.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): tensor
        for name, tensor in plain.items()
    }
    forms = {
        "tensors": (plain | alphas, None),
        "metadata": (plain, said),
        "both": (plain | alphas, said),
        "older names": (down | alphas, None),
    }
    for name, (tensors, header) in forms.items():
        path = tmp_path / name / "lora.safetensors"
        path.parent.mkdir()
        save_file(tensors, path, header)
        found = deltas(attached(family, Lora(start=str(path))))
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[layer], delta) for layer, delta in wanted.items()), name


@pytest.mark.parametrize(("rank", "alpha"), [(4, 8), (4, 2), (3, 7)])
def test_an_export_has_its_scale_in_its_tensors(family, tmp_path, rank, alpha):
    backbone = trained(family, Lora(rank=rank, alpha=alpha))
    wanted = deltas(backbone)
    backbone.save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    for layer, delta in wanted.items():
        up = tensors[f"transformer.{layer}.lora_B.weight"].double()
        found = up @ tensors[f"transformer.{layer}.lora_A.weight"].double()
        if alpha / rank in (0.5, 1, 2):
            assert torch.equal(found, delta)
        # One rounding of each number of B.
        bound = 2**-23 * delta.abs().max() * rank
        assert (found - delta).abs().max() <= bound
    with safe_open(tmp_path / WEIGHTS, framework="pt") as file:
        said = json.loads(file.metadata()["lora_adapter_metadata"])
    assert said["transformer.r"] == said["transformer.lora_alpha"] == rank
    assert not any(name.endswith(".alpha") for name in tensors)
    pipeline = deepcopy(family.pipeline())
    pipeline.load_lora_weights(tmp_path)
    theirs = {
        name: layer.scaling["default_0"]
        * layer.lora_B["default_0"].weight.double()
        @ layer.lora_A["default_0"].weight.double()
        for name, layer in adapter_layers(pipeline.transformer).items()
    }
    again = deltas(attached(family, Lora(start=str(tmp_path))))
    for found in (theirs, again):
        assert found.keys() == wanted.keys()
        for layer, delta in wanted.items():
            assert (found[layer] - delta).abs().max() <= 2**-22 * delta.abs().max() * rank


def test_equal_adapters_are_equal_files(family, tmp_path):
    backbone = trained(family, Lora(rank=4, alpha=8))
    files = [tmp_path / str(number) / WEIGHTS for number in range(6)]
    for file in files:
        backbone.save(file.parent)
    # Six orders of three texts by chance would be one in 7776.
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in files}) == 1
    content = files[0].read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert list(header["__metadata__"]) == sorted(header["__metadata__"])
    assert len(header["__metadata__"]) == 3


REFUSED = {
    "use_dora": ({"use_dora": True}, None, "lora_magnitude_vector.*DoRA"),
    "bias": ({}, {"bias": "all"}, "bias='all', which cannot be honoured"),
    "modules_to_save": ({}, {"modules_to_save": ["proj_out"]}, "modules_to_save=.*proj_out"),
    "target_parameters": ({}, {"target_parameters": ["weight"]}, "target_parameters=.*weight"),
    "layer_replication": ({}, {"layer_replication": [[0, 1]]}, "layer_replication="),
    "pissa": ({}, {"init_lora_weights": "pissa"}, "init_lora_weights='pissa'.*base model"),
    "another method": ({}, {"peft_type": "LOKR"}, "peft_type='LOKR'"),
    "rank": ({}, {"r": 5}, "says rank 5 of .*whose tensors have rank 4"),
    "no number": ({}, {"lora_alpha": "8"}, "lora_alpha='8', which peft does not write"),
    "infinite": ({}, {"lora_alpha": float("inf")}, "lora_alpha=inf"),
    "no pattern": ({}, {"alpha_pattern": {"(": 1}}, r"alpha_pattern=\{'\(': 1\}"),
    "more layers": ({}, {"target_modules": ["to_q", "to_out.0"]}, "no tensors for .*to_out.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path, name):
    options, changed, message = REFUSED[name]
    adapted_by_peft(TUNED["sd3"], tmp_path, r=4, lora_alpha=8, target_modules=["to_q"], **options)
    path = tmp_path / PEFT_CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | (changed or {})))
    with pytest.raises(ValueError, match=message):
        attached(TUNED["sd3"], Lora(start=str(tmp_path)))


def test_an_adapter_of_peft_needs_its_configuration(tmp_path):
    adapted_by_peft(TUNED["sd3"], tmp_path, r=4, lora_alpha=8)
    path = tmp_path / PEFT_CONFIG
    for content in ("{", "[]", "\x00"):
        path.write_text(content)
        with pytest.raises(ValueError, match=PEFT_CONFIG):
            attached(TUNED["sd3"], Lora(start=str(tmp_path)))
    path.unlink()
    with pytest.raises(ValueError, match=f"without its {PEFT_CONFIG}.*put that file beside it"):
        attached(TUNED["sd3"], Lora(start=str(tmp_path)))


def test_two_strengths_are_refused(tmp_path):
    family = TUNED["sd3"]
    trained(family, Lora(rank=4, alpha=4)).save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    alphas = {f"{name.split('.lora_')[0]}.alpha": torch.tensor(8.0) for name in tensors}
    header = read_header(tmp_path / WEIGHTS)
    save_file(tensors | alphas, tmp_path / WEIGHTS, header)
    with pytest.raises(ValueError, match=r"of two strengths.* 1 by the metadata .* 2 by "):
        attached(family, Lora(start=str(tmp_path)))


def test_an_alpha_that_is_damaged_is_named(tmp_path):
    family = TUNED["sd3"]
    tensors = {}
    trained(family, Lora(rank=4)).save(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    layer = min(tensors).split(".lora_")[0]
    for alpha in (torch.tensor([1.0, 2.0]), torch.tensor(float("nan")), torch.tensor(-1.0)):
        save_file(tensors | {f"{layer}.alpha": alpha}, tmp_path / "a.safetensors")
        with pytest.raises(ValueError, match=r"alpha' that is no single number above 0"):
            attached(family, Lora(start=str(tmp_path / "a.safetensors")))
    save_file(tensors, tmp_path / "b.safetensors", {"lora_adapter_metadata": "{"})
    with pytest.raises(ValueError, match=r"b\.safetensors is damaged: `lora_adapter_metadata`"):
        attached(family, Lora(start=str(tmp_path / "b.safetensors")))


def test_what_was_trained_is_put_back_at_its_own_scale(tmp_path):
    """As `averaged: false` of an evaluation does, from the parameters beside the file."""
    from flowbp.adapters.lora_files import trained_scales

    backbone = trained(TUNED["sd3"], Lora(rank=4, alpha=8))
    backbone.save(tmp_path)
    scales = trained_scales(tmp_path / WEIGHTS)
    assert scales == {layer: 2.0 for layer in adapter_layers(backbone.module)}
    attached(TUNED["sd3"], Lora(start=str(tmp_path))).save(tmp_path / "again")
    assert trained_scales(tmp_path / "again" / WEIGHTS) == {}


def test_an_adapter_of_peft_is_read_from_the_cache_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository, commit = tmp_path / "models--me--lora", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    folder = repository / "snapshots" / commit
    adapted_by_peft(TUNED["sd3"], folder, r=4, lora_alpha=8)
    wanted = deltas(attached(TUNED["sd3"], Lora(start=str(folder))))
    found = deltas(attached(TUNED["sd3"], Lora(start="me/lora")))
    assert all(torch.equal(found[layer], delta) for layer, delta in wanted.items())
    (folder / PEFT_CONFIG).unlink()
    with pytest.raises(FileNotFoundError, match=rf"'me/lora' could not be read, its {PEFT_CONFIG}"):
        attached(TUNED["sd3"], Lora(start="me/lora"))

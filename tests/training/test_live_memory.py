"""What lives at a time, against counts by hand and against what torch itself saves."""

from __future__ import annotations

import attrs
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.random_backbone import SMALL, SMALL_VAES, random_backbone
from flowbp.adapters import DtypePolicy, Lora
from flowbp.training.device_rules import DeviceRules
from flowbp.training.live_memory import LiveMemory

from ..adapters.families import FAMILIES


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_peak_is_of_what_is_there_at_a_time(device: str) -> None:
    given = torch.zeros(1000, device=device)
    with LiveMemory([given]) as live:
        a = given * 2
        b = a + 1
        assert (live.now, live.peak) == (8000, 8000)
        del a
        b.mul_(3)
        view = b[:10]
        del b
        assert (live.now, live.peak) == (4000, 8000)
        del view
    assert live.now == 0
    assert live.peak == 8000


def _model(name: str, device: str, tuning: str):
    if name in FAMILIES:
        model = FAMILIES[name].backbone(FAMILIES[name].changed())
        model.module.to(device)
    else:
        family = name.split()[0]
        changes = {"transformer": SMALL[family], "vae": SMALL_VAES[family]}
        model = random_backbone(name, text_tokens=8, device=device, **changes)
    if tuning == "lora":
        return Lora(rank=2)(model, generator=torch.Generator())
    return model


def _saved(model, conditioning, x, there) -> int:
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        v = model.velocity(conditioning)(x.requires_grad_(), torch.tensor(0.5))
    for each in (*there, v):
        saved.pop(each.untyped_storage().data_ptr(), None)
    return sum(saved.values())


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("name", ["sd3.5 medium", "flux1 dev", "flux2 klein 4B", "z_image"])
def test_a_pull_without_weights_keeps_what_torch_saves_with_them(name: str, tuning: str) -> None:
    kept, count = {}, 2
    for device in ("cpu", "meta"):
        model = _model(name, device, tuning)
        x = model.noise(count, height=32, width=32, generator=torch.Generator()).to(device)
        with torch.no_grad(), DeviceRules("cpu").active():
            conditioning = model.encode(["a", "b"]).to(device)
            # Z-Image keeps a table from its first call on.
            model.velocity(conditioning)(x, torch.tensor(0.5))
        there = [*model.module.parameters(), *model.module.buffers(), x]
        there += conditioning.tensors.values()
        if device == "meta":
            live, rules = LiveMemory(there), DeviceRules("cpu")
            with rules.active(), live:
                v = model.velocity(conditioning)(x.requires_grad_(), torch.tensor(0.5))
            # The velocity itself is there, whether it is saved or not.
            kept[device] = live.now - live.block_of(v).size
            continue
        kept[device] = _saved(model, conditioning, x, there)
    assert kept["meta"] == kept["cpu"] > 0


def test_blocks_that_are_checkpointed_are_ruled_in_the_backward_pass_too() -> None:
    model = _model("sd3.5 medium", "meta", "full")
    x = model.noise(2, height=32, width=32, generator=torch.Generator()).requires_grad_()
    model = attrs.evolve(
        model, policy=DtypePolicy(torch.float32, torch.bfloat16), gradient_checkpointing=True
    )
    rules = DeviceRules("cuda")
    blocks = list(model.module.transformer_blocks)
    with rules.active(), rules.in_backward(blocks, torch.bfloat16):
        conditioning = model.encode(["a", "b"])
        v = model.velocity(conditioning)(x, torch.tensor(0.5))
        v.sum().backward()
    assert x.grad is not None
    assert not any("forward" in vars(each) for each in blocks)

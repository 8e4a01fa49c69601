"""A checkpoint on the backbone is what was trained, at the strength that it was trained at."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowbp.adapters import SD3Backbone
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.cli.evaluate.models import (
    applied,
    cheapest_first,
    check_applicable,
    damage,
    is_whole,
    model_fault,
)
from flowbp.cli.evaluate.settings import ModelSection
from flowbp.shapes.embedded import base_folder, embedded_backbone

RANK, ALPHA = 2, 4  # Of the fixture's run.


def layers(backbone):
    return {
        name: (layer.scaling["default"], layer.lora_A["default"], layer.lora_B["default"])
        for name, layer in adapter_layers(backbone.module).items()
    }


@pytest.fixture
def backbone(models):
    return SD3Backbone.from_pretrained(models / "base", use_t5=False, text_length=4)


def test_the_last_weights_of_an_adapter_are_at_their_own_scale(backbone, checkpoints):
    place = checkpoints["lora"]
    kept = load_file(place / "training" / "tensors.safetensors")
    with applied(backbone, ModelSection(checkpoint=place)):
        averaged = layers(backbone)
        assert {scale for scale, _, _ in averaged.values()} == {1.0}
    with applied(backbone, ModelSection(checkpoint=place, averaged=False, scale=0.5)):
        found = layers(backbone)
        assert {scale for scale, _, _ in found.values()} == {0.5 * ALPHA / RANK}
        for _, down, up in found.values():
            # Both factors are among what training goes on with, B not multiplied.
            for weight in (down.weight, up.weight):
                assert any(
                    tensor.shape == weight.shape and torch.equal(tensor, weight)
                    for tensor in kept.values()
                )


def test_a_lora_of_another_model_is_found_without_weights(models, tmp_path, checkpoints):
    from flowbp.shapes.embedded import embedded_backbone

    other = embedded_backbone(device="meta")
    with pytest.raises(ValueError, match=r"of a model of another size|has no place"):
        check_applicable(other, ModelSection(checkpoint=checkpoints["lora"]))
    own = SD3Backbone.from_pretrained(models / "base", use_t5=False, device="meta")
    for place in checkpoints.values():
        check_applicable(own, ModelSection(checkpoint=place))
    assert not adapter_layers(own.module)


def test_a_checkpoint_that_does_not_exist_is_refused():
    key, message = model_fault(ModelSection(checkpoint=Path("/none")))
    assert key == "checkpoint" and "'/none'" in message and "name a folder" in message
    assert damage(ModelSection()) is None and model_fault(ModelSection()) is None


def test_a_whole_checkpoint_is_applied_and_comes_last():
    whole = ModelSection(checkpoint=base_folder())
    assert is_whole(base_folder())
    assert cheapest_first({"whole": whole, "base": ModelSection()}) == ["base", "whole"]
    check_applicable(embedded_backbone(device="meta"), whole)
    with applied(embedded_backbone(), whole):
        pass

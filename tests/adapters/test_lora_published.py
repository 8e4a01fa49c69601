"""The default targets at the published configurations, on torch's meta device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from flowbp.adapters import (
    FLOAT32,
    Flux1Backbone,
    Flux2Backbone,
    Lora,
    QwenImageBackbone,
    SD3Backbone,
    ZImageBackbone,
)
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.adapters.pipeline_files import pipeline_class
from flowbp.cli.run.check import trained_parameters

from .test_published import transformer

FAMILIES = {
    "sd3.5": SD3Backbone,
    "flux1": Flux1Backbone,
    "flux2": Flux2Backbone,
    "z_image": ZImageBackbone,
    "qwen_image": QwenImageBackbone,
}


@pytest.mark.parametrize(
    ("name", "layers", "count"),
    [
        # The last of the blocks has no text output; 13 blocks attend to the image once more.
        ("sd3.5 medium", 24 * 8 - 1 + 13 * 4, 23_887_872),
        ("sd3.5 large", 38 * 8 - 1, 47_161_344),
        ("flux1 dev", 19 * 12 + 38 * 3, 89_653_248),
        ("flux2 klein 4B", 5 * 8 + 20 * 2, 37_355_520),
        ("flux2 klein 9B", 8 * 8 + 24 * 2, 63_963_136),
        # 30 blocks and 2 of each refiner.
        ("z_image", 34 * 4, 34 * 4 * 32 * 2 * 3840),
        ("qwen_image", 60 * 8, 60 * 8 * 32 * 2 * 3072),
    ],
)
def test_the_defaults_adapt_every_block(name, layers, count):
    module, _ = transformer(name)
    family = FAMILIES[name.split()[0]]
    # As much of a backbone as an adapter needs.
    sketch = SimpleNamespace(
        module=module,
        policy=FLOAT32,
        lora_targets=family.lora_targets,
        lora_pipeline=pipeline_class(family.layout.pipeline),
        trainable=lambda: {n: each for n, each in module.named_parameters() if each.requires_grad},
    )
    tuned = Lora(rank=32)(sketch, generator=torch.Generator())
    assert len(adapter_layers(module)) == layers
    assert trained_parameters(tuned) == count

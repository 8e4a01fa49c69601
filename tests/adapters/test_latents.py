"""Which pictures a family can draw, with weights and without, and how their latents are packed."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters import (
    Flux1Backbone,
    Flux2Backbone,
    PictureSizes,
    PipelineSource,
    SD3Backbone,
    ZImageBackbone,
    read_config,
)
from flowbp.adapters.latents import from_sequence, grid_ids, patchify, to_sequence, unpatchify

from .families import FAMILIES

# Of the published checkpoints.
VAE = {"block_out_channels": [128, 256, 512, 512]}


@pytest.mark.parametrize(
    ("family", "transformer", "sizes"),
    [
        (SD3Backbone, {"patch_size": 2, "pos_embed_max_size": 384}, PictureSizes(16, 6144)),
        (SD3Backbone, {"patch_size": 2, "pos_embed_max_size": None}, PictureSizes(16)),
        (Flux1Backbone, {}, PictureSizes(16)),
        (Flux2Backbone, {}, PictureSizes(16)),
        (ZImageBackbone, {"axes_lens": [1536, 512, 512]}, PictureSizes(16, 8192)),
    ],
)
def test_sizes_of_the_published_models(family, transformer, sizes):
    assert family.picture_sizes(transformer, VAE) == sizes


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_draws_what_its_configuration_says(name, tmp_path):
    family = FAMILIES[name]
    family.pipeline().save_pretrained(tmp_path / "model")
    layout = family.kind.layout
    source = PipelineSource(tmp_path / "model")
    configs = [read_config(source, layout, part) for part in ("transformer", "vae")]
    multiple = family.kind.picture_sizes(*configs).multiple
    backbone = family.backbone()
    for factor in (1, 3):
        assert len(backbone.latent_shape(factor * multiple, multiple)) == 3
    for side in (multiple - 1, multiple + 1, 2 * multiple - 1):
        with pytest.raises(ValueError, match=f"`width` must be .* {multiple}, got {side}"):
            backbone.latent_shape(multiple, side)


def test_what_a_configuration_leaves_out_is_its_class_default(tmp_path):
    FAMILIES["sd3"].pipeline().save_pretrained(tmp_path)
    path = tmp_path / "transformer" / "config.json"
    lines = [line for line in path.read_text().splitlines() if "patch_size" not in line]
    path.write_text("\n".join(lines))
    found = read_config(PipelineSource(tmp_path), SD3Backbone.layout, "transformer")
    assert found["patch_size"] == 2


def test_sides_and_bound_are_reported():
    sizes = PictureSizes(16, largest=64)
    assert [sizes.fault(side) for side in (16, 64)] == [None, None]
    assert sizes.fault(0) == "must be a positive multiple of 16, got 0; the nearest is 16"
    assert "got 50; the nearest are 48 and 64" in sizes.fault(50)
    assert "must be at most 64" in sizes.fault(80)
    with pytest.raises(ValueError, match="`multiple` must be"):
        PictureSizes(0)


def test_packing_is_row_by_row_and_undone():
    assert patchify(torch.arange(4.0).view(1, 1, 2, 2)).flatten().tolist() == [0, 1, 2, 3]
    latents = torch.randn(2, 3, 4, 6, generator=torch.Generator().manual_seed(0))
    patches = patchify(latents)
    assert torch.equal(unpatchify(patches), latents)
    assert to_sequence(patches).shape == (2, 6, 12)
    assert torch.equal(from_sequence(to_sequence(patches), 2), patches)
    ids = grid_ids(1, 2, axes=3, device=torch.device("cpu"))
    assert ids.tolist() == [[0, 0, 0], [0, 0, 1]]

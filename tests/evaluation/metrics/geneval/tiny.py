"""A Mask2Former of the real class at a size for tests, with random weights."""

from __future__ import annotations

import torch
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

SWIN = dict(
    model_type="swin",
    image_size=64,
    patch_size=4,
    embed_dim=8,
    depths=[1, 1, 1, 1],
    num_heads=[1, 1, 2, 2],
    window_size=4,
    drop_path_rate=0.0,
    out_features=["stage1", "stage2", "stage3", "stage4"],
)


def configuration(labels=80, **changes):
    sizes = dict(
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=7,
        num_labels=labels,
    )
    return Mask2FormerConfig(backbone_config=dict(SWIN), **(sizes | changes))


def save(folder, labels=80):
    """Save one whose classes and masks differ from query to query and picture to picture."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mask2FormerForUniversalSegmentation(configuration(labels)).eval()
        with torch.no_grad():
            model.class_predictor.weight.normal_(std=3.0)
    model.save_pretrained(folder)
    return model

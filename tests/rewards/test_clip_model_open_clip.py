"""open_clip's keys: against its mathematics at reduced size, and every key at the real one."""

from __future__ import annotations

import torch
from safetensors.torch import save_file

from flowbp.rewards import VIT_H_14, load_open_clip
from flowbp.rewards.clip_model import open_clip_layout, renamed

from .open_clip_oracle import TINY, image_features, random_weights, text_features
from .published_rewards import save_hps

BLOCK = {
    "ln_1.weight": "W",
    "ln_1.bias": "W",
    "attn.in_proj_weight": "3W W",
    "attn.in_proj_bias": "3W",
    "attn.out_proj.weight": "W W",
    "attn.out_proj.bias": "W",
    "ln_2.weight": "W",
    "ln_2.bias": "W",
    "mlp.c_fc.weight": "4W W",
    "mlp.c_fc.bias": "4W",
    "mlp.c_proj.weight": "W 4W",
    "mlp.c_proj.bias": "W",
}
# Written out from the published description of HPSv2.1's file.
VIT_H_14_KEYS = {
    "positional_embedding": (77, 1024),
    "text_projection": (1024, 1024),
    "logit_scale": (),
    "token_embedding.weight": (49408, 1024),
    "ln_final.weight": (1024,),
    "ln_final.bias": (1024,),
    "visual.class_embedding": (1280,),
    "visual.positional_embedding": (257, 1280),
    "visual.proj": (1280, 1024),
    "visual.conv1.weight": (1280, 3, 14, 14),
    "visual.ln_pre.weight": (1280,),
    "visual.ln_pre.bias": (1280,),
    "visual.ln_post.weight": (1280,),
    "visual.ln_post.bias": (1280,),
}


def block_shapes(width):
    sizes = {"W": width, "3W": 3 * width, "4W": 4 * width}
    return {key: tuple(sizes[each] for each in text.split()) for key, text in BLOCK.items()}


def test_every_key_and_shape_at_the_real_size():
    expected = dict(VIT_H_14_KEYS)
    for prefix, width, layers in (("visual.", 1280, 32), ("", 1024, 24)):
        for number in range(layers):
            place = f"{prefix}transformer.resblocks.{number}"
            expected |= {f"{place}.{key}": shape for key, shape in block_shapes(width).items()}
    assert open_clip_layout(VIT_H_14.model()) == expected


def test_the_real_size_fits_the_model_of_transformers():
    model = VIT_H_14.model()
    layout = open_clip_layout(model)
    weights = {key: torch.empty(shape, device="meta") for key, shape in layout.items()}
    found = renamed(weights, model)
    assert {key: value.shape for key, value in model.state_dict().items()} == {
        key: value.shape for key, value in found.items()
    }
    model.load_state_dict(found, strict=True, assign=True)
    assert sum(p.numel() for p in model.parameters()) == 986_109_441
    config = model.config
    assert (config.text_config.hidden_act, config.vision_config.hidden_act) == ("gelu", "gelu")
    assert (config.text_config.bos_token_id, config.text_config.eos_token_id) == (49406, 49407)
    assert config.vision_config.num_attention_heads == config.text_config.num_attention_heads == 16


def features(model):
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(3, 3, TINY.image, TINY.image, generator=generator, requires_grad=True)
    tokens = torch.randint(0, 78, (3, TINY.positions), generator=generator)
    tokens[0, 4], tokens[1, 9], tokens[2, -1] = 79, 79, 79
    image = model.get_image_features(pixel_values=pixels)
    text = model.get_text_features(input_ids=tokens)
    image, text = (o if torch.is_tensor(o) else o.pooler_output for o in (image, text))
    return pixels, tokens, image, text


def assert_close(found, expected):
    """To 1e-5 of the size of what is expected."""
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


def test_features_and_pixel_gradient_are_those_of_the_mathematics(tmp_path):
    weights = random_weights(TINY)
    path = save_hps(tmp_path / "tiny.pt", weights | {"attn_mask": torch.zeros(12, 12)})
    model = load_open_clip(path, TINY, dtype=torch.float32)
    pixels, tokens, image, text = features(model)
    expected = image_features(weights, TINY, pixels)
    assert_close(image, expected)
    assert_close(text, text_features(weights, TINY, tokens))
    cotangent = torch.linspace(-1, 1, image.numel()).reshape(image.shape)
    (found,) = torch.autograd.grad(image, pixels, cotangent)
    (wanted,) = torch.autograd.grad(expected, pixels, cotangent)
    assert_close(found, wanted)
    assert model.logit_scale.item() == 3.0


def test_a_safetensors_file_with_a_prefix_holds_the_same_model(tmp_path):
    weights = random_weights(TINY)
    path = tmp_path / "tiny.safetensors"
    save_file({f"model.{key}": value.contiguous() for key, value in weights.items()}, path)
    plain = load_open_clip(save_hps(tmp_path / "tiny.pt", weights), TINY, dtype=torch.float32)
    for found, expected in zip(
        features(load_open_clip(path, TINY, dtype=torch.float32)), features(plain), strict=True
    ):
        assert torch.equal(found, expected)


def test_half_precision_files_are_cast(tmp_path):
    weights = {key: value.half() for key, value in random_weights(TINY).items()}
    model = load_open_clip(save_hps(tmp_path / "half.pt", weights), TINY, dtype=torch.float64)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert torch.equal(model.visual_projection.weight, weights["visual.proj"].T.to(torch.float64))

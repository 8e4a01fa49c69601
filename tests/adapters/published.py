"""The tensors that published checkpoints declare, from their configurations.

The configurations are in `benchmarks.random_backbone`; of the text encoders, the sizes that the
transformers read.
"""

from __future__ import annotations

from typing import Any

CLIP_L = dict(hidden_size=768, projection_dim=768, intermediate_size=3072, num_hidden_layers=12)
CLIP_G = dict(hidden_size=1280, projection_dim=1280, intermediate_size=5120, num_hidden_layers=32)
T5_XXL = dict(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64)
QWEN3 = {
    "flux2 klein 4B": dict(hidden_size=2560, intermediate_size=9728, tie_word_embeddings=True),
    "flux2 klein 9B": dict(hidden_size=4096, intermediate_size=12288, tie_word_embeddings=False),
    "z_image": dict(hidden_size=2560, intermediate_size=9728, tie_word_embeddings=True),
}

QWEN_VL = dict(
    text_config=dict(
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=128000,
        vocab_size=512,
    ),
    vision_config=dict(depth=1, out_hidden_size=3584),
)

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, out: int, into: int, *, bias: bool) -> Shapes:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _linears(prefix: str, sizes: dict[str, tuple[int, int]], *, bias: bool) -> Shapes:
    found: Shapes = {}
    for name, (out, into) in sizes.items():
        found |= _linear(prefix + name, out, into, bias=bias)
    return found


def _norms(prefix: str, names: tuple[str, ...], width: int) -> Shapes:
    return {f"{prefix}attn.{name}.weight": (width,) for name in names}


_DOUBLE_NORMS = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")


def _attention(d: int, name: str = "attn", *, text: bool = True, out: bool = True) -> Any:
    sizes = {f"{name}.to_{each}": (d, d) for each in "qkv"} | {f"{name}.to_out.0": (d, d)}
    if text:
        sizes |= {f"{name}.add_{each}_proj": (d, d) for each in "qkv"}
    if text and out:
        sizes |= {f"{name}.to_add_out": (d, d)}
    return sizes


def _feed_forward(d: int, *names: str) -> dict[str, tuple[int, int]]:
    sizes = {}
    for name in names:
        sizes |= {f"{name}.net.0.proj": (4 * d, d), f"{name}.net.2": (d, 4 * d)}
    return sizes


def _embedders(prefix: str, d: int, sizes: dict[str, int], *, bias: bool) -> Shapes:
    found: Shapes = {}
    for name, into in sizes.items():
        inner = {f"{name}.linear_1": (d, into), f"{name}.linear_2": (d, d)}
        found |= _linears(prefix, inner, bias=bias)
    return found


def sd3_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of an SD3.5 transformer."""
    d = config["attention_head_dim"] * config["num_attention_heads"]
    head, patch, last = config["attention_head_dim"], config["patch_size"], config["num_layers"] - 1
    found = _linears(
        "",
        {
            "context_embedder": (config["caption_projection_dim"], config["joint_attention_dim"]),
            "norm_out.linear": (2 * d, d),
            "proj_out": (patch**2 * config["out_channels"], d),
        },
        bias=True,
    )
    embedded = {"timestep_embedder": 256, "text_embedder": config["pooled_projection_dim"]}
    found |= _embedders("time_text_embed.", d, embedded, bias=True)
    found |= {
        "pos_embed.pos_embed": (1, config["pos_embed_max_size"] ** 2, d),
        "pos_embed.proj.weight": (d, config["in_channels"], patch, patch),
        "pos_embed.proj.bias": (d,),
    }
    for i in range(config["num_layers"]):
        dual, whole = i in config["dual_attention_layers"], i < last
        prefix = f"transformer_blocks.{i}."
        sizes = _attention(d, out=whole) | _feed_forward(d, "ff", *["ff_context"] * whole)
        sizes["norm1.linear"] = ((9 if dual else 6) * d, d)
        sizes["norm1_context.linear"] = ((6 if whole else 2) * d, d)
        if dual:
            sizes |= _attention(d, "attn2", text=False)
            found |= {f"{prefix}attn2.norm_{each}.weight": (head,) for each in "qk"}
        found |= _linears(prefix, sizes, bias=True) | _norms(prefix, _DOUBLE_NORMS, head)
    return found


def z_image_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of a Z-Image transformer."""
    d, text, patch = config["dim"], config["cap_feat_dim"], 4 * config["in_channels"]
    found = _linears(
        "",
        {
            "all_x_embedder.2-1": (d, patch),
            "all_final_layer.2-1.linear": (patch, d),
            "all_final_layer.2-1.adaLN_modulation.1": (d, 256),
            "cap_embedder.1": (d, text),
            "t_embedder.mlp.0": (1024, 256),
            "t_embedder.mlp.2": (256, 1024),
        },
        bias=True,
    )
    found |= {"cap_embedder.0.weight": (text,), "x_pad_token": (1, d), "cap_pad_token": (1, d)}
    counts = {"layers": config["n_layers"]}
    counts |= dict.fromkeys(("noise_refiner", "context_refiner"), config["n_refiner_layers"])
    for part, count in counts.items():
        for i in range(count):
            prefix, m = f"{part}.{i}.", int(d / 3 * 8)
            sizes = _attention(d, "attention", text=False)
            sizes |= {f"feed_forward.w{n}": (d, m) if n == 2 else (m, d) for n in (1, 2, 3)}
            found |= _linears(prefix, sizes, bias=False)
            for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
                found[f"{prefix}{name}.weight"] = (d,)
            head = d // config["n_heads"]
            found |= {f"{prefix}attention.norm_{each}.weight": (head,) for each in "qk"}
            if part != "context_refiner":
                found |= _linear(f"{prefix}adaLN_modulation.0", 4 * d, 256, bias=True)
    return found


def qwen_image_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of a Qwen-Image transformer."""
    head, text = config["attention_head_dim"], config["joint_attention_dim"]
    d = head * config["num_attention_heads"]
    patch = config["patch_size"] ** 2 * config["out_channels"]
    found = _linears(
        "",
        {
            "img_in": (d, config["in_channels"]),
            "txt_in": (d, text),
            "norm_out.linear": (2 * d, d),
            "proj_out": (patch, d),
        },
        bias=True,
    )
    found |= _embedders("time_text_embed.", d, {"timestep_embedder": 256}, bias=True)
    found["txt_norm.weight"] = (text,)
    for i in range(config["num_layers"]):
        prefix = f"transformer_blocks.{i}."
        sizes = _attention(d) | _feed_forward(d, "img_mlp", "txt_mlp")
        sizes |= {"img_mod.1": (6 * d, d), "txt_mod.1": (6 * d, d)}
        found |= _linears(prefix, sizes, bias=True) | _norms(prefix, _DOUBLE_NORMS, head)
    return found


def flux1_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of a FLUX.1 transformer."""
    head, channels = config["attention_head_dim"], config["in_channels"]
    d = head * config["num_attention_heads"]
    found = _linears(
        "",
        {
            "context_embedder": (d, config["joint_attention_dim"]),
            "x_embedder": (d, channels),
            "norm_out.linear": (2 * d, d),
            "proj_out": (channels, d),
        },
        bias=True,
    )
    embedded = {"timestep_embedder": 256, "text_embedder": config["pooled_projection_dim"]}
    embedded |= {"guidance_embedder": 256} if config["guidance_embeds"] else {}
    found |= _embedders("time_text_embed.", d, embedded, bias=True)
    for i in range(config["num_layers"]):
        prefix = f"transformer_blocks.{i}."
        sizes = _attention(d) | _feed_forward(d, "ff", "ff_context")
        sizes |= {"norm1.linear": (6 * d, d), "norm1_context.linear": (6 * d, d)}
        found |= _linears(prefix, sizes, bias=True) | _norms(prefix, _DOUBLE_NORMS, head)
    for i in range(config["num_single_layers"]):
        prefix = f"single_transformer_blocks.{i}."
        sizes = {f"attn.to_{each}": (d, d) for each in "qkv"}
        sizes |= {"norm.linear": (3 * d, d), "proj_mlp": (4 * d, d), "proj_out": (d, 5 * d)}
        found |= _linears(prefix, sizes, bias=True) | _norms(prefix, ("norm_q", "norm_k"), head)
    return found


def flux2_shapes(config: dict[str, Any]) -> Shapes:
    """The tensors of a FLUX.2 klein transformer."""
    head, channels = config["attention_head_dim"], config["in_channels"]
    d = head * config["num_attention_heads"]
    m = int(config["mlp_ratio"] * d)
    sizes = {
        "context_embedder": (d, config["joint_attention_dim"]),
        "x_embedder": (d, channels),
        "double_stream_modulation_img.linear": (6 * d, d),
        "double_stream_modulation_txt.linear": (6 * d, d),
        "single_stream_modulation.linear": (3 * d, d),
        "norm_out.linear": (2 * d, d),
        "proj_out": (channels, d),
    }
    found = _linears("", sizes, bias=False)
    embedded = {"timestep_embedder": config["timestep_guidance_channels"]}
    found |= _embedders("time_guidance_embed.", d, embedded, bias=False)
    for i in range(config["num_layers"]):
        prefix = f"transformer_blocks.{i}."
        sizes = _attention(d)
        for name in ("ff", "ff_context"):
            sizes |= {f"{name}.linear_in": (2 * m, d), f"{name}.linear_out": (d, m)}
        found |= _linears(prefix, sizes, bias=False) | _norms(prefix, _DOUBLE_NORMS, head)
    for i in range(config["num_single_layers"]):
        prefix = f"single_transformer_blocks.{i}."
        sizes = {"attn.to_qkv_mlp_proj": (3 * d + 2 * m, d), "attn.to_out": (d, d + m)}
        found |= _linears(prefix, sizes, bias=False) | _norms(prefix, ("norm_q", "norm_k"), head)
    return found

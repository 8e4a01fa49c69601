"""HPSv3 at a size for tests, saved as its published file is, and the original's forward pass."""

from __future__ import annotations

import warnings
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration

from flowbp.rewards import QWEN2_VL_7B, HPSv3, Towers, TowerSizes, hpsv3_model

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPECIAL += ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
WORDS = 256 + len(SPECIAL) + 1
PICTURE, REWARD = WORDS - 2, WORDS - 1
TINY = TowerSizes(
    vision=QWEN2_VL_7B.vision | dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2),
    text=QWEN2_VL_7B.text
    | dict(
        vocab_size=WORDS,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        rope_scaling=dict(type="mrope", mrope_section=[2, 3, 3]),
    ),
)
PIXELS = 6 * 28 * 28
TEMPLATE = "\nHow good is this picture?  \n\n- **Whole:** nothing is missing;\n\n“{prompt}”\n\n:  "


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A byte-by-byte Qwen2 tokenizer with Qwen2-VL's special tokens."""
    entries = [*sorted(ByteLevel.alphabet()), *SPECIAL]
    tokenizer = Qwen2Tokenizer(
        vocab={entry: number for number, entry in enumerate(entries)}, merges=[]
    )
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    return tokenizer


class Original(Qwen2VLForConditionalGeneration):
    """The published network: Qwen2-VL as it is, and the head on every token."""

    def __init__(self, config: Qwen2VLConfig) -> None:
        super().__init__(config)
        self.rm_head = nn.Sequential(
            nn.Linear(config.text_config.hidden_size, 1024),
            nn.ReLU(),
            nn.Dropout(0.05),
            nn.Linear(1024, 16),
            nn.ReLU(),
            nn.Linear(16, 2),
        )

    def score(self, ids: Tensor, mask: Tensor, patches: Tensor, grid: Tensor) -> Tensor:
        """Score each row of padded tokens, the picture's written among them: (B,)."""
        embedded = self.model.language_model.embed_tokens(ids)
        seen = self.model.visual(patches, grid_thw=grid).pooler_output.to(embedded.dtype)
        at = (ids == PICTURE).unsqueeze(-1).expand_as(embedded)
        embedded = embedded.masked_scatter(at, seen)
        states = self.model(inputs_embeds=embedded, attention_mask=mask).last_hidden_state
        return self.rm_head(states)[ids == REWARD][:, 0]


def configuration(sizes: TowerSizes) -> Qwen2VLConfig:
    """As transformers wants it."""
    return Qwen2VLConfig(text_config=deepcopy(dict(sizes.text)), vision_config=dict(sizes.vision))


def original() -> Original:
    """The published network, small, with weights large enough that every part shows."""
    config = configuration(TINY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Original(config).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name and parameter.ndim > 1:
                    parameter.normal_(std=0.2)
    return model.requires_grad_(False)


def save(folder: Path, model: Original) -> Path:
    """Write `HPSv3.safetensors`, and a tokenizer without the reward token."""
    path = folder / hpsv3_model.FILE
    save_file(model.state_dict(), path)
    qwen_tokenizer().save_pretrained(folder)
    return path


def load(source: Path, *, tokenizer: Path, **settings) -> HPSv3:
    """The reward of the tiny file, shared with nobody."""
    usual = dict(pixels=PIXELS, sizes=TINY, towers=Towers(), template=TEMPLATE)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not what HPSv3 was trained with")
        return HPSv3(source=source, tokenizer=tokenizer, **(usual | settings))

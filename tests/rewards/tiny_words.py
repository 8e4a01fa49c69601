"""Recognisers with random weights: EasyOCR's at its size, TrOCR's of the real classes but tiny."""

from __future__ import annotations

import string

import torch
from transformers import (
    PreTrainedTokenizerFast,
    TrOCRConfig,
    TrOCRForCausalLM,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from flowbp.rewards.words import EasyOCR, TrOCR
from flowbp.rewards.words.easyocr import EnglishRecogniser

SIZE = 32


def save_easyocr(path):
    """A file in the published keys, of random weights under which a picture's signal survives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        weights = EnglishRecogniser().state_dict()
    for key, value in weights.items():
        if key.endswith(".weight"):
            # From torch's initialisation to He's.
            value *= 6**0.5
    torch.save({f"module.{key}": value for key, value in weights.items()}, path)
    return path


def easyocr(path, **options):
    return EasyOCR(source=save_easyocr(path), verify=False, **options)


def save_trocr(folder):
    """A model and its letter-by-letter tokenizer, without the pooler that TrOCR's files lack."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    entries = ["<s>", "<pad>", "</s>", "<unk>", *string.ascii_letters, " "]
    words = Tokenizer(models.WordLevel({e: i for i, e in enumerate(entries)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    tokenizer.save_pretrained(folder)
    vision = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=SIZE,
        patch_size=8,
        initializer_range=0.3,
    )
    text = TrOCRConfig(
        vocab_size=len(entries),
        d_model=16,
        cross_attention_hidden_size=16,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=32,
        max_position_embeddings=16,
        init_std=0.3,
        decoder_start_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = VisionEncoderDecoderModel(
            encoder=ViTModel(vision, add_pooling_layer=False), decoder=TrOCRForCausalLM(text)
        )
    model.save_pretrained(folder)
    mean = [0.5, 0.5, 0.5]
    ViTImageProcessor(image_mean=mean, image_std=mean).save_pretrained(folder)
    return folder


def trocr(folder, **options):
    return TrOCR(source=save_trocr(folder), **options)

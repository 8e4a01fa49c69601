"""Loading a vision-language model of Qwen's family, every cheap check first."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from flowbp.adapters.extras import require
from flowbp.adapters.policy import DtypePolicy
from flowbp.adapters.source import local_folder, read_json
from flowbp.adapters.weights import check_loading_report, check_weight_files
from flowbp.metrics.vision_chat import BFLOAT16, VisionChat
from flowbp.rewards.clip_source import channel_statistics
from flowbp.rewards.clip_tokenizer import reading
from flowbp.rewards.needs import Need, Reading, package
from flowbp.rewards.sources import check_model, check_tokenizer
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.rewards.words import load_words

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FAMILY = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""The models whose pictures are cut up alike."""


_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def chat_needs(source: str | os.PathLike[str]) -> tuple[Need, ...]:
    """What `load_vision_chat` reads.

    Args:
        source: A hub id or a folder.

    Returns:
        The packages, the model and its tokenizer.

    Example:
        >>> [need.tower for need in chat_needs("owner/name")]
        [None, None, 'owner/name', None]
    """
    model = partial(check_model, source, argument="source", check=_check_folder)
    words = partial(check_tokenizer, source, files=_TOKENIZER_FILES, argument="source")
    return (
        package("transformers"),
        package("jinja2", extra="judges"),
        Need(check=model, tower=source, reading=Reading(source)),
        Need(check=words),
    )


def load_vision_chat(
    source: str | os.PathLike[str],
    *,
    tokens: int = 4096,
    batch: int = 1,
    policy: DtypePolicy = BFLOAT16,
    device: torch.device | str = "cpu",
    towers: Towers = TOWERS,
) -> VisionChat:
    """Load a model, its tokenizer and its channel statistics.

    Args:
        source: A hub id or a folder.
        tokens: Longest answer.
        batch: Pictures at a time.
        policy: Dtypes of the model.
        device: Where it runs.
        towers: With whom it is shared.

    Returns:
        The model, ready to answer.

    Raises:
        ModuleNotFoundError: transformers or jinja2 is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: A model of another family, or weights that do not fit.

    Example:
        ``load_vision_chat("CodeGoat24/UnifiedReward-2.0-qwen-7b", device="cuda")``
    """
    # Chat templates are written in it.
    require("jinja2", extra="judges")
    folder = local_folder(source)
    if folder is not None:
        _check_folder(folder)
    words = load_words(
        source,
        kind="AutoTokenizer",
        files=_TOKENIZER_FILES,
        published=str(source),
    )
    mean, std = channel_statistics(source)
    model = towers.get(
        folder or str(source),
        dtype=policy.weights,
        device=device,
        load=lambda: _load(source, policy.weights),
    )
    return VisionChat(
        model=model,
        tokenizer=words,
        mean=mean,
        std=std,
        tokens=tokens,
        batch=batch,
        policy=policy,
        device=torch.device(device),
    )


def _load(source: str | os.PathLike[str], dtype: torch.dtype) -> PreTrainedModel:
    kind = require("transformers").AutoModelForImageTextToText
    with reading("source", source):
        model, report = kind.from_pretrained(
            local_folder(source) or str(source),
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    _check_family(model.config.model_type, source)
    check_loading_report(report, source=source, model=type(model).__name__)
    found: PreTrainedModel = model
    return found


def _check_folder(folder: Path) -> None:
    check_weight_files(folder)
    config = read_json(folder / "config.json", what="a folder in transformers' layout")
    _check_family(config.get("model_type"), folder)


def _check_family(kind: object, source: str | os.PathLike[str]) -> None:
    if kind not in FAMILY:
        raise ValueError(
            f"`source` must hold a model of type {' or '.join(FAMILY)}, got model_type {kind!r} "
            f"in {str(source)!r}; take CodeGoat24/UnifiedReward-2.0-qwen-7b or another of its sizes"
        )

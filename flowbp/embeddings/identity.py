"""What an embedding depends on besides its prompt, as one hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from flowbp.adapters import TextEncoders

_THREADS = 4
# Where a component came from and what wrote it; neither changes what it computes.
_ORIGINS = ("name_or_path", "transformers_version", "tokenizer_file", "is_local")
# How the tokenizer was last called, which its file remembers.
_LAST_CALL = ("padding", "truncation")


def identity(encoders: TextEncoders, batch: int) -> str:
    """Hash of the encoders' weights, configurations, tokenizers, and how they are used.

    All weights are read, 1.8 GB a second and core. The number of prompts encoded together has
    a part in it, because a matrix product of another size rounds otherwise, and so has the kind
    of device.

    Args:
        encoders: of a backbone.
        batch: prompts encoded together.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> encoders = embedded_backbone().text_encoders
        >>> identity(encoders, 8) == identity(encoders, 8) != identity(encoders, 16)
        True
    """
    parts = {
        "family": encoders.family,
        "facts": encoders.facts,
        "batch": batch,
        "device": encoders.device.type,
        "towers": {name: _tower(tower) for name, tower in encoders.towers.items()},
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors: names, shapes, dtypes and values.

    Args:
        tensors: of any device.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(1, 2)})
        False
    """
    return _joined(tensors, map(_tensor, tensors.values()))


def _tower(tower: Any) -> tuple[object, str, str]:
    encoder = tower.encoder
    configuration = _without_origins(encoder.config.to_dict())
    # The dtype that it was written in: the weights' own has a part in their hash.
    configuration = {k: v for k, v in configuration.items() if k not in ("dtype", "torch_dtype")}
    weights = encoder.state_dict()
    with ThreadPoolExecutor(_THREADS) as pool:
        hashed = _joined(weights, pool.map(_tensor, weights.values()))
    return configuration, hashed, _tokenizer(tower.tokenizer)


def _tokenizer(tokenizer: Any) -> str:
    # Its files, for that is the one form that all kinds of tokenizer have.
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return hashlib.sha256(b"".join(_files(sorted(Path(folder).rglob("*.*"))))).hexdigest()


def _files(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        content = path.read_bytes()
        if path.suffix == ".json":
            facts = _without_origins(json.loads(content))
            if path.name == "tokenizer.json":
                facts = {key: value for key, value in facts.items() if key not in _LAST_CALL}
            content = json.dumps(facts, sort_keys=True).encode()
        yield f"{path.name}\0{len(content)}\0".encode() + content


def _without_origins(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {k: v for k, v in value.items() if not k.startswith("_") and k not in _ORIGINS}


def _joined(names: Iterable[str], hashes: Iterable[list[object]]) -> str:
    pairs = sorted(zip(names, hashes, strict=True), key=lambda pair: pair[0])
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def _tensor(tensor: Tensor) -> list[object]:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    hashed = hashlib.sha256(values.numpy().data)
    return [list(tensor.shape), str(tensor.dtype), hashed.hexdigest()]

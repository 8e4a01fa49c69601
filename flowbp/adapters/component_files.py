"""The files of one component of a model: which are there, and what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbp.extras import require
from flowbp.hub import read_json

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_PICKLED = {"diffusers": "diffusion_pytorch_model", "transformers": "pytorch_model"}
_INDEX = "weight_map"
_AGAIN = "copy or download the whole folder again"
# What holds the vocabulary; without any, transformers silently makes an empty tokenizer.
_VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
# Of safetensors: bytes that hold the header's length, and where its texts are.
_SIZE, _TEXTS = 8, "__metadata__"


def check_weight_files(folder: Path) -> None:
    """Refuse a folder with a damaged safetensors file."""
    for path in sorted(folder.glob("*.safetensors")):
        check_weight_file(path)


def check_weight_file(path: Path) -> None:
    """Refuse a safetensors file that is damaged; only its header is read."""
    safetensors = require("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt"):
            pass
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path} is damaged, {error}; delete it, and copy or download it again"
        ) from error


def read_header(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file."""
    check_weight_file(path)
    with require("safetensors").safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def add_to_header(path: Path, texts: Mapping[str, str]) -> None:
    """Add texts to the header of a safetensors file, and put all of it in sorted order."""
    # The library writes them in another order each time, so that equal files differ in bytes.
    content = path.read_bytes()
    size = int.from_bytes(content[:_SIZE], "little")
    entries = json.loads(content[_SIZE : _SIZE + size])
    texts = entries.pop(_TEXTS, {}) | dict(texts)
    sorted_texts = {_TEXTS: dict(sorted(texts.items()))} if texts else {}
    header = json.dumps(sorted_texts | entries, ensure_ascii=False, separators=(",", ":")).encode()
    # The format pads with spaces, so that tensors are aligned.
    header += b" " * (-len(header) % _SIZE)
    path.write_bytes(len(header).to_bytes(_SIZE, "little") + header + content[_SIZE + size :])


def check_loading_report(
    report: Mapping[str, Any], *, source: str | os.PathLike[str], model: str
) -> None:
    """Refuse a model with parameters that its weights lack, by ``from_pretrained``'s report."""
    unfit = sorted({*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])})
    if unfit:
        raise ValueError(
            f"`source` {str(source)!r} has no fitting weights for {len(unfit)} parameters of its "
            f"{model}, the first being {unfit[0]}; they would be random: copy or download the "
            "whole model"
        )


def check_component(folder: Path, library: str, kind: str) -> str | None:
    """Refuse a component that could not be loaded; of its weights only headers are read.

    Args:
        folder: Of the component, such as ``transformer``.
        library: That loads it, diffusers or transformers.
        kind: Its class.

    Returns:
        The variant of its weights, such as ``fp16``, if there are no others; None for plain ones.

    Raises:
        FileNotFoundError: Its configuration, its weights or one of their shards is missing.
        ValueError: It is of another class, quantised, damaged, or there are several variants.
    """
    check_config(folder, library, kind)
    quantised = sorted(folder.glob("*.gguf"))
    if quantised:
        raise ValueError(_no_quantised(folder, quantised[0].name))
    check_weight_files(folder)
    plain, variants = _variants(folder, library)
    if plain:
        _check_shards(folder, library, "")
        return None
    if len(variants) > 1:
        raise ValueError(
            f"{folder} has its weights in the variants {', '.join(variants)} alone, and which is "
            "meant is not known; keep the files of one of them"
        )
    if not variants:
        there = ", ".join(path.name for path in sorted(folder.iterdir())[:4]) or "nothing"
        raise FileNotFoundError(
            f"`source` {str(folder.parent)!r} could not be read, its {folder.name}: {folder} has "
            f"no {_STEMS[library]}.safetensors, it holds {there}; {_AGAIN}"
        )
    _check_shards(folder, library, f".{variants[0]}")
    return variants[0]


def check_config(folder: Path, library: str, kind: str) -> Mapping[str, Any]:
    """Refuse the configuration of another class, or of a quantised model."""
    config = read_json(folder / "config.json", what="a component with its configuration")
    found = config.get("_class_name")
    if library == "diffusers" and found != kind:
        raise ValueError(
            f"`source` must hold a {kind}, got {found} in {str(folder)!r}; name the backbone of "
            "that model family"
        )
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise ValueError(_no_quantised(folder, str(method or "quantization_config")))
    return config


def _no_quantised(folder: Path, how: str) -> str:
    return (
        f"`source` {str(folder.parent)!r} has a quantised {folder.name} ({how}), and weights are "
        "trained and evaluated here in float32 or bfloat16 alone; take the folder of the model in "
        "full precision, and policy={weights: bfloat16, compute: bfloat16} for less memory"
    )


def _variants(folder: Path, library: str) -> tuple[bool, list[str]]:
    """Whether there are plain weights, and the variants that there are."""
    stem = _STEMS[library]
    names = [path.name for path in folder.iterdir()]
    shard = r"-\d{5}-of-\d{5}"
    plain = rf"{stem}({shard})?\.safetensors(\.index\.json)?"
    pickled = rf"{_PICKLED[library]}({shard})?\.bin(\.index\.json)?"
    variant = re.compile(
        rf"{stem}(\.(?P<a>[\w-]+?)({shard})?|{shard}\.(?P<b>[\w-]+))\.safetensors"
        rf"|{stem}\.safetensors\.index\.(?P<c>[\w-]+)\.json"
    )
    found = [match for name in names if (match := variant.fullmatch(name))]
    there = any(re.fullmatch(rf"{plain}|{pickled}", name) for name in names)
    named = {match["a"] or match["b"] or match["c"] for match in found}
    return there, sorted(named)


def _check_shards(folder: Path, library: str, variant: str) -> None:
    """Refuse an index of shards of which one is missing."""
    stem, pickled = _STEMS[library], folder / f"{_PICKLED[library]}.bin"
    index = folder / f"{stem}.safetensors.index{variant}.json"
    if (folder / f"{stem}{variant}.safetensors").is_file():
        return
    if not index.is_file() and pickled.is_file():
        return
    if not index.is_file() and pickled.with_name(f"{pickled.name}.index.json").is_file():
        index = pickled.with_name(f"{pickled.name}.index.json")
    shards = read_json(index, what="a component with weights").get(_INDEX)
    if not isinstance(shards, dict) or not all(isinstance(each, str) for each in shards.values()):
        raise ValueError(f"{index} has no `{_INDEX}` from tensors to files; {_AGAIN}")
    files = sorted(set(shards.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`source` {str(folder.parent)!r} could not be read, its {folder.name}: "
            f"{folder / missing[0]} is missing, the first of {len(missing)} that are of the "
            f"{len(files)} in {index.name}; {_AGAIN}"
        )


def check_json_files(folder: Path) -> None:
    """Refuse a component without weights of which a JSON file is damaged."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}; {_AGAIN}") from error


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer's folder without a vocabulary."""
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise FileNotFoundError(
            f"`source` {str(folder.parent)!r} could not be read, its {folder.name}: {folder} has "
            f"none of {', '.join(_VOCABULARIES)}; {_AGAIN}"
        )

"""The files of one component of a model: which are there, and what is wrong with them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flowbp.extras import require
from flowbp.place import read_json

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_PICKLED = {"diffusers": "diffusion_pytorch_model", "transformers": "pytorch_model"}
_INDEX = "weight_map"
AGAIN = "copy or download the whole folder again"
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


def check_component(folder: Path, library: str, kind: str, variant: str | None) -> str | None:
    """Refuse files that could not be loaded; the variant to load, None of plain weights.

    It is the `variant` asked for where the component has it, and else what there is.
    """
    check_config(folder, library, kind)
    quantised = sorted(folder.glob("*.gguf"))
    if quantised:
        raise ValueError(_no_quantised(folder, quantised[0].name))
    check_weight_files(folder)
    variants = variants_of((path.name for path in folder.iterdir()), library)
    if not variants:
        there = ", ".join(path.name for path in sorted(folder.iterdir())[:4]) or "nothing"
        why = f"{folder} has no {_STEMS[library]}.safetensors, it holds {there}; {AGAIN}"
        raise unread(folder.parent, folder.name, why)
    found = chosen_variant(variants, variant, folder)
    _check_shards(folder, library, found)
    return found or None


def chosen_variant(variants: Sequence[str], wanted: str | None, place: Path | str) -> str:
    """Which of the variants that there are to load, "" for plain weights."""
    if wanted in variants:
        return wanted or ""
    # Plain weights come first.
    if variants[0] and wanted is not None:
        raise ValueError(
            f"`variant` must be one that {place} has, got {wanted!r}; it has its weights in "
            f"{', '.join(variants)} alone: write variant={variants[0]}"
        )
    if variants[0] and len(variants) > 1:
        raise ValueError(
            f"`variant` must be one of {', '.join(variants)}, got none; {place} has no plain "
            f"weights: write variant={variants[0]}, or another of them"
        )
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
        "read here in full precision alone; take the folder of the model in float32 or bfloat16, "
        "and quantization=nf4 for less memory"
    )


def variants_of(names: Iterable[str], library: str) -> list[str]:
    """The variants of the weights among the names of files, "" for plain ones."""
    stem, shard = _STEMS[library], r"(-\d{5}-of-\d{5})?"
    kinds = re.compile(
        rf"{stem}(\.(?P<a>[\w-]+?))?{shard}(\.(?P<b>[\w-]+))?\.safetensors"
        rf"|{stem}\.safetensors\.index(\.(?P<c>[\w-]+))?\.json"
        rf"|{_PICKLED[library]}{shard}\.bin(\.index\.json)?"
    )
    found = [match for name in names if (match := kinds.fullmatch(name))]
    return sorted({match["a"] or match["b"] or match["c"] or "" for match in found})


def _check_shards(folder: Path, library: str, variant: str) -> None:
    """Refuse an index of shards of which one is missing."""
    ending, stem, pickled = variant and f".{variant}", _STEMS[library], _PICKLED[library]
    index = folder / f"{stem}.safetensors.index{ending}.json"
    if (folder / f"{stem}{ending}.safetensors").is_file():
        return
    if not index.is_file() and (folder / f"{pickled}.bin").is_file():
        return
    if not index.is_file() and (folder / f"{pickled}.bin.index.json").is_file():
        index = folder / f"{pickled}.bin.index.json"
    shards = read_json(index, what="a component with weights").get(_INDEX)
    if not isinstance(shards, dict) or not all(isinstance(each, str) for each in shards.values()):
        raise ValueError(f"{index} has no `{_INDEX}` from tensors to files; {AGAIN}")
    files = sorted(set(shards.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        why = f"{folder / missing[0]} is missing, the first of {len(missing)} that are of the "
        raise unread(folder.parent, folder.name, f"{why}{len(files)} in {index.name}; {AGAIN}")


def check_text_files(folder: Path) -> None:
    """Refuse a tokenizer or scheduler with a damaged JSON file, or without a vocabulary."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}; {AGAIN}") from error
    found = any((folder / name).is_file() for name in _VOCABULARIES)
    if folder.name.startswith("tokenizer") and not found:
        why = f"{folder} has none of {', '.join(_VOCABULARIES)}; {AGAIN}"
        raise unread(folder.parent, folder.name, why)


def unread(place: Path | str, name: str, why: str) -> FileNotFoundError:
    """The error of a model of which a component cannot be read."""
    return FileNotFoundError(f"`source` {str(place)!r} could not be read, its {name}: {why}")

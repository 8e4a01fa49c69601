"""The files of one component of a model: which weights are there, and what is wrong with them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbp.adapters.source import read_json
from flowbp.adapters.weights import check_weight_files

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
_PICKLED = {"diffusers": "diffusion_pytorch_model", "transformers": "pytorch_model"}
_INDEX = "weight_map"
_AGAIN = "copy or download the whole folder again"


def check_component(folder: Path, library: str, kind: str) -> str | None:
    """Refuse a component that could not be loaded, by its configuration and the names of its files.

    Of weights only headers are read.

    Args:
        folder: of the component, such as ``transformer``.
        library: that loads it, diffusers or transformers.
        kind: its class.

    Returns:
        The variant of its weights, such as ``fp16``, if there are no others; None for plain ones.

    Raises:
        FileNotFoundError: its configuration, its weights or one of their shards is missing.
        ValueError: it is of another class, quantised, damaged, or there are several variants.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> check_component(base_folder() / "vae", "diffusers", "AutoencoderKL") is None
        True
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
    """Refuse the configuration of another class, or of a quantised model.

    Args:
        folder: of the component.
        library: that loads it.
        kind: the class that it must be of.

    Returns:
        The configuration.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is no JSON, of another class, or quantised.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> check_config(base_folder() / "vae", "diffusers", "AutoencoderKL")["latent_channels"]
        8
    """
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
    """Refuse a component without weights of which a JSON file is damaged.

    Args:
        folder: of a tokenizer or scheduler.

    Raises:
        ValueError: a file that is no JSON.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> check_json_files(base_folder() / "tokenizer")
    """
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not valid JSON: {error}; {_AGAIN}") from error

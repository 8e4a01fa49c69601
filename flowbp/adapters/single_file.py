"""A transformer in a single file, in the layout of its publisher, read by diffusers' converters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters.component_files import check_weight_file
from flowbp.extras import require
from flowbp.place import Place

_ENDING = ".safetensors"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_CONVERTERS = "diffusers.loaders.single_file_model"
_CURE = "name the file of that model, or as `source` the folder of the file's"


def single_file(transformer: Place) -> Path:
    """The path of a file that is whole, as far as its header says."""
    path = Path(transformer).expanduser()
    if path.is_dir() or path.suffix.lower() != _ENDING:
        raise ValueError(
            f"`transformer` must be a {_ENDING} file, got {str(transformer)!r}; name the file, or "
            "leave it out to take the transformer of the source"
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"`transformer` {str(transformer)!r} is not there: there is no file {path}; check the "
            "path, or download the file"
        )
    try:
        check_weight_file(path)
    except ValueError as error:
        raise ValueError(f"`transformer` {str(transformer)!r} cannot be read: {error}") from error
    return path


def check_single_file(path: Path, model: nn.Module, source: str) -> None:
    """Refuse a file of another model than `model`, which may be without weights.

    Only the header is read.
    """
    wanted, found = model.state_dict(), _converted(path, model, source)
    quantised = sorted(name for name, tensor in found.items() if not tensor.is_floating_point())
    if quantised:
        raise ValueError(
            f"`transformer` {str(path)!r} is quantised, its {quantised[0]} for one, and weights "
            "are read here in full precision alone; take the file in float32 or bfloat16, and "
            "quantization=nf4 for less memory"
        )
    shapes, own = ({name: tuple(t.shape) for name, t in each.items()} for each in (found, wanted))
    other = [name for name in sorted(own | shapes) if own.get(name) != shapes.get(name)]
    if other:
        name = other[0]
        raise ValueError(
            f"`transformer` {str(path)!r} is of another model than the transformer of `source` "
            f"{source!r}: {len(other)} parameters differ in name or shape, the first being {name}, "
            f"{own.get(name, 'none')} there and {shapes.get(name, 'none')} in the file; {_CURE}"
        )


def load_single_file(kind: Any, path: Path, config: Path, **options: Any) -> Any:
    """Load a file that was checked, by the folder of its configuration; nothing is fetched."""
    return kind.from_single_file(str(path), config=str(config), local_files_only=True, **options)


def _converted(path: Path, model: Any, source: str) -> Mapping[str, Tensor]:
    """The tensors of a file, without values, under diffusers' names."""
    tensors, kind = _tensors(path), type(model).__name__
    # Under diffusers' own names.
    if tensors.keys() == model.state_dict().keys():
        return tensors
    convert = require(_CONVERTERS).SINGLE_FILE_LOADABLE_CLASSES[kind]["checkpoint_mapping_fn"]
    try:
        found: Mapping[str, Tensor] = convert(checkpoint=dict(tensors), config=model.config)
        return found
    # A converter takes the layout for granted, and what it raises of another is of any kind.
    except Exception as error:
        some = ", ".join(sorted(tensors)[:3]) or "nothing"
        raise ValueError(
            f"`transformer` {str(path)!r} must hold a {kind} like the one of `source` {source!r}, "
            f"got a file with {len(tensors)} tensors, the first being {some}, which diffusers "
            f"cannot convert ({type(error).__name__}: {' '.join(str(error).split())}); {_CURE}"
        ) from error


def _tensors(path: Path) -> dict[str, Tensor]:
    """What a file holds, by its header; what is not of a dtype that is read, as bytes."""
    with require("safetensors").safe_open(path, framework="pt") as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        return {
            name: torch.empty(
                part.get_shape(), device="meta", dtype=_DTYPES.get(part.get_dtype(), torch.uint8)
            )
            for name, part in parts.items()
        }

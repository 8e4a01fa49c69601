"""Files of weights: found, checked, read without running their code, and assigned to a module."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowbp.adapters.component_files import check_weight_file
from flowbp.extras import require
from flowbp.place import Place, on_disk, read_json
from flowbp.source_files import find, reading

_SHOWN = 3
_AGAIN = "copy or download it again"
_INDEX = "*.safetensors.index.json"
_ON_HUB = ("model.safetensors.index.json", "model.safetensors")


def check_whole(path: Path) -> None:
    """Refuse a file of weights that was cut off; only its table of contents is read.

    Files of ``torch.save`` before torch 1.6 have no table of contents and pass.
    """
    if path.suffix == ".safetensors":
        check_weight_file(path)
        return
    with path.open("rb") as file:
        begins = file.read(2)
    if not begins:
        raise ValueError(f"{path} is damaged, it is empty; delete it, and {_AGAIN}")
    if begins != b"PK":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                archive.open(entry).close()
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged, {error}; delete it, and {_AGAIN}") from error


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file or of a file of ``torch.save``, on the CPU.

    The latter is unpickled with ``weights_only=True``, which runs none of its code. A dictionary
    whose tensors lie below ``state_dict`` is unwrapped.
    """
    check_whole(path)
    content: Any = (
        require("safetensors.torch").load_file(path)
        if path.suffix == ".safetensors"
        else _pickled(path)
    )
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold tensors by name, got a {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} must hold tensors, got a {type(value).__name__} at {key!r}")
    return content


def read_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a whole safetensors file, on the meta device; only its header is read."""
    with require("safetensors").safe_open(path, framework="pt") as file:
        names = file.keys()
        return {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names
        }


def check_layout(
    weights: Mapping[str, Tensor], layout: Mapping[str, tuple[int, ...]], *, path: Path, what: str
) -> None:
    """Refuse weights that lack a key, have one too many, or another shape than `layout`.

    The message names the first such key, the file's `path` and what the file should be.
    """
    missing = [key for key in layout if key not in weights]
    unfit = [key for key in layout if key in weights and tuple(weights[key].shape) != layout[key]]
    further = [key for key in weights if key not in layout]
    if missing:
        shown = ", ".join(list(weights)[:_SHOWN]) + (", …" if len(weights) > _SHOWN else "")
        fault = (
            f"it lacks {missing[0]}, the first of {len(missing)} missing keys; "
            f"it holds {shown or 'no keys'}"
        )
    elif unfit:
        found = tuple(weights[unfit[0]].shape)
        fault = f"its {unfit[0]} has shape {found} in place of {layout[unfit[0]]}"
    elif further:
        fault = f"it also holds {further[0]}, the first of {len(further)} unknown keys"
    else:
        return
    raise ValueError(f"{path} does not hold {what}: {fault}; name the file of this very model")


def find_shards(source: Place, *, name: str, fetch: bool = True) -> tuple[Path, ...]:
    """The safetensors files of a source, in the order of their names.

    Args:
        source: A file, a folder or a hub id with one safetensors file or an index of several.
        name: The file's published name.
        fetch: Download what the cache lacks. Else the hub is asked for it, and there are no paths.
    """
    folder = on_disk(source)
    if folder is None and fetch:
        with reading("source", source):
            hub = require("huggingface_hub")
            patterns = ["*.safetensors", _INDEX]
            folder = Path(hub.snapshot_download(str(source), allow_patterns=patterns))
    elif folder is None:
        found = find(source, name, *_ON_HUB)
        if found is None:
            return ()
        folder = found.parent
    if folder.is_file():
        return (folder,)
    indices, files = sorted(folder.glob(_INDEX)), sorted(folder.glob("*.safetensors"))
    if indices:
        files = indexed_files(indices[0])
    elif len(files) > 1:
        raise ValueError(
            f"`source` {str(source)!r} holds {len(files)} safetensors files without an index, the "
            f"first being {files[0].name}; give the file, or add model.safetensors.index.json"
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise FileNotFoundError(
            f"`source` {str(source)!r} lacks {missing[0] if missing else name}; copy or download "
            "the whole model"
        )
    return tuple(files)


def indexed_files(index: Path) -> list[Path]:
    """The files that an index of sharded weights names, in the order of their names."""
    names = read_json(index, what="a folder of sharded weights").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index} must hold `weight_map`, a map from key to file; {_AGAIN}")
    return [index.parent / name for name in sorted(set(names.values()))]


def assign(module: nn.Module, weights: Mapping[str, Tensor], *, path: Path, what: str) -> None:
    """Put the tensors of a file in place of a module's own, in its dtypes; see `check_layout`."""
    own = module.state_dict()
    layout = {key: tuple(tensor.shape) for key, tensor in own.items()}
    check_layout(weights, layout, path=path, what=what)
    module.load_state_dict(
        {key: tensor.to(own[key].dtype) for key, tensor in weights.items()}, assign=True
    )


@contextmanager
def unfilled(dtype: torch.dtype) -> Iterator[None]:
    """Modules built inside have parameters of `dtype` whose values are whatever memory held.

    Drawing random values for billions of parameters takes minutes, and all are replaced.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _KeepParameters():
            yield
    finally:
        torch.set_default_dtype(before)


class _KeepParameters(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # What writes in place ends in one underscore; torch.nn.init passes its tensor by name.
        target = args[0] if args else kwargs.get("tensor")
        writes = re.fullmatch(r"[a-z]\w*[^_]_", getattr(func, "__name__", ""))
        if writes and isinstance(target, nn.Parameter) and func is not Tensor.requires_grad_:
            return target
        return func(*args, **kwargs)


class Float32Head(nn.Sequential):
    """Layers that stay in float32 at least, whatever the network around them is cast to."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def move(tensor: Tensor) -> Tensor:
            asked = fn(tensor.new_empty(0))
            dtype = torch.promote_types(asked.dtype, torch.float32)
            return tensor.to(device=asked.device, dtype=dtype)

        parent: Any = super()
        return parent._apply(move, recurse)


def _pickled(path: Path) -> Any:
    try:
        mapped = zipfile.is_zipfile(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged or no file of weights: {reason}; {_AGAIN}") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read as weights alone, and other things in it are not run: it is "
            "no file of torch.save, or it holds more than tensors; save its tensors as "
            "safetensors where you trust it"
        ) from error

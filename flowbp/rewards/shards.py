"""Weights in several safetensors files, named by an index."""

from __future__ import annotations

import os
from pathlib import Path

from flowbp.adapters.extras import require
from flowbp.adapters.hub import ask_hub, cached_file, why_unread
from flowbp.adapters.source import local_folder, read_json
from flowbp.adapters.weights import check_weight_file

_INDEX = "*.safetensors.index.json"
_ON_HUB = ("model.safetensors.index.json", "model.safetensors")


def find_shards(source: str | os.PathLike[str], *, name: str) -> tuple[Path, ...]:
    """The safetensors files that `source` means, one or several with an index.

    Args:
        source: A file, a folder or a hub id with one safetensors file or an index of several.
        name: The file's published name, for the message.

    Returns:
        The files, in the order of their names.

    Raises:
        FileNotFoundError: There are none, or a file of the index is missing.
        ValueError: Several files without an index, or an index that is damaged.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> [path.suffix for path in find_shards(base_folder() / "vae", name="vae")]
        ['.safetensors']
    """
    path = Path(source).expanduser()
    if path.is_file():
        return (path,)
    return _shards_of(local_folder(source) or _download_folder(str(source)), source, name)


def check_shards(source: str | os.PathLike[str], *, name: str) -> tuple[Path, ...]:
    """Refuse files that are missing or were cut off; only their headers are read.

    Args:
        source: As of `find_shards`; of a hub id that the cache lacks, the hub is asked.
        name: The file's published name.

    Returns:
        The files; none where they are yet to be downloaded.

    Raises:
        FileNotFoundError: A file is missing, or the hub does not give it.
        ValueError: A file is damaged, or as of `find_shards`.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> [path.name for path in check_shards(reward_folder(), name="model.safetensors")]
        ['model.safetensors']
    """
    path = Path(source).expanduser()
    if path.is_file():
        check_weight_file(path)
        return (path,)
    folder = local_folder(source)
    if folder is None:
        cached = (cached_file(str(source), each) for each in (name, *_ON_HUB))
        folder = next((found.parent for found in cached if found is not None), None)
        if folder is None:
            ask_hub(str(source), name, *_ON_HUB, alone=True)
            return ()
    shards = _shards_of(folder, source, name)
    for shard in shards:
        check_weight_file(shard)
    return shards


def _shards_of(folder: Path, source: str | os.PathLike[str], name: str) -> tuple[Path, ...]:
    indices, files = sorted(folder.glob(_INDEX)), sorted(folder.glob("*.safetensors"))
    if indices:
        names = read_json(indices[0], what="a folder of sharded weights").get("weight_map")
        if not isinstance(names, dict):
            raise ValueError(f"{indices[0]} must hold `weight_map`, a map from key to file")
        files = [folder / shard for shard in sorted(set(names.values()))]
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


def _download_folder(hub_id: str) -> Path:
    hub = require("huggingface_hub")
    try:
        return Path(hub.snapshot_download(hub_id, allow_patterns=["*.safetensors", _INDEX]))
    except OSError as error:
        raise FileNotFoundError(
            f"`source` {hub_id!r} could not be downloaded: {why_unread(error, hub_id)}"
        ) from error

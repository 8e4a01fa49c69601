"""Where embeddings are kept, in memory or in a folder that runs share, and by which digest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import attrs
import torch
from torch import Tensor

from flowbp.adapters import TextEncoders
from flowbp.extras import require
from flowbp.files import open_plain, read_regular
from flowbp.host_memory import free_host_memory

Row = Mapping[str, Tensor]
"""The tensors of one prompt, on the CPU, without the dimension of samples."""

_PARTIAL = ".partial"
_WRITING = re.compile(r"[0-9a-f]{64}-[0-9a-f]{32}")
_STALE = 24 * 3600.0
_READERS, _HASHERS = 8, 4
# Where a component came from and what wrote it; neither changes what it computes.
_ORIGINS = ("name_or_path", "transformers_version", "tokenizer_file", "is_local")
# How the tokenizer was last called, which its file remembers.
_LAST_CALL = ("padding", "truncation")


def _expanded(path: Path) -> Path:
    return path.expanduser()


class EmbeddingsError(OSError):
    """Embeddings could not be kept; the message says where and what to do."""


class Store(Protocol):
    """Keeps the embedding of each prompt."""

    def read_all(self, prompts: Sequence[str]) -> Iterator[Row | None]:
        """The embedding of each prompt, in order; None where there is none."""
        ...

    def write(self, prompt: str, row: Row) -> None:
        """Keep the embedding of a prompt."""
        ...

    def room(self) -> int | None:
        """Bytes that are free; None if unknown."""
        ...

    def __str__(self) -> str:
        """Where it is, for messages."""
        ...


class MemoryStore:
    """Keeps embeddings in the memory of this process."""

    def __init__(self) -> None:
        self._rows: dict[str, Row] = {}

    def read_all(self, prompts: Sequence[str]) -> Iterator[Row | None]:
        """The embedding of each prompt, in order; None where there is none."""
        return map(self._rows.get, prompts)

    def write(self, prompt: str, row: Row) -> None:
        """Keep the embedding of a prompt."""
        self._rows[prompt] = row

    def room(self) -> int | None:
        """Bytes of memory that are free, where the system is Linux."""
        return free_host_memory()

    def __str__(self) -> str:
        return "memory"


@attrs.frozen(eq=False)
class FolderStore:
    """Keeps embeddings as one safetensors file each, for any number of processes at once.

    A file appears under its name only when it is whole. Its tensors carry a checksum; an entry
    that is damaged counts as absent, so that it is computed and written again. Each `identity`,
    what the embeddings depend on besides the prompt, has a folder of its own.
    """

    folder: Path = attrs.field(converter=_expanded)
    identity: str
    # Taken by the first thread that warns, and never given back.
    _warned: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        # A writer that was killed leaves its file behind. One that is a day old has no writer.
        for path in self._place.joinpath(_PARTIAL).glob("*"):
            if _WRITING.fullmatch(path.name) and _age(path) > _STALE:
                path.unlink(missing_ok=True)

    @property
    def _place(self) -> Path:
        return self.folder / self.identity[:32]

    def path(self, prompt: str) -> Path:
        """The file of a prompt."""
        key = hashlib.sha256(f"{self.identity}\n{prompt}".encode()).hexdigest()
        return self._place / key[:2] / f"{key}.safetensors"

    def read(self, prompt: str) -> Row | None:
        """The embedding of a prompt, None if there is none that is whole."""
        path = self.path(prompt)
        try:
            content = read_regular(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise EmbeddingsError(
                f"an embedding could not be read from {path} ({error}); remove what is there, or "
                "name another embeddings.folder"
            ) from error
        row = _row(content)
        if row is None and self._warned.acquire(blocking=False):
            warnings.warn(
                f"a cached embedding is damaged and is computed again, as others will be: {path}",
                stacklevel=2,
            )
        return row

    def read_all(self, prompts: Sequence[str]) -> Iterator[Row | None]:
        """`read` of each prompt, in order."""
        # Reading waits for the disk, and the checksum runs without the interpreter's lock.
        with ThreadPoolExecutor(_READERS) as pool:
            yield from pool.map(self.read, prompts)

    def write(self, prompt: str, row: Row) -> None:
        """Keep the embedding of a prompt."""
        path = self.path(prompt)
        partial = self._place / _PARTIAL / f"{path.stem}-{uuid.uuid4().hex}"
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            try:
                with open(open_plain(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                    file.write(_content(row))
                # Not flushed to the disk first: should the machine fail, the checksum shows it.
                os.replace(partial, path)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as error:
            raise EmbeddingsError(
                error.errno,
                f"an embedding could not be written to {self.folder} ({error.strerror}); name "
                "another embeddings.folder, or null to keep them in memory",
            ) from error

    def room(self) -> int | None:
        """Bytes that are free on the disk."""
        there = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        return shutil.disk_usage(there).free

    def __str__(self) -> str:
        return str(self.folder)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        # Its writer has just finished.
        return 0.0


def _content(row: Row) -> bytes:
    content: bytes = require("safetensors.torch").save(dict(row), {"sha256": digest(row)})
    return content


def _row(content: bytes) -> Row | None:
    """The tensors of a file, None where it is damaged."""
    safetensors = require("safetensors")
    try:
        row: Row = require("safetensors.torch").load(content)
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        return row if header["__metadata__"]["sha256"] == digest(row) else None
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        return None


def encoders_digest(encoders: TextEncoders, batch: int) -> str:
    """Hash of the encoders' weights, configurations, tokenizers, and how they are used.

    All weights are read, 1.8 GB a second and core. The number of prompts encoded together counts,
    because a matrix product of another size rounds otherwise, and so does the kind of device.
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
    """Hash of named tensors: names, shapes, dtypes and values."""
    return _joined(tensors, map(_tensor, tensors.values()))


def _tower(tower: Any) -> tuple[object, str, str]:
    # Where it is: nothing is encoded yet.
    encoder = tower.held.anywhere()
    configuration = _without_origins(encoder.config.to_dict())
    # The dtype that it was written in: the weights' own has a part in their hash.
    configuration = {k: v for k, v in configuration.items() if k not in ("dtype", "torch_dtype")}
    weights = encoder.state_dict()
    with ThreadPoolExecutor(_HASHERS) as pool:
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

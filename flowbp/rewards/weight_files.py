"""Weights in a single file: finding it, knowing it again, reading it without running its code."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.adapters.hub import why_unread

_SHOWN = 3
_OTHER = "it is another file"
# How archives and pickles of torch.save begin.
_BEGINNINGS = (b"PK", b"\x80")
_AGAIN = "copy or download it again"


@attrs.frozen(kw_only=True)
class PublishedFile:
    """A file of a hub repository whose content is known.

    Args:
        repository: ``owner/name`` on the hub.
        name: of the file there.
        size: in bytes.
        sha256: of its content, in hexadecimal digits.

    Example:
        >>> file = PublishedFile(repository="owner/name", name="w.pt", size=3, sha256="ab")
        >>> file.name
        'w.pt'
    """

    repository: str
    name: str
    size: int
    sha256: str

    def check_size(self, path: Path) -> None:
        """Refuse a file of another size, such as one that was cut off.

        Args:
            path: of the file on disk.

        Raises:
            ValueError: with both sizes.
        """
        found = path.stat().st_size
        if found != self.size:
            kind = "it was cut off" if found < self.size and _is_of_torch(path) else _OTHER
            raise ValueError(
                f"{path} has {found} bytes and the published {self.name} has {self.size}: {kind}; "
                f"{_AGAIN} from {self.repository}, or write verify=false to accept it"
            )

    def check(self, path: Path) -> None:
        """Refuse a file with other content; the whole of it is read.

        Args:
            path: of the file on disk.

        Raises:
            ValueError: with both sizes, or both hashes.
        """
        self.check_size(path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path} has sha256 {found} and the published {self.name} has {self.sha256}; "
                f"{_AGAIN} from {self.repository}, or write verify=false to accept it"
            )


def from_hub(repository: str, name: str) -> Path:
    """A file of a hub repository, downloaded where it is not in the cache.

    Args:
        repository: ``owner/name``.
        name: of the file.

    Returns:
        Where it is on disk.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        FileNotFoundError: neither there nor in the cache; the message says what to do.

    Example:
        ``from_hub("xswu/HPSv2", "HPS_v2.1_compressed.pt")``
    """
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        return Path(hub.hf_hub_download(repository, name))
    # Alone among the hub's errors, that of a missing file need not be an OSError.
    except (OSError, errors.EntryNotFoundError) as error:
        raise FileNotFoundError(
            f"`source` {repository!r} could not be read, its {name}: "
            f"{why_unread(error, repository, file=name)}"
        ) from error


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a safetensors file, or of a file of ``torch.save``.

    The latter is unpickled with ``weights_only=True``, which runs none of its code. A dictionary
    whose tensors lie below ``state_dict`` is unwrapped.

    Args:
        path: of the file.

    Returns:
        Tensors by their keys, on the CPU; their memory is that of the file where it can be.

    Raises:
        ValueError: damaged, cut off, or no mapping of tensors.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "weights.pt"
        >>> torch.save({"state_dict": {"scale": torch.ones(1)}}, path)
        >>> read_weights(path)
        {'scale': tensor([1.])}
    """
    content: Any = _safetensors(path) if path.suffix == ".safetensors" else _pickled(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold tensors by name, got a {type(content).__name__}")
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{path} must hold tensors, got a {type(value).__name__} at {key!r}")
    return content


def read_shapes(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file without their values; only its header is read.

    Args:
        path: of a file that is whole.

    Returns:
        Tensors on the meta device by their keys.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> found = read_shapes(reward_folder() / "model.safetensors")
        >>> {tensor.device.type for tensor in found.values()}
        {'meta'}
    """
    with require("safetensors").safe_open(path, framework="pt") as file:
        names = file.keys()
        return {
            name: torch.empty(file.get_slice(name).get_shape(), device="meta") for name in names
        }


def check_layout(
    weights: Mapping[str, Tensor], layout: Mapping[str, tuple[int, ...]], *, path: Path, what: str
) -> None:
    """Refuse weights whose keys or shapes are not the expected ones.

    Args:
        weights: tensors by key.
        layout: the expected shapes by key.
        path: of the file, for the message.
        what: it should be, for the message.

    Raises:
        ValueError: with the first key that is missing, of another shape, or too many.

    Example:
        >>> check_layout({}, {"scale": (1,)}, path=Path("weights.pt"), what="a scale")
        Traceback (most recent call last):
            ...
        ValueError: weights.pt does not hold a scale: it lacks scale, the first of 1 missing keys; \
it holds no keys; name the file of this very model
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


def _is_of_torch(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2).startswith(_BEGINNINGS)


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    safetensors = require("safetensors.torch")
    try:
        content: Mapping[str, Tensor] = safetensors.load_file(path)
    except require("safetensors").SafetensorError as error:
        raise ValueError(f"{path} is damaged, {error}; {_AGAIN}") from error
    return content


def _pickled(path: Path) -> Any:
    archive = zipfile.is_zipfile(path)
    with path.open("rb") as file:
        began_as_archive = file.read(2) == b"PK"
    if began_as_archive and not archive:
        raise ValueError(f"{path} is damaged, its end is missing; {_AGAIN}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is damaged or no file of weights: {reason}; {_AGAIN}") from error
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} cannot be read as weights alone, and other things in it are not run: it is "
            "no file of torch.save, or it holds more than tensors; save its tensors as "
            "safetensors where you trust it"
        ) from error

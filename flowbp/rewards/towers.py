"""Models that several rewards and evaluators read are loaded once and shared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast
from weakref import WeakValueDictionary

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_Key = tuple[str, tuple[int, ...], torch.dtype, torch.device]


class Towers:
    """Frozen models by the files they came from, their dtype and their device.

    It only remembers models that something else still holds: nothing stays loaded because of it.
    Whoever gets a model shares it, and must not change it.

    Example:
        >>> towers = Towers()
        >>> def get() -> nn.Linear:
        ...     return towers.get(
        ...         "owner/name", dtype=torch.float32, device="cpu", load=lambda: nn.Linear(1, 1)
        ...     )
        >>> first = get()
        >>> get() is first, len(towers)
        (True, 1)
        >>> del first
        >>> len(towers)
        0
    """

    def __init__(self) -> None:
        self._loaded: WeakValueDictionary[_Key, nn.Module] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._loaded)

    def get(
        self,
        place: str | os.PathLike[str],
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        load: Callable[[], ModuleT],
    ) -> ModuleT:
        """The model of a place, loaded if nobody holds it.

        Args:
            place: a file, a folder, or a hub id. A file that was written anew is another one.
            dtype: of the weights.
            device: where the model runs.
            load: loads it; called where nobody holds it.

        Returns:
            The model, on the device, in that dtype, frozen and in eval mode.
        """
        key = (*_identity(place), dtype, _numbered(torch.device(device)))
        held = self._loaded.get(key)
        if held is not None:
            return cast(ModuleT, held)
        # The plain method, as in `DtypePolicy.place`.
        model = load()
        nn.Module.to(model, device=device, dtype=dtype)
        model.requires_grad_(False).eval()
        self._loaded[key] = model
        return model


TOWERS = Towers()
"""The default everywhere, so that all rewards and evaluators of a process share."""


def _identity(place: str | os.PathLike[str]) -> tuple[str, tuple[int, ...]]:
    path = Path(place).expanduser()
    if not path.exists():
        return str(place), ()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    status = [file.stat() for file in files if file.is_file()]
    return str(path.resolve()), tuple(n for s in status for n in (s.st_mtime_ns, s.st_size))


def _numbered(device: torch.device) -> torch.device:
    # `cuda` means the current device, which has a number.
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device

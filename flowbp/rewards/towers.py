"""Pretrained models that several rewards and metrics read, loaded once and shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

import attrs
import torch
from torch import nn

from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.place import Place, on_disk
from flowbp.rewards.reward import batch_size

ModuleT = TypeVar("ModuleT", bound=nn.Module)
_Key = tuple[str, tuple[int, ...], torch.dtype, torch.device]


class Towers:
    """Frozen models by the files they came from, their dtype and their device.

    It only remembers models that something else still holds: it keeps none loaded itself, except
    what `hold` asks for. Whoever gets a model shares it, and must not change it.

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
        self._held: dict[_Key, nn.Module] = {}

    def __len__(self) -> int:
        return len(self._loaded)

    def get(
        self,
        place: Place,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        load: Callable[[], ModuleT],
    ) -> ModuleT:
        """The model of a place, loaded if nobody holds it.

        Args:
            place: a file, a folder, or a hub id; a file written anew is another place.
            dtype: of the weights.
            device: where the model runs.
            load: loads it; called only if nobody holds it.

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

    def hold(self, places: Iterable[Place]) -> None:
        """Keep those loaded models that lie at these places, and let go of any kept before."""
        names = {place_name(place) for place in places}
        self._held = {key: model for key, model in self._loaded.items() if key[0] in names}


TOWERS = Towers()
"""The default everywhere, so that all rewards and metrics of a process share."""


@attrs.frozen(kw_only=True, eq=False)
class ModelReward:
    """What rewards by a pretrained model have in common. Construction loads the model.

    Args:
        batch: Pictures in the model at a time, each batch computed again in the backward pass;
            None takes all. It changes scores by rounding alone.
        policy: Dtypes of the model; the last steps are in float32 whatever it is.
        device: Where it runs.
        towers: The pool in which models are shared.
    """

    batch: int | None = attrs.field(default=None, validator=batch_size)
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)


@attrs.frozen(kw_only=True)
class TowerSizes:
    """Sizes of a model's two towers.

    Args:
        vision: fields of the vision tower's configuration in transformers.
        text: fields of the text tower's configuration in transformers.
    """

    vision: Mapping[str, Any]
    text: Mapping[str, Any]


def place_name(place: Place) -> str:
    """The whole path of a file or folder however it is written, or the hub id."""
    path = on_disk(place)
    return str(place) if path is None else str(path.resolve())


def _identity(place: Place) -> tuple[str, tuple[int, ...]]:
    path = on_disk(place)
    if path is None:
        return str(place), ()
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    status = [file.stat() for file in files if file.is_file()]
    return place_name(path), tuple(n for s in status for n in (s.st_mtime_ns, s.st_size))


def _numbered(device: torch.device) -> torch.device:
    # `cuda` means the current device, which has a number.
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device

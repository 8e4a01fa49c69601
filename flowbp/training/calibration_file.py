"""The scales of a composed reward on disk."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import attrs

from flowbp.configuration import DamagedError, read_sealed, sealed
from flowbp.core._validators import integer
from flowbp.files import write_whole
from flowbp.rewards import Normalisation

_FORMAT = 1


@attrs.frozen(kw_only=True)
class _Part:
    """The scale of one part, and whether it was measured."""

    mean: float
    std: float
    measured: bool


@attrs.frozen(kw_only=True)
class _Calibration:
    """What the file holds."""

    format: int
    pictures: int = attrs.field(validator=integer(0))
    parts: Mapping[str, _Part]


def write_calibration(
    path: Path,
    normalisations: Mapping[str, Normalisation],
    measured: Container[str],
    *,
    pictures: int,
) -> None:
    """Write the scale of every part, and which of them were measured.

    Args:
        path: of the file.
        normalisations: of every part, by label.
        measured: the labels whose scale was not given.
        pictures: that they were measured on.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "calibration.json"
        >>> write_calibration(path, {"bright": Normalisation(0.5, 0.25)}, ["bright"], pictures=64)
        >>> read_calibration(path, ["bright"])
        {'bright': Normalisation(mean=0.5, std=0.25)}
    """
    tree = {
        "format": _FORMAT,
        "pictures": pictures,
        "parts": {
            label: {"mean": scale.mean, "std": scale.std, "measured": label in measured}
            for label, scale in normalisations.items()
        },
    }
    write_whole(path, sealed(tree))


def read_calibration(path: Path, labels: Iterable[str]) -> dict[str, Normalisation]:
    """Read what `write_calibration` wrote, to the last bit.

    Args:
        path: of the file.
        labels: of the reward's parts.

    Returns:
        The normalisations by label.

    Raises:
        DamagedError: the file is not as it was written, or of other parts.

    Example:
        See `write_calibration`.
    """
    cure = "restore it from a copy, or begin a new run in another folder"
    tree = read_sealed(_Calibration, path, cure=cure)
    if tree.format != _FORMAT:
        problem = f"is of format {tree.format}, and this version reads {_FORMAT}"
        raise DamagedError(path, problem, cure)
    wanted = list(labels)
    if set(tree.parts) != set(wanted):
        raise DamagedError(path, f"is of the parts {list(tree.parts)}, not of {wanted}", cure)
    try:
        return {label: Normalisation(part.mean, part.std) for label, part in tree.parts.items()}
    except ValueError as error:
        raise DamagedError(path, f"is damaged ({error})", cure) from error

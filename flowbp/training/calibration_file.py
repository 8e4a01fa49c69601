"""The scales of a composed reward on disk."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from flowbp.files import write_whole
from flowbp.rewards import Normalisation

_FORMAT = 1


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
    write_whole(path, json.dumps(tree, indent=1) + "\n")


def read_calibration(path: Path, labels: Iterable[str]) -> dict[str, Normalisation]:
    """Read what `write_calibration` wrote, to the last bit.

    Args:
        path: of the file.
        labels: of the reward's parts.

    Returns:
        The normalisations by label.

    Raises:
        ValueError: the file is damaged, or of other parts.

    Example:
        See `write_calibration`.
    """
    cure = "restore it from a copy, or begin a new run in another folder"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        found = {
            label: Normalisation(part["mean"], part["std"]) for label, part in tree["parts"].items()
        }
        form = tree["format"]
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}: {error}); {cure}"
        ) from error
    if form != _FORMAT:
        raise ValueError(f"{path} is of format {form!r}, and this version reads {_FORMAT}; {cure}")
    wanted = list(labels)
    if set(found) != set(wanted):
        raise ValueError(
            f"{path} is of the parts {list(found)}, and the reward has {wanted}; {cure}"
        )
    return found

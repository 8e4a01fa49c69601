"""What is read from where, in words: whether it is here, how large it is, and its address."""

from __future__ import annotations

from pathlib import Path

from flowbp.adapters.hub import address, cached_file
from flowbp.rewards.needs import Reading
from flowbp.rewards.places import on_disk

_UNITS = ("bytes", "kB", "MB", "GB")


def whereabouts(reading: Reading) -> str:
    """Where a thing is that is read, and whether it is here.

    Args:
        reading: of a `Need`.

    Returns:
        A path or an address, and in brackets what is known of it.

    Example:
        >>> weights = Reading("owner/name", files=("weights.pt",), alone=True, size=2_500_000_000)
        >>> whereabouts(weights).rpartition("/")[2]
        'weights.pt (not here, 2.5 GB)'
    """
    path = on_disk(reading.place)
    if path is not None:
        inside = [path / name for name in reading.files if (path / name).is_file()]
        chosen = inside[0] if reading.alone and inside else path
        return f"{chosen} (here, {_size(_bytes(chosen))})"
    hub_id = str(reading.place)
    cached = [found for name in reading.files if (found := cached_file(hub_id, name)) is not None]
    name = reading.files[0] if reading.alone else None
    if cached:
        known = _size(_bytes(cached[0] if reading.alone else cached[0].parent))
        return f"{address(hub_id, name)} (here, in the cache, {known})"
    known = "" if reading.size is None else f", {_size(reading.size)}"
    return f"{address(hub_id, name)} (not here{known})"


def _bytes(place: Path) -> int:
    files = [place] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def _size(count: int) -> str:
    size, unit = float(count), 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size, unit = size / 1000, unit + 1
    return f"{size:.3g} {_UNITS[unit]}"

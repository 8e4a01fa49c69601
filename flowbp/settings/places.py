"""The files that a run is made of, known by their content, so that they may be moved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from flowbp.configuration import DamagedError, read_sealed, sealed
from flowbp.files import digests, write_whole

SOURCES = "sources.json"
_NAMES = ("source", "path", "start")
"""Keys whose value may name a place without a slash in it."""
# What comes beside a model and is no part of it.
_DOCUMENTS = (".md", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf")


@attrs.frozen
class Source:
    """What a key of the configuration led to.

    Args:
        files: SHA-256 by the paths of files in the folder; that of a file by ``.``.

    Example:
        >>> Source({".": "e3b0"}).digest[:8]
        '438fe940'
    """

    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One for all files."""
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()

    def differing(self, other: Source) -> str | None:
        """The first file that is another one there, is missing or too much; None if all are alike.

        Args:
            other: to compare with.

        Returns:
            Its path.
        """
        names = sorted({*self.files, *other.files})
        return next((n for n in names if self.files.get(n) != other.files.get(n)), None)


@attrs.frozen
class _Sources:
    """What the file holds."""

    sources: Mapping[str, Source]


def source_at(text: str) -> Source | None:
    """What there is at a place.

    Args:
        text: a path; ``~`` is expanded.

    Returns:
        The digests of its files but hidden ones and documents; None if there is nothing.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> source_at("/no/such/place") is None
        True
    """
    place = _on_disk(text)
    if place is None:
        return None
    if place.is_file():
        return Source({".": digests(place.parent, [place.name])[place.name]})
    return Source(digests(place, sorted(_files(place))))


def sources_of(leaves: Mapping[str, str]) -> Mapping[str, Source]:
    """What those keys of a configuration lead to that name a file or folder.

    Args:
        leaves: values as JSON by dotted key.

    Returns:
        By key; hub ids and other texts are left out.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> sources_of({"run.seed": "0", "backbone.source": '"owner/name"'})
        {}
    """
    found = {}
    for key, written in leaves.items():
        value = json.loads(written)
        if isinstance(value, str) and (os.sep in value or key.rpartition(".")[2] in _NAMES):
            found[key] = source_at(value)
    return {key: source for key, source in found.items() if source is not None}


def write_sources(folder: Path, sources: Mapping[str, Source]) -> None:
    """Write down what a run is made of.

    Args:
        folder: of the run.
        sources: by key.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> write_sources(folder, {"prompts.path": Source({".": "e3b0"})})
        >>> read_sources(folder)["prompts.path"].files
        {'.': 'e3b0'}
    """
    tree = {key: {"files": dict(source.files)} for key, source in sources.items()}
    write_whole(folder / SOURCES, sealed({"sources": tree}))


def read_sources(folder: Path) -> Mapping[str, Source] | None:
    """Read what `write_sources` wrote.

    Args:
        folder: of the run.

    Returns:
        By key; None if the file is not there.

    Raises:
        DamagedError: it is not as it was written.

    Example:
        See `write_sources`.
    """
    path = folder / SOURCES
    if not path.exists():
        return None
    return read_sealed(_Sources, path, cure="restore it from a copy, or begin a new run").sources


def known(folder: Path) -> Mapping[str, str]:
    """The digest of what each key led to when a run began; none of what is not known.

    Args:
        folder: of the run.

    Returns:
        By key.

    Example:
        >>> known(Path("/none"))
        {}
    """
    try:
        found = read_sources(folder)
    # That it is damaged is reported where a run goes on.
    except DamagedError:
        return {}
    return {key: source.digest for key, source in (found or {}).items()}


def _on_disk(text: str) -> Path | None:
    try:
        place = Path(text).expanduser()
        return place if text and (place.is_file() or place.is_dir()) else None
    # A text may be too long for a name, or have a zero in it.
    except (OSError, RuntimeError, ValueError):
        return None


def _files(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not _hidden(name)]
        for name in names:
            if not _hidden(name):
                yield (Path(place) / name).relative_to(folder).as_posix()


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.lower().endswith(_DOCUMENTS)

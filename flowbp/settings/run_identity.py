"""What makes a run that run: its decisive settings, and the content of the files they lead to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.config import DamagedError, read_sealed, sealed
from flowbp.files import digests, write_atomically
from flowbp.settings.loader import resolved_values
from flowbp.settings.schema import Settings

FREE = (
    "run.folder",
    "embeddings.folder",
    "distributed",
    "evaluation.every",
    "early_stop",
    "samples",
    "checkpoints",
    "observers",
)
"""Sections and keys that training does not depend on."""

ROUNDING = (
    "run.device",
    "run.threads",
    "run.compile",
    "run.activations",
    "run.attention",
    "backbone.gradient_checkpointing",
    "batching.pull",
    "batching.decode",
    "embeddings.batch",
    "evaluation.batch",
)
"""Keys that change nothing but the rounding of the metrics."""

STEPS = "training.steps"
"""May be raised where the schedule leaves the steps that are done as they were."""


_ADDED = {
    "batching.global": "null",
    "backbone.revision": "null",
    "backbone.variant": "null",
    "backbone.transformer": "null",
    "backbone.quantization": "null",
    "sampling.velocity_every": "1",
}
"""Keys that runs begun by an earlier version lack, with what they mean there."""

SOURCES = "sources.json"
_NAMES = ("source", "path", "start", "transformer")
"""Keys whose value may name a place without a slash in it."""
# What comes beside a model and is no part of it.
_DOCUMENTS = (".md", ".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf")


@attrs.frozen
class Change:
    """A dotted key that has another value than before; values are JSON, `nothing` if absent."""

    key: str
    old: str
    new: str

    @property
    def free(self) -> bool:
        """Whether training does not depend on it."""
        return _under(self.key, FREE)

    @property
    def rounding(self) -> bool:
        """Whether it changes only the rounding."""
        return _under(self.key, ROUNDING)

    @property
    def allowed(self) -> bool:
        """Whether a run may go on with it, whatever the values."""
        return self.free or self.rounding


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Compare two resolved configurations key by key."""
    before, after = _ADDED | dict(_leaves(old)), _ADDED | dict(_leaves(new))
    differing = [key for key in before | after if before.get(key) != after.get(key)]
    return tuple(
        Change(key, before.get(key, "nothing"), after.get(key, "nothing")) for key in differing
    )


def identity(settings: Settings) -> str:
    """A digest of the decisive settings; runs of one may use each other's checkpoints."""
    return identity_of(resolved_values(settings), settings.run.folder)


def identity_of(resolved: Mapping[str, Any], folder: Path) -> str:
    """The identity of the run in a folder, from its resolved configuration.

    Files and folders that the run's folder knows by their content go in by that.
    """
    found = {**_decisive(resolved), **_known(folder)}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def decisive(settings: Settings) -> Mapping[str, str]:
    """The settings that a run cannot change when it goes on: JSON by dotted key."""
    return _decisive(resolved_values(settings))


def _decisive(resolved: Mapping[str, Any]) -> Mapping[str, str]:
    leaves = _leaves(resolved)
    return {
        key: text
        for key, text in leaves
        # An added key is left out where it is as it was, so that the digest is too.
        if key != STEPS and _ADDED.get(key) != text and not _under(key, FREE + ROUNDING)
    }


def shared(settings: Settings) -> Mapping[str, str]:
    """What all processes of a run must have alike: JSON by dotted key."""
    leaves = _leaves(resolved_values(settings))
    return {key: text for key, text in leaves if not _under(key, ("run.folder", "observers"))}


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping) and tree:
        for name, item in tree.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    else:
        yield key, json.dumps(tree, ensure_ascii=False)


def _under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


@attrs.frozen
class Source:
    """The files that a key of the configuration led to."""

    # SHA-256 by the paths of files in the folder; that of a file by `.`.
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One for all files."""
        return hashlib.sha256(json.dumps(dict(self.files), sort_keys=True).encode()).hexdigest()

    def differing(self, other: Source) -> str | None:
        """The first file that differs, is missing or too much; None if all are alike."""
        names = sorted({*self.files, *other.files})
        return next((n for n in names if self.files.get(n) != other.files.get(n)), None)


@attrs.frozen
class _Sources:
    """What the file holds."""

    sources: Mapping[str, Source]


def source_at(text: str) -> Source | None:
    """The files at a path, but hidden ones and documents; None if there is nothing."""
    place = _on_disk(text)
    if place is None:
        return None
    if place.is_file():
        return Source({".": digests(place.parent, [place.name])[place.name]})
    return Source(digests(place, sorted(_files(place))))


def sources_of(leaves: Mapping[str, str]) -> Mapping[str, Source]:
    """The files by key, of those decisive settings that name a file or folder."""
    found = {}
    for key, written in leaves.items():
        value = json.loads(written)
        if isinstance(value, str) and (os.sep in value or key.rpartition(".")[2] in _NAMES):
            found[key] = source_at(value)
    return {key: source for key, source in found.items() if source is not None}


def write_sources(folder: Path, sources: Mapping[str, Source]) -> None:
    """Write what a run is made of to its folder."""
    tree = {key: {"files": dict(source.files)} for key, source in sources.items()}
    write_atomically(folder / SOURCES, sealed({"sources": tree}))


def read_sources(folder: Path) -> Mapping[str, Source] | None:
    """Read what `write_sources` wrote; None if the file is not there."""
    path = folder / SOURCES
    if not path.exists():
        return None
    return read_sealed(_Sources, path, cure="restore it from a copy, or begin a new run").sources


def _known(folder: Path) -> Mapping[str, str]:
    """The digest of what each key led to when a run began; none of what is not known."""
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

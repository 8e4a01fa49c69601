"""What a checkpoint consists of, byte by byte, so that nothing else is taken for it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attrs

from flowbp.configuration import DamagedError, read_sealed, sealed
from flowbp.core._validators import integer
from flowbp.files import digests

MANIFEST, FORMAT = "manifest.json", 4
TRAINING = "training"
"""The folder of a checkpoint that holds the state of training."""

_CURE = "take another checkpoint"


@attrs.frozen(kw_only=True)
class File:
    """What a file of a checkpoint is.

    Args:
        size: in bytes.
        sha256: of its content, hexadecimal digits.

    Example:
        >>> File(size=0, sha256="e3b0").size
        0
    """

    size: int = attrs.field(validator=integer(0))
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """What a checkpoint was when it was written.

    Args:
        format: of this file and of the state of training.
        step: after which it was saved; None of what is no checkpoint of a run.
        identity: of the run; None where no run can go on from it, as it holds the model alone.
        files: all others, by their paths in its folder.

    Example:
        >>> Manifest(format=4, files={}).identity is None
        True
    """

    format: int
    step: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(0)))
    identity: str | None = None
    files: Mapping[str, File]


def write_manifest(
    checkpoint: Path, *, identity: str | None = None, step: int | None = None
) -> None:
    """Write down what a checkpoint consists of.

    The files are read back for it, from memory as they have just been written: most are written
    by libraries that give no digest.

    Args:
        checkpoint: its folder, all else written.
        identity: of the run; None if it holds the model alone.
        step: after which it is saved.

    Raises:
        OSError: a file cannot be read or written.

    Example:
        See `damage`.
    """
    names = sorted(_names(checkpoint))
    known = digests(checkpoint, names)
    tree = {
        "format": FORMAT,
        "step": step,
        "identity": identity,
        "files": {
            name: {"size": (checkpoint / name).stat().st_size, "sha256": known[name]}
            for name in names
        },
    }
    (checkpoint / MANIFEST).write_text(sealed(tree), encoding="utf-8")


def read_manifest(checkpoint: Path) -> Manifest:
    """Read what `write_manifest` wrote.

    Args:
        checkpoint: its folder.

    Returns:
        The manifest.

    Raises:
        DamagedError: it is missing, damaged or of another format.

    Example:
        See `damage`.
    """
    path = checkpoint / MANIFEST
    found = read_sealed(Manifest, path, cure=_CURE)
    if found.format != FORMAT:
        problem = f"is of format {found.format}, and this version reads {FORMAT}"
        raise DamagedError(path, problem, "take the version of flowbp that wrote it")
    return found


def _all(_: str) -> bool:
    return True


def damage(
    checkpoint: Path, manifest: Manifest, *, counts: Callable[[str], bool] = _all
) -> str | None:
    """What is not as it was when a checkpoint was written.

    Args:
        checkpoint: its folder.
        manifest: that it has.
        counts: of which files the content is read, by their paths; of the others only the size is
            looked at.

    Returns:
        A clause on the first file that is missing, too much, or another one; None if all is as it
        was.

    Example:
        >>> from tempfile import mkdtemp
        >>> place = Path(mkdtemp())
        >>> (place / "weights").write_text("0.25")
        4
        >>> write_manifest(place)
        >>> damage(place, read_manifest(place)) is None
        True
        >>> (place / "weights").write_text("0.75")
        4
        >>> damage(place, read_manifest(place))
        'the content of its file weights is not what was saved'
    """
    try:
        found = _shape(checkpoint, manifest)
        if found is not None:
            return found
        names = [name for name in manifest.files if counts(name)]
        for name, digest in digests(checkpoint, names).items():
            if digest != manifest.files[name].sha256:
                return f"the content of its file {name} is not what was saved"
    except OSError as error:
        return f"its file {error.filename} cannot be read ({error.strerror or error})"
    return None


def model_damage(checkpoint: Path, *, state: bool = False, content: bool = True) -> str | None:
    """What is wrong with the model of a checkpoint, for one who takes it and does not train on.

    The folder `training` may be left out as a whole. A folder without a manifest is none that was
    written here, and nothing is known of it.

    Args:
        checkpoint: a folder, or a file.
        state: whether the state of training is taken too.
        content: whether the files are read, and not only their names and sizes.

    Returns:
        A clause, or None.

    Example:
        >>> model_damage(Path("/none")) is None
        True
    """
    if not (checkpoint / MANIFEST).is_file():
        if (checkpoint / TRAINING).is_dir():
            return f"its {MANIFEST} is missing, so that nothing says what it was"
        return None
    try:
        manifest = read_manifest(checkpoint)
    except DamagedError as error:
        return f"its {MANIFEST} {error.problem}"
    if not state and not (checkpoint / TRAINING).exists():
        kept = {name: file for name, file in manifest.files.items() if not _of_training(name)}
        manifest = attrs.evolve(manifest, files=kept)
    return damage(
        checkpoint, manifest, counts=lambda name: content and (state or not _of_training(name))
    )


def _of_training(name: str) -> bool:
    return name.startswith(f"{TRAINING}/")


def _shape(checkpoint: Path, manifest: Manifest) -> str | None:
    there = set(_names(checkpoint))
    for name, file in manifest.files.items():
        if name not in there:
            return f"its file {name} is missing"
        size = (checkpoint / name).stat().st_size
        if size != file.size:
            return f"its file {name} has {size} bytes instead of {file.size}"
    strange = sorted(there - manifest.files.keys())
    if strange:
        return f"its file {strange[0]} was not there when it was saved; remove it"
    return None


def _names(checkpoint: Path) -> Iterable[str]:
    """All files but the manifest; what a link to a folder leads to counts as well."""
    for place, _, names in os.walk(checkpoint, followlinks=True):
        for name in names:
            path = (Path(place) / name).relative_to(checkpoint).as_posix()
            if path != MANIFEST:
                yield path

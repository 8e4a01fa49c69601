"""Checkpoints on disk: written whole or not at all, with a manifest, and found again."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import attrs

from flowbp.config import DamagedError, read_sealed, sealed
from flowbp.files import PARTIAL, SavingError, digests, flush, refuse_foreign, saving
from flowbp.validators import integer

MANIFEST, FORMAT = "manifest.json", 4
TRAINING = "training"
STATE, TENSORS = "state.json", "tensors.safetensors"
"""The folder of a checkpoint that holds the state of training, and the files in it."""

_CURE = "take another checkpoint"
REPLACED = ".flowbp-replaced"
"""Ending of a checkpoint that a new one of the same name is taking the place of."""


class Savable(Protocol):
    """Anything that writes itself into a folder; a `Backbone` does."""

    def save(self, folder: Path) -> None:
        """Write into `folder`, which exists and is empty."""
        ...


class CheckpointError(SavingError):
    """A checkpoint could not be written, or cannot be used; what was there before is unharmed."""


@attrs.frozen(kw_only=True)
class File:
    """What a file of a checkpoint is."""

    size: int = attrs.field(validator=integer(0))
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """What a checkpoint was when it was written."""

    format: int
    step: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(0)))
    identity: str | None = None
    files: Mapping[str, File]


def write_manifest(
    checkpoint: Path, *, identity: str | None = None, step: int | None = None
) -> None:
    """Write down what a checkpoint consists of; `identity` is None if it is a model alone."""
    # Read back, from memory as they have just been written: libraries write most, without digest.
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
    """Read what `write_manifest` wrote."""
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
    """A clause on the first file that is not as it was when a checkpoint was written, or None.

    Only of the files for which `counts` holds is the content read, of the others the size.
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


def save_checkpoint(
    source: Savable, folder: Path, *, identity: str | None = None, step: int | None = None
) -> Path:
    """Write a checkpoint under its name only when all of it is on disk.

    It is written into a sibling `.<name>.flowbp-partial`, flushed to disk and renamed. A
    checkpoint of the same name is renamed aside to `.<name>.flowbp-replaced` first and removed
    last, so that one of the two is whole at any moment. What a killed process left behind is put
    right at the next save into the same parent folder (see `recover`). One process at a time may
    save there.
    """
    folder = Path(os.path.abspath(folder))
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    with saving(folder, "what was there before is unharmed", CheckpointError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder.parent)
        for place in (partial, folder.with_name(f".{folder.name}{REPLACED}")):
            refuse_foreign(place, folder=True)
        with _removed_on_failure(partial):
            partial.mkdir()
            source.save(partial)
            write_manifest(partial, identity=identity, step=step)
            _flush(partial)
            _refuse_strangers(folder, partial)
            _replace(folder, partial)
    return folder


def recover(parent: Path) -> None:
    """Put right what a process that died while saving left in a folder of checkpoints."""
    # What cannot be removed is in nobody's way, and must not keep a checkpoint from being saved.
    for leftover in sorted(parent.glob(f".*{PARTIAL}")):
        shutil.rmtree(leftover, ignore_errors=True)
    for aside in sorted(parent.glob(f".*{REPLACED}")):
        if aside.is_symlink() or not aside.is_dir():
            # No save left that; one of its name is refused (see `save_checkpoint`).
            continue
        original = aside.with_name(aside.name.removeprefix(".").removesuffix(REPLACED))
        if original.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.rename(original)


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint so that, killed half-way, nothing is left that looks like one."""
    if folder.is_symlink():
        # What it leads to was put there by someone.
        folder.unlink()
        return
    leftover = folder.with_name(f".{folder.name}{PARTIAL}")
    folder.rename(leftover)
    shutil.rmtree(leftover)


@contextmanager
def _removed_on_failure(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # That it cannot be removed must not hide why it was not finished.
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _refuse_strangers(folder: Path, partial: Path) -> None:
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        what = "link" if folder.is_symlink() else "file"
        raise CheckpointError(
            errno.ENOTDIR, f"`folder` must be a folder or free, got the {what} {folder}"
        )
    strangers = sorted({p.name for p in folder.iterdir()} - {p.name for p in partial.iterdir()})
    if strangers:
        raise CheckpointError(
            errno.ENOTEMPTY,
            f"`folder` {folder} holds what no checkpoint of this model does "
            f"({', '.join(strangers[:3])}) and is not replaced; choose another name or empty it",
        )


def _replace(folder: Path, partial: Path) -> None:
    aside = folder.with_name(f".{folder.name}{REPLACED}")
    try:
        if folder.exists():
            folder.rename(aside)
        partial.rename(folder)
    except BaseException:
        if aside.exists() and not folder.exists():
            aside.rename(folder)
        raise
    flush(folder.parent)
    # The new one is saved, whatever becomes of the old; `recover` removes what stays.
    shutil.rmtree(aside, ignore_errors=True)


def _flush(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))


_NAME = re.compile(r"(?:(step|best|interrupted|stopped)-(\d+)|final)")


@attrs.frozen
class SavedCheckpoint:
    """A checkpoint as it was found on the disk, and why no run can go on from it, if so."""

    place: Path
    # Infinite for a damaged one whose name does not say.
    step: float
    problem: str | None


def inspect_checkpoint(place: Path, identity: str) -> SavedCheckpoint:
    """Look whether a checkpoint is of this run and has all its files; reads the state alone."""
    number = (_NAME.fullmatch(place.name) or [None] * 3)[2]
    named = int(number) if number is not None else math.inf
    try:
        manifest = read_manifest(place)
    except DamagedError as error:
        return SavedCheckpoint(place, named, f"its {MANIFEST} {error.problem}")
    step, theirs = manifest.step, manifest.identity
    if step is None or theirs is None:
        return SavedCheckpoint(place, named, "it has no state of training")
    if named not in (step, math.inf):
        return SavedCheckpoint(
            place, named, f"it was saved after step {step}, which is not what it is named"
        )
    if theirs != identity:
        return SavedCheckpoint(place, step, "it was saved by a run of another configuration")
    # A manifest of another step may lie here: the files have the same names, often the same sizes.
    problem = damage(place, manifest, counts=f"{TRAINING}/{STATE}".__eq__)
    return SavedCheckpoint(place, step if problem is None else named, problem)


def verify_checkpoint(place: Path, identity: str) -> SavedCheckpoint:
    """Look whether a checkpoint is of this run, and every byte of it as it was written."""
    found = inspect_checkpoint(place, identity)
    if found.problem is not None:
        return found
    return attrs.evolve(found, problem=damage(place, read_manifest(place)))


def saved_checkpoints(folder: Path, identity: str) -> tuple[SavedCheckpoint, ...]:
    """All checkpoints that a run wrote to go on from, damaged ones too, the newest last."""
    places = [path for path in folder.glob("*") if _NAME.fullmatch(path.name)]
    found = (inspect_checkpoint(place, identity) for place in places if not _is_model_alone(place))
    return tuple(sorted(found, key=lambda saved: (saved.step, saved.place.name)))


def newest_checkpoint(folder: Path, identity: str) -> SavedCheckpoint | None:
    """The checkpoint that a run goes on from, None without any.

    Nothing is passed over silently: if the newest is damaged or of another run, the error names the
    newest one that is sound, which the next attempt takes once the other is moved away.
    """
    found = saved_checkpoints(folder, identity)
    if not found:
        return None
    newest = verify_checkpoint(found[-1].place, identity)
    if newest.problem is None:
        return newest
    others = (verify_checkpoint(saved.place, identity) for saved in reversed(found[:-1]))
    sound = next((saved.place.name for saved in others if saved.problem is None), None)
    cure = (
        f"move it away, and the run goes on from the newest sound one, {sound}"
        if sound
        else "there is no sound one besides; move it away, and the run starts again from step 0"
    )
    raise CheckpointError(
        f"the checkpoint {newest.place} cannot be resumed: {newest.problem}; {cure}"
    )


def _is_model_alone(place: Path) -> bool:
    """Whether it was saved in the middle of an update, so that no run can go on from it."""
    if not place.name.startswith("stopped") or (place / TRAINING).exists():
        return False
    try:
        return read_manifest(place).identity is None
    except DamagedError:
        return False

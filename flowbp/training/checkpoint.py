"""A checkpoint on disk: its names and manifest, written whole or not at all, and found again."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import stat
import warnings
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import attrs

from flowbp.config import DamagedError, read_sealed, sealed
from flowbp.files import (
    PARTIAL,
    SavingError,
    digests,
    flush,
    refuse_foreign,
    saving,
    write_atomically,
)
from flowbp.validators import integer

MANIFEST, FORMAT = "manifest.json", 5
TRAINING, STATE, TENSORS = "training", "state.json", "tensors.safetensors"
"""The folder of a checkpoint that holds the state of training, and the files in it."""

STATE_FILE = f"{TRAINING}/{STATE}"
FINAL = "final"
CARD = "README.md"
"""The model card, which is no part of what was saved: it may be completed, edited or removed."""

Card = Callable[[Path, int], str]
"""Writes the card of the model that is in a folder after a step."""

REPLACED = ".flowbp-replaced"
"""Ending of a checkpoint that a new one of the same name is taking the place of."""

CURE = "take another checkpoint"
# Those that a run goes on from; `last-good-<step>` and `failed-<step>` are models alone.
_RESUMABLE = re.compile(rf"(?:(step|best|interrupted|stopped)-(\d+)|{FINAL})")


def numbered(kind: str, step: int) -> str:
    """The name of a checkpoint of a kind after a step."""
    return f"{kind}-{step:06}"


class CheckpointError(SavingError):
    """A checkpoint could not be written, or cannot be used; what was there before is unchanged."""


@attrs.frozen(kw_only=True)
class File:
    """What a file of a checkpoint is."""

    size: int = attrs.field(validator=integer(0))
    sha256: str


@attrs.frozen(kw_only=True)
class Manifest:
    """What a checkpoint was when it was written; `identity` is None if it is a model alone."""

    format: int
    step: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(0)))
    identity: str | None = None
    files: Mapping[str, File]


def write_manifest(
    checkpoint: Path,
    *,
    identity: str | None = None,
    step: int | None = None,
    known: Mapping[str, str] | None = None,
) -> None:
    """Write down what a checkpoint consists of, of whose files some digests may be `known`."""
    known, names = known or {}, sorted(_names(checkpoint))
    # Read back, from memory as they have just been written: libraries write most, without digest.
    found = {**known, **digests(checkpoint, [name for name in names if name not in known])}
    files = {
        name: {"size": (checkpoint / name).stat().st_size, "sha256": found[name]} for name in names
    }
    tree = {"format": FORMAT, "step": step, "identity": identity, "files": files}
    (checkpoint / MANIFEST).write_text(sealed(tree), encoding="utf-8")


def read_manifest(checkpoint: Path) -> Manifest:
    """Read what `write_manifest` wrote."""
    path = checkpoint / MANIFEST
    found = read_sealed(Manifest, path, cure=CURE)
    if found.format != FORMAT:
        problem = (
            f"is of format {found.format}, and this version reads {FORMAT}: another version of "
            "flowbp wrote it, which can go on with it"
        )
        raise DamagedError(path, problem, "take that version")
    return found


def damage(checkpoint: Path, manifest: Manifest, read: Container[str]) -> str | None:
    """A clause on the first file that is not as it was saved; of those to `read` by content."""
    try:
        there = set(_names(checkpoint))
        for name, file in manifest.files.items():
            if name not in there:
                return f"its file {name} is missing"
            size = (checkpoint / name).stat().st_size
            if size != file.size:
                return f"its file {name} has {size} bytes instead of {file.size}"
        strange = sorted(n for n in there - manifest.files.keys() if not is_beside(n))
        if strange:
            return f"its file {strange[0]} was not there when it was saved; remove it"
        names = [name for name in manifest.files if name in read]
        for name, digest in digests(checkpoint, names).items():
            if digest != manifest.files[name].sha256:
                return f"the content of its file {name} is not what was saved"
    except OSError as error:
        return f"its file {error.filename} cannot be read ({error.strerror or error})"
    return None


def model_damage(checkpoint: Path, *, state: bool = False, content: bool = True) -> str | None:
    """What is wrong with a checkpoint for one who takes its model, and its `state` perhaps.

    The folder `training` may be left out as a whole. A folder without a manifest is none that was
    written here, and nothing is known of it. Without `content` names and sizes are compared alone.
    """
    if not (checkpoint / MANIFEST).is_file():
        if (checkpoint / TRAINING).is_dir():
            return f"its {MANIFEST} is missing, so its content is unknown"
        return None
    try:
        manifest = read_manifest(checkpoint)
    except DamagedError as error:
        return f"its {MANIFEST} {error.problem}"
    model = {n: file for n, file in manifest.files.items() if not n.startswith(f"{TRAINING}/")}
    wanted = manifest.files if state else model
    if not state and not (checkpoint / TRAINING).exists():
        manifest = attrs.evolve(manifest, files=model)
    return damage(checkpoint, manifest, wanted if content else ())


def is_beside(name: str) -> bool:
    """Whether a file is a card, or one of those that the hub adds to a folder, which are hidden."""
    return name == CARD or name.startswith(".")


def _names(checkpoint: Path) -> Iterator[str]:
    """All files but the manifest; what a link to a folder leads to counts as well."""
    for place, _, names in os.walk(checkpoint, followlinks=True):
        paths = ((Path(place) / name).relative_to(checkpoint).as_posix() for name in names)
        yield from (path for path in paths if path != MANIFEST)


def save_checkpoint(
    write: Callable[[Path], Mapping[str, str] | None],
    folder: Path,
    *,
    identity: str | None = None,
    step: int | None = None,
    card: Callable[[Path], str] | None = None,
) -> Path:
    """Have a checkpoint written, and give it its name only when all of it is on disk.

    It is written into a sibling `.<name>.flowbp-partial`, flushed to disk and renamed. A
    checkpoint of the same name is renamed aside to `.<name>.flowbp-replaced` first and removed
    last, so that one of the two is whole at any moment. What a killed process left behind is put
    right at the next save into the same parent folder. One process at a time may save there.
    `write` returns the SHA-256 of files by name that it knows, of those that it has linked say.
    """
    folder = Path(os.path.abspath(folder))
    partial, aside = (folder.with_name(f".{folder.name}{end}") for end in (PARTIAL, REPLACED))
    with saving(folder, "what was there before is unchanged", CheckpointError):
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder.parent)
        for place in (partial, aside):
            refuse_foreign(place, folder=True)
        try:
            partial.mkdir()
            known = write(partial)
            write_manifest(partial, identity=identity, step=step, known=known)
            if card is not None and not (partial / CARD).exists():
                _write_card(card, partial)
            _permit_alike(partial)
            for path in (*partial.rglob("*"), partial):
                flush(path)
            _refuse_strangers(folder, partial)
            _replace(folder, partial, aside)
        except BaseException:
            # That it cannot be removed must not hide why it was not finished.
            shutil.rmtree(partial, ignore_errors=True)
            raise
    return folder


def _permit_alike(checkpoint: Path) -> None:
    """Give all files the permissions of the manifest, which are those of the umask.

    safetensors 0.8 makes its files readable by their owner alone.
    """
    mode = stat.S_IMODE((checkpoint / MANIFEST).stat().st_mode)
    for path in checkpoint.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
            with suppress(PermissionError):  # of a file that a backbone linked, another user's
                path.chmod(mode)


def replace_card(checkpoint: Path, card: Callable[[Path], str]) -> None:
    """Write the card of a checkpoint anew, unless its backbone has saved one of its own."""
    if checkpoint.is_dir() and CARD not in read_manifest(checkpoint).files:
        _write_card(card, checkpoint)


def _write_card(card: Callable[[Path], str], folder: Path) -> None:
    try:
        text = card(folder)
    # It may ask a backbone of others, and no card is worth a model.
    except Exception as error:
        warnings.warn(
            f"the {CARD} of a checkpoint could not be made "
            f"({type(error).__name__}: {error}); the model itself is saved",
            stacklevel=2,
        )
        return
    write_atomically(folder / CARD, text)


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


def _refuse_strangers(folder: Path, partial: Path) -> None:
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():
        what = "link" if folder.is_symlink() else "file"
        raise CheckpointError(
            errno.ENOTDIR, f"`folder` must be a folder or free, got the {what} {folder}"
        )
    # What a kill left of a card that was being replaced.
    known = {f".{CARD}{PARTIAL}", *(p.name for p in partial.iterdir())}
    strangers = sorted({p.name for p in folder.iterdir()} - known)
    if strangers:
        raise CheckpointError(
            errno.ENOTEMPTY,
            f"`folder` {folder} holds what no checkpoint of this model does "
            f"({', '.join(strangers[:3])}) and is not replaced; choose another name or empty it",
        )


def _replace(folder: Path, partial: Path, aside: Path) -> None:
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


@attrs.frozen
class SavedCheckpoint:
    """A checkpoint as it was found on the disk, and why no run can go on from it, if so."""

    place: Path
    # Infinite for a damaged one whose name does not say.
    step: float
    problem: str | None


def inspect_checkpoint(
    place: Path, identity: str, read: Container[str] | None = None
) -> SavedCheckpoint:
    """Look whether a checkpoint is of this run and as it was saved; reads all of it if None."""
    number = (_RESUMABLE.fullmatch(place.name) or [None] * 3)[2]
    named = math.inf if number is None else int(number)
    try:
        manifest = read_manifest(place)
    except DamagedError as error:
        return SavedCheckpoint(place, named, f"its {MANIFEST} {error.problem}")
    step, theirs = manifest.step, manifest.identity
    if step is None or theirs is None:
        return SavedCheckpoint(place, named, "it has no training state")
    if named not in (step, math.inf):
        return SavedCheckpoint(
            place, named, f"it was saved after step {step}, which is not what it is named"
        )
    if theirs != identity:
        return SavedCheckpoint(place, step, "it was saved by a run of another configuration")
    problem = damage(place, manifest, manifest.files if read is None else read)
    return SavedCheckpoint(place, step if problem is None else named, problem)


def saved_checkpoints(
    folder: Path, identity: str, read: Container[str] = (STATE_FILE,)
) -> tuple[SavedCheckpoint, ...]:
    """All checkpoints that a run wrote to go on from, damaged ones too, the newest last."""
    # The state is read, as a manifest of another step may lie beside it: the files have the same
    # names, often the same sizes.
    places = [path for path in folder.glob("*") if _RESUMABLE.fullmatch(path.name)]
    found = [inspect_checkpoint(p, identity, read) for p in places if not _is_model_alone(p)]
    return tuple(sorted(found, key=lambda saved: (saved.step, saved.place.name)))


def newest_checkpoint(folder: Path, identity: str) -> SavedCheckpoint | None:
    """The checkpoint that a run goes on from, None without any.

    Nothing is passed over silently: if the newest is damaged or of another run, the error names the
    newest one that is sound, which the next attempt takes once the other is moved away.
    """
    places = [saved.place for saved in reversed(saved_checkpoints(folder, identity))]
    if not places:
        return None
    # One after the other, because each is read whole.
    inspected = (inspect_checkpoint(place, identity) for place in places)
    newest = next(inspected)
    if newest.problem is None:
        return newest
    sound = next((saved.place.name for saved in inspected if saved.problem is None), None)
    cure = (
        f"move it away, and the run continues from the newest intact one, {sound}"
        if sound
        else "there is no other intact checkpoint; move it away, and the run starts from step 0"
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

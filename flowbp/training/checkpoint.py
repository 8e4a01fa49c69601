"""Checkpoints that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flowbp.disk import SavingError, saving
from flowbp.files import PARTIAL, flush, refuse_foreign
from flowbp.training.manifest import write_manifest

REPLACED = ".flowbp-replaced"
"""Ending of a checkpoint that a new one of the same name is taking the place of."""


class Savable(Protocol):
    """Anything that writes itself into a folder; a `Backbone` does."""

    def save(self, folder: Path) -> None:
        """Write into `folder`, which exists and is empty."""
        ...


class CheckpointError(SavingError):
    """A checkpoint could not be written, or cannot be used; what was there before is unharmed."""


def save_checkpoint(
    source: Savable, folder: Path, *, identity: str | None = None, step: int | None = None
) -> Path:
    """Write a checkpoint under its name only when all of it is on disk.

    It is written into a sibling `.<name>.flowbp-partial`, flushed to disk and renamed. A
    checkpoint of the same name is renamed aside to `.<name>.flowbp-replaced` first and removed
    last, so that one of the two is whole at any moment. What a killed process left behind is put
    right at the next save into the same parent folder (see `recover`). One process at a time may
    save there.

    Args:
        source: what is saved.
        folder: the checkpoint. An existing one is replaced.
        identity: of the run that can go on from it; None if none can.
        step: of the run, after which it is saved.

    Returns:
        `folder`, absolute. Beside what `source` wrote it has a `manifest.json` with the SHA-256 of
        every file.

    Raises:
        CheckpointError: the disk is full, read-only, gone or the like, or `folder` holds something
            else than what would be written. Nothing that was there is lost.
        Exception: whatever `source.save` raises, after the same cleaning up.

    Example:
        >>> from tempfile import mkdtemp
        >>> class Text:
        ...     def save(self, folder):
        ...         (folder / "text").write_text("all of it")
        >>> sorted(path.name for path in save_checkpoint(Text(), Path(mkdtemp()) / "a").iterdir())
        ['manifest.json', 'text']
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
    """Put right what a process that died while saving left in a folder of checkpoints.

    Unfinished checkpoints are removed. One that was renamed aside gets its name back if the new
    one had not taken it yet, and is removed if it had.

    Args:
        parent: the folder that holds the checkpoints.

    Example:
        >>> from tempfile import mkdtemp
        >>> parent = Path(mkdtemp())
        >>> (parent / f".a{PARTIAL}").mkdir(), (parent / f".b{REPLACED}").mkdir()
        (None, None)
        >>> recover(parent)
        >>> [path.name for path in parent.iterdir()]
        ['b']
    """
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
    """Remove a checkpoint so that, killed half-way, nothing is left that looks like one.

    Args:
        folder: the checkpoint.

    Raises:
        OSError: it cannot be removed.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp()) / "step-000001"
        >>> folder.mkdir()
        >>> remove_checkpoint(folder)
        >>> folder.exists()
        False
    """
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

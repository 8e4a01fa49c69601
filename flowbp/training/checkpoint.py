"""Checkpoints that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from flowbp.files import PARTIAL, flush

REPLACED = ".flowbp-replaced"
"""Ending of a checkpoint that a new one of the same name is taking the place of."""


class Savable(Protocol):
    """Anything that writes itself into a folder; a `Backbone` does."""

    def save(self, folder: Path) -> None:
        """Write into `folder`, which exists and is empty."""
        ...


class CheckpointError(OSError):
    """A checkpoint could not be written, or cannot be used; what was there before is unharmed."""


def save_checkpoint(source: Savable, folder: Path) -> Path:
    """Write a checkpoint under its name only when all of it is on disk.

    It is written into a sibling `.<name>.flowbp-partial`, flushed to disk and renamed. A
    checkpoint of the same name is renamed aside to `.<name>.flowbp-replaced` first and removed
    last, so that one of the two is whole at any moment. What a killed process left behind is put
    right at the next save into the same parent folder (see `recover`). One process at a time may
    save there.

    Args:
        source: what is saved.
        folder: the checkpoint. An existing one is replaced.

    Returns:
        `folder`, absolute.

    Raises:
        CheckpointError: the disk is full, or `folder` holds something else than what would be
            written. Nothing that was there is lost.
        Exception: whatever `source.save` raises, after the same cleaning up.

    Example:
        >>> from tempfile import mkdtemp
        >>> class Text:
        ...     def save(self, folder):
        ...         (folder / "text").write_text("all of it")
        >>> sorted(path.name for path in save_checkpoint(Text(), Path(mkdtemp()) / "a").iterdir())
        ['text']
    """
    folder = Path(os.path.abspath(folder))
    partial = folder.with_name(f".{folder.name}{PARTIAL}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        recover(folder.parent)
        with _removed_on_failure(partial):
            partial.mkdir()
            source.save(partial)
            _flush(partial)
            _refuse_strangers(folder, partial)
            _replace(folder, partial)
    except Exception as error:
        if _disk_full(error):
            place = next(parent for parent in folder.parents if parent.exists())
            free = shutil.disk_usage(place).free / 2**20
            raise CheckpointError(
                errno.ENOSPC,
                f"the disk is full: the checkpoint `{folder.name}` was not written, what was there "
                f"before is unharmed; {free:.0f} MiB are free in {place}, make room or "
                "save to another disk",
            ) from error
        raise
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
    for leftover in sorted(parent.glob(f".*{PARTIAL}")):
        shutil.rmtree(leftover)
    for aside in sorted(parent.glob(f".*{REPLACED}")):
        original = aside.with_name(aside.name.removeprefix(".").removesuffix(REPLACED))
        if original.exists():
            shutil.rmtree(aside)
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
    leftover = folder.with_name(f".{folder.name}{PARTIAL}")
    folder.rename(leftover)
    shutil.rmtree(leftover)


@contextmanager
def _removed_on_failure(partial: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if partial.exists():
            shutil.rmtree(partial)
        raise


def _refuse_strangers(folder: Path, partial: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise CheckpointError(
            errno.ENOTDIR, f"`folder` must be a folder or free, got the file {folder}"
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
    if aside.exists():
        shutil.rmtree(aside)


def _flush(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))


def _disk_full(error: BaseException | None) -> bool:
    # safetensors reports a full disk as an error of its own that carries only the text.
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False

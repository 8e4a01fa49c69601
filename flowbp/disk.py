"""What a disk says when it does not take a file, in words that help."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = "make room or save to another disk"
_CAUSES = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: (
        "your quota of the disk is used up",
        "remove files of yours, ask for more, or save to another disk",
    ),
    errno.EFBIG: (
        "a file is larger than may be written there",
        "raise the limit (`ulimit -f`), or save to a file system that takes larger files",
    ),
    errno.ENOENT: ("the folder is gone", "put it back, or save to another"),
    errno.ENOTDIR: ("a file is in the place of its folder", "move it away, or save elsewhere"),
    errno.ESTALE: ("the folder is gone from the network disk", "mount it again, or save elsewhere"),
    errno.EROFS: ("the disk is read-only", "mount it for writing, or save to another disk"),
    errno.EACCES: ("the folder may not be written to", "give the permission, or save elsewhere"),
    errno.EPERM: ("the folder may not be written to", "give the permission, or save elsewhere"),
    errno.EIO: (
        "the disk reports an error of its own",
        "copy what is on it to another disk, and save there",
    ),
}
# Libraries in Rust put the number of an error into its text, and have no other place for it.
_NUMBER = re.compile(r"\(os error (\d+)\)")


class SavingError(OSError):
    """A file or folder was not written, for a reason of the disk; the message has the cure."""


def cause_of(error: BaseException | None) -> int | None:
    """The number of the disk's error behind an error, perhaps of a library that hides it.

    Args:
        error: any.

    Returns:
        Its number; None if it, and what it was raised from, is no error that a disk reports.

    Example:
        >>> cause_of(RuntimeError("I/O error: File too large (os error 27)")) == errno.EFBIG
        True
    """
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        found = _NUMBER.search(str(error))
        for each in (number, int(found[1]) if found else None):
            if each in _CAUSES:
                return each
        if os.strerror(errno.ENOSPC) in str(error):
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


@contextmanager
def saving(place: Path, kept: str, kind: type[SavingError] = SavingError) -> Iterator[None]:
    """Report what a disk refuses: what was not written, what stays, where there is room, the cure.

    Args:
        place: that is being written.
        kept: what is unharmed, as a clause.
        kind: of the error to raise.

    Raises:
        SavingError: in place of an error of the disk; others pass.

    Example:
        >>> with saving(Path("a/b"), "nothing was there before"):
        ...     raise OSError(errno.EROFS, "no")
        Traceback (most recent call last):
        flowbp.disk.SavingError: [Errno 30] the disk is read-only: `b` was not written, nothing \
was there before; mount it for writing, or save to another disk
    """
    try:
        yield
    except SavingError:
        raise
    except Exception as error:
        number = cause_of(error)
        if number is None:
            raise
        what, cure = _CAUSES[number]
        raise kind(
            number, f"{what}: `{place.name}` was not written, {kept}{_room(place, number)}; {cure}"
        ) from error


def _room(place: Path, number: int) -> str:
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f" (it was to be {place})" if place.is_absolute() else ""
    there = next((parent for parent in place.absolute().parents if parent.exists()), None)
    if there is None:
        return ""
    return f"; {shutil.disk_usage(there).free / 2**20:.0f} MiB are free in {there}"

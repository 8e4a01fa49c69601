"""Files that are written whole or not at all, read only if regular, and errors of the disk."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import IO

PARTIAL = ".flowbp-partial"
"""Ending of a file or folder that is being written, or was when its process died."""

_READERS = 4
_NOT_REGULAR = "is a pipe or a device and no regular file"
_CAUSES = {
    errno.ENOSPC: ("the disk is full", "make room or save to another disk"),
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


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, flush it to disk and rename it into place.

    A file that was there is replaced at once, or, after a failure, is still there. A link that was
    there is replaced; what it points to stays. The folder is made if it is missing.
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with saving(path, "what was there before is unchanged"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if partial.is_file() and not partial.is_symlink():
            partial.unlink()
        descriptor = open_plain(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content.encode() if isinstance(content, str) else content)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        flush(path.parent)


def open_to_append(path: Path) -> IO[str]:
    """Open a text file to add lines to it; it and its folder are made if they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return os.fdopen(descriptor, "a", encoding="utf-8")


def open_plain(path: Path, flags: int) -> int:
    """Open a file of this library's own to write; what it did not make there is refused."""
    try:
        # Not blocking, because a pipe would wait for its reader.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        refuse_foreign(path, error)
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        refuse_foreign(path)
    return descriptor


def refuse_foreign(path: Path, cause: BaseException | None = None, *, folder: bool = False) -> None:
    """Raise `FileExistsError` for what this library did not make, at a name that it writes to."""
    if not os.path.lexists(path):
        return
    status = path.lstat()
    mode = status.st_mode
    if stat.S_ISLNK(mode):
        what = "is a link, and nothing is written through it; remove it"
    elif (stat.S_ISDIR if folder else stat.S_ISREG)(mode):
        if folder or status.st_nlink == 1:
            return
        what = "has another name, under which it would change too; put a copy in its place"
    else:
        there = "a folder" if stat.S_ISDIR(mode) else "a file" if folder else "no ordinary file"
        what = f"is {there}, where {'a folder' if folder else 'a file'} is written; remove it"
    raise FileExistsError(f"{path} {what}") from cause


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests(folder: Path, names: Iterable[str]) -> Mapping[str, str]:
    """The SHA-256 of some files of a folder by name, read by a few threads at once."""
    chosen = list(names)
    paths = [folder / name for name in chosen]
    try:
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(_sha256, paths))
    except RuntimeError:
        # Once the main thread has ended, others may end their work, but start no thread.
        found = list(map(_sha256, paths))
    return dict(zip(chosen, found, strict=True))


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Read a file that someone else may have put there; a pipe might have nothing to read for ever.

    What is not regular, or larger than `most` bytes, is a ValueError that follows the file's name.
    """
    with _opened(path) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{_NOT_REGULAR}; copy what it holds into a file")
        if most is not None and status.st_size > most:
            raise ValueError(
                f"has {status.st_size:,} bytes, and at most {most:,} are read; make it smaller"
            )
        return stream.read()


def _opened(path: Path) -> BufferedReader:
    # Not blocking, because a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return open(descriptor, "rb")
    except OSError as error:
        os.close(descriptor)
        # A folder, and the number of a descriptor helps nobody.
        raise OSError(error.errno, error.strerror, str(path)) from None


class SavingError(OSError):
    """A file or folder was not written, for a reason of the disk; the message has the cure."""


def _disk_error(error: BaseException | None) -> int | None:
    """The number of the disk's error behind an error, perhaps of a library that hides it."""
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
    """Report what a disk refuses: what was not written, what is `kept`, the room and the cure."""
    try:
        yield
    except SavingError:
        raise
    except Exception as error:
        number = _disk_error(error)
        if number is None:
            raise
        what, cure = _CAUSES[number]
        raise kind(
            number, f"{what}: `{place.name}` was not written, {kept}{_room(place, number)}; {cure}"
        ) from error


def _room(place: Path, number: int) -> str:
    if number not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f" (instead of {place})" if place.is_absolute() else ""
    there = next((parent for parent in place.absolute().parents if parent.exists()), None)
    if there is None:
        return ""
    return f"; {shutil.disk_usage(there).free / 2**20:.0f} MiB are free in {there}"

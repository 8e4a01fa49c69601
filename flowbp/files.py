"""Single files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO

from flowbp.disk import saving

PARTIAL = ".flowbp-partial"
"""Ending of a file or folder that is being written, or was when its process died."""

_READERS = 4
_NOT_REGULAR = "is a pipe or a device and no regular file"


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, flush it to disk and rename it into place.

    A file that was there is replaced at once, or, after a failure, is still there. A link that was
    there is replaced; what it points to stays.

    Args:
        path: of the file; its folder is made if it is missing.
        content: bytes, or text to be written as UTF-8.

    Raises:
        SavingError: the disk refuses; the message says why, and what to do.
        FileExistsError: something else than a former process's rest is at the name beside it.
        OSError: the file cannot be written for another reason.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "figures.json"
        >>> write_whole(path, "{}")
        >>> path.read_text()
        '{}'
    """
    partial = path.with_name(f".{path.name}{PARTIAL}")
    with saving(path, "what was there before is unharmed"):
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
    """Open a text file to add lines to it.

    Args:
        path: of the file; it and its folder are made if they are missing.

    Returns:
        The file, in UTF-8.

    Raises:
        OSError: the file cannot be written.
        FileExistsError: as `open_plain`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "lines"
        >>> for number in (1, 2):
        ...     with open_to_append(path) as stream:
        ...         _ = stream.write(f"{number};")
        >>> path.read_text()
        '1;2;'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return os.fdopen(descriptor, "a", encoding="utf-8")


def open_plain(path: Path, flags: int) -> int:
    """Open a file of this library's own to write: no link is followed, and nothing else written to.

    Args:
        path: of the file.
        flags: of `os.open`.

    Returns:
        The descriptor.

    Raises:
        OSError: the file cannot be opened.
        FileExistsError: there is a link, a folder, a device or a file that has other names too.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "link"
        >>> path.symlink_to("elsewhere")
        >>> open_plain(path, os.O_WRONLY)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        FileExistsError: .../link is a link, and nothing is written through it; remove it
    """
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
    """Refuse what this library did not make, at a name that it writes to.

    Args:
        path: that may or may not be there.
        cause: of the refusal.
        folder: whether this library makes a folder of that name, else a file.

    Raises:
        FileExistsError: something else is there, or a file that has other names too.

    Example:
        >>> refuse_foreign(Path("no-such-file"))
    """
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
    """Wait until a file, or a folder's list of names, is on the disk.

    Args:
        path: of the file or folder.

    Raises:
        OSError: the disk refused.

    Example:
        >>> flush(Path("."))
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digests(folder: Path, names: Iterable[str]) -> Mapping[str, str]:
    """The SHA-256 of some files, read by a few threads at once.

    Args:
        folder: that holds them.
        names: their paths in it.

    Returns:
        Hexadecimal digits by name.

    Raises:
        OSError: a file cannot be read, or is a pipe or a device.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> write_whole(folder / "a", "")
        >>> digests(folder, ["a"])["a"][:8]
        'e3b0c442'
    """
    chosen = list(names)
    with ThreadPoolExecutor(_READERS) as readers:
        return dict(
            zip(chosen, readers.map(lambda name: _sha256(folder / name), chosen), strict=True)
        )


def _sha256(path: Path) -> str:
    with _opened(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, _NOT_REGULAR, str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_regular(path: Path, most: int | None = None) -> bytes:
    """Read a file that someone else may have put there, if it is one and not too large.

    A pipe or a device is refused, from which reading might wait or go on for ever.

    Args:
        path: of the file.
        most: bytes that it may have; any number if None.

    Returns:
        Its content.

    Raises:
        ValueError: it is no regular file, or larger; the message follows its name.
        OSError: it cannot be read.

    Example:
        >>> read_regular(Path("/dev/null"), 10)
        Traceback (most recent call last):
        ValueError: is a pipe or a device and no regular file; copy what it holds into a file
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


def _opened(path: Path) -> BinaryIO:
    # Not blocking, because a pipe would wait for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return open(descriptor, "rb")
    except OSError as error:
        os.close(descriptor)
        # A folder, and the number of a descriptor helps nobody.
        raise OSError(error.errno, error.strerror, str(path)) from None

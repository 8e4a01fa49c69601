"""Single files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from flowbp.disk import saving

PARTIAL = ".flowbp-partial"
"""Ending of a file or folder that is being written, or was when its process died."""

_READERS = 4


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, flush it to disk and rename it into place.

    A file that was there is replaced at once, or, after a failure, is still there.

    Args:
        path: of the file; its folder is made if it is missing.
        content: bytes, or text to be written as UTF-8.

    Raises:
        SavingError: the disk refuses; the message says why, and what to do.
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
        try:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
            flush(partial)
            partial.replace(path)
        except BaseException:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        flush(path.parent)


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
        OSError: a file cannot be read.

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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

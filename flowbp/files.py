"""Single files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL = ".flowbp-partial"
"""Ending of a file or folder that is being written, or was when its process died."""


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, flush it to disk and rename it into place.

    A file that was there is replaced at once, or, after a failure, is still there.

    Args:
        path: of the file; its folder is made if it is missing.
        content: bytes, or text to be written as UTF-8.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "figures.json"
        >>> write_whole(path, "{}")
        >>> path.read_text()
        '{}'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        flush(partial)
        partial.replace(path)
    except BaseException:
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

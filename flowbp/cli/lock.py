"""One process at a time in a run's folder."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flowbp.files import open_plain
from flowbp.settings import LOCK


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system releases it when the process ends."""
    # The file stays: whether it is locked counts, not whether it is there. On a network disk
    # without file locks, only processes of one machine see each other.
    descriptor = open_plain(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            raise BlockingIOError(
                error.errno,
                f"the folder {folder} is in use by {holder or 'another process'}; wait for its end "
                "or stop it, or name another folder",
            ) from error
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)

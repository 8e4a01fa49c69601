"""The folder of a run or an evaluation: whether it is taken, a free name beside it, its lock."""

from __future__ import annotations

import fcntl
import itertools
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from flowbp.config.problems import shown
from flowbp.config.tree import Step
from flowbp.files import PARTIAL, open_plain

LOCK = ".lock"
"""The file that a process holds locked while it works in a run's folder."""

FINISHED = "finished.json"
"""The file of a run with nothing left to do."""

REHEARSAL = f".rehearsal{PARTIAL}"
"""The folder in a run's that a try of saving writes to, and removes, before the run begins."""


def occupied(folder: Path) -> bool:
    """Whether a folder holds anything but what a run leaves that was killed in its first moment."""
    return folder.is_dir() and not all(_left_behind(path) for path in folder.iterdir())


def _left_behind(path: Path) -> bool:
    if path.is_symlink():
        return False
    if path.is_dir():
        return path.name == REHEARSAL
    return path.is_file() and (path.name == LOCK or path.name.endswith(PARTIAL))


def free_folder(folder: Path) -> Path:
    """A folder of nearly the same name that is free."""
    # `.` and `..` have no name of their own, and the root has none at all.
    named = folder if folder.name not in ("", "..") else folder.resolve()
    if not named.name:
        named = named / "run"
    numbered = (named.with_name(f"{named.name}-{number}") for number in itertools.count(2))
    return next(other for other in numbered if not other.exists())


def fault_of_folder(
    section: str, folder: Path, *, taken: str, resume: bool
) -> Iterator[tuple[tuple[Step, ...], str]]:
    """What is wrong with `section.folder`: the keys, and the fault.

    `taken` is said of a folder that is not empty, with `{free}` for a free one; with `resume` it
    may be.
    """
    path: tuple[Step, ...] = (section, "folder")
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if _exists(place))
        if not there.is_dir():
            yield path, f"is {folder}, and {there} is no folder; name another folder"
        elif not os.access(there, os.W_OK | os.X_OK):
            yield path, f"is {folder}, and nothing may be written to {there}; name another folder"
        elif not resume and occupied(folder):
            free = f"{section}.folder={free_folder(folder)}"
            yield path, f"is {folder}, which is not empty{taken.format(free=free)}"
    except OSError as error:
        name = shown(str(folder))
        yield path, f"is {name}, which cannot be used ({error.strerror}); name another folder"


def _exists(place: Path) -> bool:
    # A link that leads nowhere is in the way too. Unlike Path's, this raises what is wrong.
    try:
        os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold a folder for this process; the system releases it when the process ends.

    What inherits the descriptor that is returned holds the folder too, until it ends itself.
    """
    # The file stays: whether it is locked counts, not whether it is there. On a network disk
    # without file locks, only processes of one machine see each other.
    descriptor = open_plain(folder / LOCK, os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip()
            raise BlockingIOError(
                error.errno,
                f"the folder {folder} is in use by {holder or 'another process'}; wait for its end "
                "or stop it, or name another folder",
            ) from error
        name_holders(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def name_holders(descriptor: int, started: Sequence[int] = ()) -> None:
    """Write into a folder's lock who holds it: this process, and what it has started."""
    names = [f"process {os.getpid()} on {socket.gethostname()}"]
    names += [f"process {number}, which it started" for number in started]
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{' and '.join(names)}\n".encode(), 0)

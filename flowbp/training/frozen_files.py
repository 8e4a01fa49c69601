"""The files that all checkpoints of a run have alike: written once, and linked from then on."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs


@attrs.frozen
class _Written:
    """A file as it was when this process had written it."""

    place: Path
    inode: tuple[int, int]
    size: int
    changed: int
    sha256: str | None

    @classmethod
    def of(cls, place: Path, sha256: str | None) -> _Written | None:
        """As it is now; None of what is no ordinary file."""
        status = place.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None
        inode = status.st_dev, status.st_ino
        return cls(place, inode, status.st_size, status.st_mtime_ns, sha256)

    def is_as_written(self) -> bool:
        """Whether nobody has changed, replaced or removed it."""
        try:
            return _Written.of(self.place, self.sha256) == self
        except OSError:
            return False


class FrozenFiles:
    """Remembers the frozen files of a folder, and puts them into each checkpoint.

    As hard links, so that each folder is complete whatever becomes of the others; as copies where
    the file system has no links. Only what this process has written itself is linked, and only as
    long as it is unchanged.
    """

    def __init__(self) -> None:
        self._files: Mapping[str, _Written] = {}

    def remember(
        self, folder: Path, parts: Sequence[str], digests: Mapping[str, str] | None = None
    ) -> None:
        """Take a folder's files in these parts for those of all others too.

        Args:
            folder: that this process has written.
            parts: files and folders in it.
            digests: SHA-256 of its files by name, where they are known.
        """
        known, found = digests or {}, dict[str, _Written]()
        for name in _files(folder, parts):
            written = _Written.of(folder / name, known.get(name))
            if written is None:
                # A link, say: where it leads to is not this run's.
                found = {}
                break
            found[name] = written
        self._files = found

    def learn(self, digests: Mapping[str, str]) -> None:
        """Keep the SHA-256 of files by name that were linked, so that they are not read again."""
        self._files = {
            name: attrs.evolve(file, sha256=digests.get(name, file.sha256))
            for name, file in self._files.items()
        }

    def are_there(self) -> bool:
        """Whether there are any, and all are as they were written."""
        return bool(self._files) and all(file.is_as_written() for file in self._files.values())

    def lie_in(self, folder: Path) -> bool:
        """Whether they are in a folder, or in one in it."""
        whole = os.path.abspath(folder)
        return any(file.place.is_relative_to(whole) for file in self._files.values())

    def put_into(self, folder: Path) -> Mapping[str, str]:
        """Link or copy all of them into a new folder; the SHA-256 of what was linked, if known."""
        digests = {}
        for name, file in self._files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(file.place, target)
            except FileNotFoundError:
                raise
            except OSError:
                # Some file systems have no links, or only so many of a file.
                shutil.copyfile(file.place, target)
            else:
                if file.sha256 is not None:
                    digests[name] = file.sha256
        return digests


def _files(folder: Path, parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        place = folder / part
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
                yield path.relative_to(folder).as_posix()

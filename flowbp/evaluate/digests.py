"""What files hold, as digests; a large file is read once as long as it stays as it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import attrs

from flowbp.configuration import DamagedError, read_sealed, sealed
from flowbp.files import write_whole

DIGESTS = ".digests.json"
_SMALL, _MUCH = 2**20, 2**30
_READERS = 4


@attrs.frozen
class _Remembered:
    """What the file holds: size and times, and the digest, by the paths of files."""

    files: Mapping[str, tuple[list[int], str]]


def _all(_: str) -> bool:
    return True


@attrs.frozen(eq=False)
class Digests:
    """Digests of the content of files.

    That of a large file is remembered with the file's size and times; where these are as they
    were, the file is not read again. More than a GiB to read is told on the console.

    Args:
        folder: where `keep` writes what is remembered, and where it was written before.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "config.json").write_text("{}")
        2
        >>> list(Digests(folder).of(folder))
        ['config.json']
    """

    folder: Path
    _known: dict[str, tuple[list[int], str]] = attrs.field(init=False, repr=False)

    @_known.default
    def _read(self) -> dict[str, tuple[list[int], str]]:
        try:
            found = read_sealed(_Remembered, self.folder / DIGESTS, cure="remove it")
        # It only saves time: without it, everything is read.
        except DamagedError:
            return {}
        return dict(found.files)

    def of(self, place: Path, *, counts: Callable[[str], bool] = _all) -> Mapping[str, str]:
        """The digests of a file, or of all files of a folder.

        Args:
            place: that exists. What its hidden folders hold, such as a download's notes, does not
                count.
            counts: whether a file of a folder does, by its path there; what does not is not read.

        Returns:
            SHA-256 in hexadecimal digits, by paths in the folder; that of a file by ``.``.

        Raises:
            OSError: a file cannot be read.
        """
        if place.is_file():
            self._tell(place, [place])
            return {".": self._digest(place)}
        paths = [p for p in sorted(_files(place)) if counts(p.relative_to(place).as_posix())]
        self._tell(place, paths)
        with ThreadPoolExecutor(_READERS) as readers:
            digests = readers.map(self._digest, paths)
            names = (path.relative_to(place).as_posix() for path in paths)
            return dict(zip(names, digests, strict=True))

    def keep(self) -> None:
        """Write what is remembered.

        Raises:
            OSError: the file cannot be written.
        """
        if self._known:
            write_whole(self.folder / DIGESTS, sealed({"files": self._known}))

    def _tell(self, place: Path, paths: Sequence[Path]) -> None:
        """Say so before much is read, which takes a while."""
        sizes = {path: _status(path)[0] for path in paths}
        unread = sum(size for path, size in sizes.items() if self._remembered(path) is None)
        if unread > _MUCH:
            print(f"reading {unread / 2**30:.1f} GiB of {place}, to know them again", flush=True)

    def _remembered(self, path: Path) -> str | None:
        status, digest = self._known.get(str(path.resolve()), ([], ""))
        return digest if status == _status(path) else None

    def _digest(self, path: Path) -> str:
        digest, status = self._remembered(path), _status(path)
        if digest is None:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            if status[0] >= _SMALL:
                self._known[str(path.resolve())] = (status, digest)
        return digest


def _status(path: Path) -> list[int]:
    found = path.stat()
    # The last time is set by every change, whatever time a program then gives the file.
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.is_file():
            yield path
        elif path.is_dir() and not path.name.startswith(".") and path.name != "__pycache__":
            yield from _files(path)

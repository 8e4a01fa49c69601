"""Files of a source, which is a folder or a repository of the hub: found, downloaded, checked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from flowbp.extras import require
from flowbp.hub import cached_file, is_offline, why_unread
from flowbp.place import Place, on_disk

# How archives and pickles of torch.save begin.
_BEGINNINGS = (b"PK", b"\x80")


@attrs.frozen(kw_only=True)
class PublishedFile:
    """A file of a hub repository (``owner/name``) whose size in bytes and SHA-256 are known."""

    repository: str
    name: str
    size: int
    sha256: str

    def check_size(self, path: Path) -> None:
        """Refuse a file of another size, such as one that was cut off."""
        with path.open("rb") as file:
            size, begins = os.fstat(file.fileno()).st_size, file.read(2)
        if size != self.size:
            cut_off = size < self.size and begins.startswith(_BEGINNINGS)
            raise ValueError(
                f"{path} has {size} bytes and the published {self.name} has {self.size}: "
                f"{'it was cut off' if cut_off else 'it is another file'}; {self._cure}"
            )

    def check(self, path: Path) -> None:
        """Refuse a file with other content; all of it is read, unless its size is wrong."""
        self.check_size(path)
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path} has sha256 {found} and the published {self.name} has {self.sha256}; "
                f"{self._cure}"
            )

    @property
    def _cure(self) -> str:
        return (
            f"copy or download it again from {self.repository}, or write verify=false to accept it"
        )


def resolve(
    source: Place,
    *files: str,
    published: PublishedFile | None = None,
    argument: str = "source",
    wanted: str | None = None,
    revision: str | None = None,
) -> Path:
    """The first of some files that a source has, downloaded if the source is a hub id.

    Args:
        source: A folder that holds one of them, a hub id, or, unless more is `wanted`, the file.
        files: Names of files in a folder or repository, any of which will do.
        published: What the file must be, bit for bit; None accepts any.
        argument: That names the source, for messages.
        wanted: Which of the source's files are needed, in words; None if it is this one alone.
        revision: Of the hub id, a branch, tag or commit; None is its main branch.

    Raises:
        FileNotFoundError: A folder has none of the files, or they cannot be had from the hub.
        ValueError: The file is not the published one.
    """
    at = {} if revision is None else {"revision": revision}
    path = _on_disk(source, files, argument, wanted) or _on_hub(
        str(source),
        files,
        lambda name: Path(require("huggingface_hub").hf_hub_download(str(source), name, **at)),
        argument=argument,
        wanted=wanted,
        revision=revision,
    )
    if published is not None:
        published.check(path)
    return path


def find(
    source: Place,
    *files: str,
    published: PublishedFile | None = None,
    argument: str = "source",
    wanted: str | None = None,
) -> Path | None:
    """What `resolve` finds without a download; None for what the hub has and its cache lacks.

    The hub is asked for that, so that what `resolve` would raise is raised here.
    """
    path = _on_disk(source, files, argument, wanted)
    if path is None:
        cached = (cached_file(str(source), name) for name in files)
        path = next((found for found in cached if found is not None), None)
    if path is None:
        ask_hub(str(source), *files, argument=argument, wanted=wanted)
    elif published is not None:
        published.check(path)
    return path


def ask_hub(hub_id: str, *files: str, argument: str = "source", wanted: str | None = None) -> None:
    """Make sure that the hub has one of some files and gives it; nothing is downloaded."""
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")

    def ask(name: str) -> None:
        if is_offline():
            raise errors.LocalEntryNotFoundError("the hub is offline")
        try:
            hub.get_hf_file_metadata(hub.hf_hub_url(hub_id, name))
        except (errors.HfHubHTTPError, errors.EntryNotFoundError):
            raise
        # Connections fail with errors of the library below the hub's, which is not always the same.
        except Exception as error:
            raise errors.LocalEntryNotFoundError(str(error)) from error

    _on_hub(hub_id, files, ask, argument=argument, wanted=wanted)


def _on_disk(
    source: Place, files: tuple[str, ...], argument: str, wanted: str | None
) -> Path | None:
    path = on_disk(source)
    if path is None or (path.is_file() and wanted is None):
        return path
    for name in files:
        if (path / name).is_file():
            return path / name
    none = f"no {files[0]}" if len(files) == 1 else f"neither {' nor '.join(files)}"
    raise FileNotFoundError(
        f"`{argument}` {str(source)!r} holds {none}; name a folder that does, or copy or download "
        "the whole model again"
    )


def _on_hub(
    hub_id: str,
    files: tuple[str, ...],
    ask: Callable[[str], Any],
    *,
    argument: str,
    wanted: str | None,
    revision: str | None = None,
) -> Any:
    """What `ask` returns for the first of some files that a repository has."""
    errors = require("huggingface_hub.errors")
    try:
        require("huggingface_hub.utils").validate_repo_id(hub_id)
    except errors.HFValidationError as error:
        raise FileNotFoundError(
            f"`{argument}` {hub_id!r} is no local folder or file, nor a hub id like owner/name "
            f"({' '.join(str(error).split())}); check the id"
        ) from error
    for name in files:
        try:
            return ask(name)
        except errors.LocalEntryNotFoundError as error:
            refused: Exception = error
            # Offline, the next one may be in the cache; a hub out of reach is not asked again.
            if not is_offline():
                break
        except errors.EntryNotFoundError as error:
            refused = error
        except Exception as error:
            refused = error
            break
    file = files[0] if wanted is None else None
    why = why_unread(refused, hub_id, file=file, wanted=wanted, revision=revision)
    raise FileNotFoundError(
        f"`{argument}` {hub_id!r} is no local folder, and as a hub id it could not be read, its "
        f"{' or '.join(files)}: {why}"
    ) from refused


@contextmanager
def reading(argument: str, place: Place) -> Iterator[None]:
    """Inside, an OSError becomes a FileNotFoundError with the argument, the reason and the cure."""
    try:
        yield
    except OSError as error:
        why = why_unread(error, on_disk(place) or str(place))
        raise FileNotFoundError(f"`{argument}` {str(place)!r} could not be read: {why}") from error

"""Where a model's files are, on disk or on the Hugging Face hub, and why they cannot be read."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs

from flowbp.extras import require

Place = str | os.PathLike[str]
"""A file, a folder, or a hub id such as ``owner/name``."""

WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
"""How files of weights end; a place that does is one on disk, and no hub is asked for it."""

SINGLE_FILE_CURE = (
    "give the folder or hub id of the whole model as the source, and, of SD3 and FLUX.1, the file "
    "as transformer=file.safetensors"
)
"""What to do with a file of weights that is no source."""

ALL_FILES = "all of its files"
"""What to download where one file is not enough."""

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
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
    hub, errors = require("huggingface_hub"), _part("errors")

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
    errors = _part("errors")
    try:
        _part("utils").validate_repo_id(hub_id)
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


def on_disk(place: Place) -> Path | None:
    """The file or folder that a place names, with ``~`` expanded, or None if there is none."""
    path = Path(place).expanduser()
    # The path of an empty text is the working folder.
    return path if path.exists() and str(place).strip() else None


def local_folder(source: Place) -> Path | None:
    """The folder that `source` names, ``~`` expanded; None where it is a hub id."""
    if not str(source).strip():
        raise FileNotFoundError("`source` must be a folder or a hub id like owner/name, got ''")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    single = path.suffix.lower() in WEIGHT_FILES
    if path.is_file() or single:
        there = "" if path.is_file() else f"; there is no file {path} either"
        raise FileNotFoundError(
            f"`source` must be a folder in diffusers layout or a hub id, got the single file "
            f"{str(source)!r}{there}; {SINGLE_FILE_CURE}"
        )
    if isinstance(source, str) and is_hub_id(source):
        return None
    raise FileNotFoundError(
        f"`source` must be a folder or a hub id like owner/name, got {str(source)!r}; "
        f"there is no folder {path}"
    )


def is_hub_id(text: str) -> bool:
    """Whether a text has the form ``owner/name``, and not that of a file of weights."""
    return _HUB_ID.fullmatch(text) is not None and not text.lower().endswith(WEIGHT_FILES)


def located(
    *, file: str | None = None, folder: str | None = None
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """A validator of an optional place: an existing path of a wanted kind, or a hub id.

    Args:
        file: What a file should hold, in words; None refuses files.
        folder: What a folder should hold, in words; None refuses folders.
    """
    kinds = {"a file": file, "a folder": folder}
    wanted = " or ".join(f"{kind} ({what})" for kind, what in kinds.items() if what)

    def validate(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is None:
            return
        path = on_disk(value)
        if path is None and isinstance(value, str) and is_hub_id(value):
            return
        found = "there is no such path"
        if path is not None:
            kind = "a folder" if path.is_dir() else "a file"
            if kinds[kind]:
                return
            found = f"that is {kind}"
        raise ValueError(
            f"`{attribute.name}` must be {wanted} or a hub id like owner/name, got "
            f"{str(value)!r}; {found}"
        )

    return validate


def read_json(path: Path, *, what: str) -> Mapping[str, Any]:
    """Read a JSON object that a folder of a kind, `what`, must hold."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`source` must be {what}, got {str(path.parent)!r}, which has no {path.name}"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON: {error}; copy or download the whole folder again"
        ) from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} must hold a JSON object, got {type(content).__name__}; copy or download the "
            "whole folder again"
        )
    return content


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    return bool(_part("constants").HF_HUB_OFFLINE)


def cached_file(hub_id: str, name: str, *, revision: str | None = None) -> Path | None:
    """Where the cache has a file of a repository; None where it does not."""
    at = {} if revision is None else {"revision": revision}
    try:
        path = require("huggingface_hub").try_to_load_from_cache(hub_id, name, **at)
    # Asking the hub for it reports that this is no id.
    except _part("errors").HFValidationError:
        return None
    # Another object stands for a file that the repository is known not to have.
    return Path(path) if isinstance(path, str) else None


def cached_commit(hub_id: str, revision: str | None = None) -> str | None:
    """The commit of a repository in the cache, None without; needs no huggingface_hub."""
    folder, name = _cache_of(hub_id), revision or "main"
    if folder is None:
        return None
    if (folder / "snapshots" / name).is_dir():
        return name
    reference = folder / "refs" / name
    return reference.read_text().strip() if reference.is_file() else None


def _cache_of(hub_id: str) -> Path | None:
    try:
        hub = require("huggingface_hub.file_download")
    except ModuleNotFoundError:
        return None
    folder = hub.repo_folder_name(repo_id=hub_id, repo_type="model")
    return Path(_part("constants").HF_HUB_CACHE, folder)


def cached_revisions(hub_id: str) -> list[str]:
    """The branches and tags of a repository in the cache, and the commits that have no name."""
    folder = _cache_of(hub_id)
    if folder is None:
        return []
    references = [path for path in (folder / "refs").rglob("*") if path.is_file()]
    named = {path.read_text().strip() for path in references}
    commits = {path.name for path in (folder / "snapshots").glob("*")}
    names = (path.relative_to(folder / "refs").as_posix() for path in references)
    return [*sorted(names), *sorted(commits - named)]


def check_revision(hub_id: str, revision: str) -> None:
    """Refuse a branch, tag or commit that a repository does not have, as far as can be known."""
    if cached_commit(hub_id, revision) is not None:
        return
    there, of = cached_revisions(hub_id), "its cache"
    if not is_offline():
        try:
            found = require("huggingface_hub").list_repo_refs(hub_id)
        # What else is wrong with the hub or the id is reported by what reads from it.
        except Exception:
            return
        there, of = [each.name for each in (*found.branches, *found.tags)], "the hub"
        # Which commits there are is a long list, and the hub says if this one is not.
        if revision in there or _COMMIT.fullmatch(revision):
            return
    if not there:
        return
    cure = f"or run `hf download {hub_id} --revision {revision}` where there is a network"
    raise FileNotFoundError(
        f"`revision` must be a branch, tag or commit of {hub_id}, got {revision!r}; {of} has "
        f"{', '.join(there)}: write one of these{f', {cure}' if is_offline() else ''}"
    )


def hub_files(hub_id: str, *, revision: str | None = None) -> list[str] | None:
    """The names of all files of a repository, None where the hub does not say."""
    if is_offline():
        return None
    try:
        return list(require("huggingface_hub").list_repo_files(hub_id, revision=revision))
    # Why is reported by what reads from it.
    except Exception:
        return None


def address(hub_id: str, name: str | None = None, *, revision: str | None = None) -> str:
    """The address of a repository, or of a file of it, on the hub."""
    place = f"{_part('constants').ENDPOINT}/{hub_id}"
    if name is None:
        return place if revision is None else f"{place}/tree/{revision}"
    return f"{place}/resolve/{revision or 'main'}/{name}"


@contextmanager
def reading(argument: str, place: Place) -> Iterator[None]:
    """Inside, an OSError becomes a FileNotFoundError with the argument, the reason and the cure."""
    try:
        yield
    except OSError as error:
        why = why_unread(error, on_disk(place) or str(place))
        raise FileNotFoundError(f"`{argument}` {str(place)!r} could not be read: {why}") from error


def why_unread(
    error: Exception,
    place: Path | str,
    *,
    file: str | None = None,
    wanted: str | None = None,
    revision: str | None = None,
) -> str:
    """Why a model could not be read, by the `error` and its causes, and what to do about it."""
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(place, Path):
        return f"{said}; copy or download the whole folder again"
    errors, constants = _part("errors"), _part("constants")
    endpoint, command = constants.ENDPOINT, f"hf download {place}"
    whole = address(place, revision=revision)
    elsewhere = f"or download {wanted or ALL_FILES} from {whole} elsewhere and give their folder"
    if file is not None:
        command = f"{command} {file}"
        single = address(place, file, revision=revision)
        elsewhere = f"or download {single} elsewhere and give the file's path"
    if revision is not None:
        command = f"{command} --revision {revision}"
    unreached = (
        "was not asked because HF_HUB_OFFLINE is set" if is_offline() else "could not be reached"
    )
    # Each kind is a special case of one that follows it.
    reasons = {
        errors.GatedRepoError: f"it is gated; accept its licence on {endpoint}/{place} and run "
        "`hf auth login`",
        errors.RevisionNotFoundError: f"{endpoint}/{place} has no revision {revision!r}; write a "
        "branch, tag or commit that it has",
        errors.RepositoryNotFoundError: f"{endpoint} has no {place}, or it is private; check the "
        "id, or run `hf auth login` with an account that may read it",
        errors.HFValidationError: f"{said}; check the id",
        (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled): "it is not in the cache "
        f"{constants.HF_HUB_CACHE}, and {endpoint} {unreached}; run `{command}` where "
        f"there is a network, {elsewhere}",
        errors.EntryNotFoundError: f"{endpoint}/{place} does not have it ({said}); check that it "
        "is a repository in the layout that is wanted",
    }
    causes = list(_causes(error))
    for kinds, reason in reasons.items():
        if any(isinstance(cause, kinds) for cause in causes):
            return reason
    return f"{said}; try `{command}`, {elsewhere}"


def _part(name: str) -> ModuleType:
    # As an attribute of the package it is there only once something else has imported it.
    return require(f"huggingface_hub.{name}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__

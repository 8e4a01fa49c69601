"""What the Hugging Face hub and its cache have, and why something cannot be read from them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from flowbp.extras import require

ALL_FILES = "all of its files"
"""What to download where one file is not enough."""

_COMMIT = re.compile(r"[0-9a-f]{7,40}")


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

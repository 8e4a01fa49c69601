"""Why a model could not be read, and how to get it: the hub's own errors say neither plainly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from flowbp.adapters.extras import require

_WHOLE = "all of its files"


def hub_file(hub_id: str, name: str) -> Path:
    """A file of a repository, from the local cache or fetched.

    Args:
        hub_id: ``owner/name``.
        name: Of the file in the repository, with its folders.

    Returns:
        Its path in the cache.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        FileNotFoundError: It is not in the cache and cannot be fetched: the hub is out of reach,
            the repository is gated or not there, or has no such file.

    Example:
        ``hub_file("stabilityai/stable-diffusion-3.5-medium", "transformer/config.json")``
    """
    hub, errors = require("huggingface_hub"), _part("errors")
    try:
        return Path(hub.hf_hub_download(hub_id, name))
    # Alone among the hub's errors, that of a missing file need not be an OSError.
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise FileNotFoundError(
            f"`source` {hub_id!r} is no local folder, and as a hub id it could not be read, its "
            f"{name}: {why_unread(error, hub_id)}"
        ) from error


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub.

    Example:
        >>> isinstance(is_offline(), bool)
        True
    """
    return bool(_part("constants").HF_HUB_OFFLINE)


def cached_folder(hub_id: str, component: str) -> Path | None:
    """Where the cache has a component of a repository.

    Args:
        hub_id: ``owner/name``.
        component: Its folder in the repository.

    Returns:
        The folder in the cache, or None where there is none.

    Example:
        >>> cached_folder("owner/no-such-repository", "vae") is None
        True
    """
    path = cached_file(hub_id, f"{component}/config.json")
    return None if path is None else path.parent


def cached_file(hub_id: str, name: str) -> Path | None:
    """Where the cache has a file of a repository.

    Args:
        hub_id: ``owner/name``.
        name: Of the file in the repository.

    Returns:
        Its path, or None where there is none.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.

    Example:
        >>> cached_file("owner/no-such-repository", "config.json") is None
        True
    """
    try:
        path = require("huggingface_hub").try_to_load_from_cache(hub_id, name)
    # Who asks the hub for it is told that this is no id.
    except _part("errors").HFValidationError:
        return None
    # A file that the repository is known not to have is told by another object.
    return Path(path) if isinstance(path, str) else None


def cached_commit(hub_id: str) -> str | None:
    """Which commit of a repository the cache has as its newest.

    Args:
        hub_id: ``owner/name``.

    Returns:
        The commit, or None where the cache has none or huggingface_hub is not installed.

    Example:
        >>> cached_commit("owner/no-such-repository") is None
        True
    """
    try:
        hub = require("huggingface_hub.file_download")
    except ModuleNotFoundError:
        return None
    folder = Path(_part("constants").HF_HUB_CACHE) / hub.repo_folder_name(
        repo_id=hub_id, repo_type="model"
    )
    reference = folder / "refs" / "main"
    return reference.read_text().strip() if reference.is_file() else None


def address(hub_id: str, name: str | None = None) -> str:
    """Where a repository, or a file of it, is on the hub.

    Args:
        hub_id: ``owner/name``.
        name: Of the file; None for the repository.

    Returns:
        Its address.

    Example:
        >>> address("owner/name").endswith("/owner/name")
        True
    """
    place = f"{_part('constants').ENDPOINT}/{hub_id}"
    return place if name is None else f"{place}/resolve/main/{name}"


def ask_hub(
    hub_id: str,
    *names: str,
    argument: str = "source",
    alone: bool = False,
    wanted: str = _WHOLE,
) -> None:
    """Make sure that the hub has one of some files and gives it; nothing is downloaded.

    Args:
        hub_id: ``owner/name``.
        names: Of files in the repository, any of which will do.
        argument: That names the repository, for the message.
        alone: Whether the file is all that is wanted, for the message.
        wanted: Which of the repository's files a folder needs, in words, for the message.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        FileNotFoundError: The hub is out of reach, the repository is gated or not there, or it has
            none of the files.

    Example:
        ``ask_hub("openai/clip-vit-large-patch14", "config.json")``
    """
    hub, errors = require("huggingface_hub"), _part("errors")
    try:
        _part("utils").validate_repo_id(hub_id)
    except errors.HFValidationError as error:
        raise FileNotFoundError(
            f"`{argument}` {hub_id!r} is no folder that is there, nor a hub id like owner/name "
            f"({' '.join(str(error).split())}); check the id"
        ) from error
    for name in names:
        try:
            if is_offline():
                raise errors.LocalEntryNotFoundError("the hub must not be asked")
            hub.get_hf_file_metadata(hub.hf_hub_url(hub_id, name))
            return
        except errors.EntryNotFoundError as error:
            if name != names[-1] and not isinstance(error, errors.LocalEntryNotFoundError):
                continue
            refused: Exception = error
        except errors.HfHubHTTPError as error:
            refused = error
        # Connections fail with errors of the library below the hub's, which is not always the same.
        except Exception as error:
            refused = errors.LocalEntryNotFoundError(str(error))
            refused.__cause__ = error
        raise FileNotFoundError(
            f"`{argument}` {hub_id!r} could not be read, its {' or '.join(names)}: "
            f"{why_unread(refused, hub_id, file=names[0] if alone else None, wanted=wanted)}"
        ) from refused


def why_unread(
    error: Exception, place: Path | str, *, file: str | None = None, wanted: str = _WHOLE
) -> str:
    """Say why a model could not be read and what to do about it.

    Args:
        error: What a loader raised; the errors that it was raised from count too.
        place: A folder, or a hub id.
        file: Of the repository, if it is all that is wanted of it.
        wanted: Else which of its files are, in words.

    Returns:
        Reason and cure.

    Example:
        >>> why_unread(OSError("no file model.safetensors"), Path("folder"))
        'no file model.safetensors; copy or download the whole folder again'
    """
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(place, Path):
        return f"{said}; copy or download the whole folder again"
    errors, constants = _part("errors"), _part("constants")
    endpoint = constants.ENDPOINT
    command = f"hf download {place}"
    elsewhere = f"or download {wanted} from {endpoint}/{place} elsewhere and give their folder"
    if file is not None:
        command = f"{command} {file}"
        elsewhere = (
            f"or download {endpoint}/{place}/resolve/main/{file} elsewhere and give the file's path"
        )
    offline = "was not asked, for HF_HUB_OFFLINE is set"
    unreached = offline if is_offline() else "could not be reached"
    # Each kind is a special case of one that follows it.
    reasons = {
        errors.GatedRepoError: f"it is gated; accept its licence on {endpoint}/{place} and run "
        "`hf auth login`",
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

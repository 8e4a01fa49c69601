"""Why a model could not be read, and how to get it: the hub's own errors say neither plainly."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flowbp.adapters.extras import require

_ELSEWHERE = "or download the whole repository elsewhere and give its folder"


def hub_json(hub_id: str, name: str) -> Mapping[str, Any]:
    """Read a JSON file of a repository on the hub, or of its copy in the cache.

    Args:
        hub_id: ``owner/name``.
        name: Of the file.

    Returns:
        Its content.

    Raises:
        ModuleNotFoundError: huggingface_hub is not installed.
        OSError: It cannot be had; says why, where it was looked for and how to get it.
        ValueError: It is no JSON.
    """
    hub = require("huggingface_hub")
    try:
        path = Path(hub.hf_hub_download(hub_id, name))
    except (OSError, hub.errors.HFValidationError) as error:
        raise OSError(f"its {name}: {why_unread(error, hub_id)}") from error
    content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub.

    Example:
        >>> isinstance(is_offline(), bool)
        True
    """
    return bool(require("huggingface_hub").constants.HF_HUB_OFFLINE)


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
    path = require("huggingface_hub").try_to_load_from_cache(hub_id, f"{component}/config.json")
    # A file that the repository is known not to have is told by another object.
    return Path(path).parent if isinstance(path, str) else None


def why_unread(error: Exception, place: Path | str) -> str:
    """Say why a model could not be read and what to do about it.

    Args:
        error: What a loader raised; the errors that it was raised from count too.
        place: A folder, or a hub id.

    Returns:
        Reason and cure.

    Example:
        >>> why_unread(OSError("no file model.safetensors"), Path("folder"))
        'no file model.safetensors; copy or download the whole folder again'
    """
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(place, Path):
        return f"{said}; copy or download the whole folder again"
    hub = require("huggingface_hub")
    errors, endpoint = hub.errors, hub.constants.ENDPOINT
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
        f"{hub.constants.HF_HUB_CACHE}, and {endpoint} {unreached}; run `hf download {place}` "
        f"where there is a network, {_ELSEWHERE}",
        errors.EntryNotFoundError: f"{endpoint}/{place} does not have it ({said}); check that it "
        "is a repository in the layout that is wanted",
    }
    causes = list(_causes(error))
    for kinds, reason in reasons.items():
        if any(isinstance(cause, kinds) for cause in causes):
            return reason
    return f"{said}; try `hf download {place}`, {_ELSEWHERE}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__

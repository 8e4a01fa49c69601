"""One file of a hub repository, or why it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flowbp.adapters.extras import require

_FOLDER = "or download the whole repository elsewhere and give its folder as `source`"


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
    hub = require("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(hub_id, name))
    # Alone among the hub's errors, that of a missing file need not be an OSError.
    except (OSError, hub.errors.EntryNotFoundError) as error:
        raise FileNotFoundError(
            f"`source` is the hub id {hub_id!r}, whose {name} {_reason(hub.errors, error, hub_id)}"
        ) from error


def _reason(errors: Any, error: Exception, hub_id: str) -> str:
    page = f"https://huggingface.co/{hub_id}"
    # From the special to the general: the first is a kind of the last, the second of the third.
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            "is not in the local cache, and the hub could not be reached; check the network and "
            f"that HF_HUB_OFFLINE is not set, {_FOLDER}"
        )
    if isinstance(error, errors.GatedRepoError):
        return f"is gated; accept its licence on {page} and run `hf auth login`, {_FOLDER}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "cannot be had, because the hub shows no such repository; check the id, and run "
            f"`hf auth login` if it is a private one, {_FOLDER}"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"is not there; see {page} for what it holds and name the repository that fits"
    return f"could not be fetched: {error}; try again, {_FOLDER}"

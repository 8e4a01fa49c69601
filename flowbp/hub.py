"""Models on the Hugging Face hub and in folders: where a source is, and why it cannot be read."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from flowbp.extras import require

WEIGHT_FILES = (".safetensors", ".ckpt", ".pt", ".pth", ".bin", ".gguf", ".sft")
"""How files of weights end; a place that does is one on disk, and no hub is asked for it."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WHOLE = "all of its files"


def local_folder(source: str | os.PathLike[str]) -> Path | None:
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
            f"{str(source)!r}{there}; single files are not read, convert it once with diffusers: "
            "StableDiffusion3Pipeline or FluxPipeline.from_single_file(file)"
            ".save_pretrained(folder)"
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


def hub_file(hub_id: str, name: str, *, alone: bool = False) -> Path:
    """A file of a repository, from the local cache or fetched; `alone` if no other is needed."""
    hub, errors = require("huggingface_hub"), _part("errors")
    try:
        return Path(hub.hf_hub_download(hub_id, name))
    # Alone among the hub's errors, that of a missing file need not be an OSError.
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise FileNotFoundError(
            f"`source` {hub_id!r} is no local folder, and as a hub id it could not be read, its "
            f"{name}: {why_unread(error, hub_id, file=name if alone else None)}"
        ) from error


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids to ask the hub."""
    return bool(_part("constants").HF_HUB_OFFLINE)


def cached_file(hub_id: str, name: str) -> Path | None:
    """Where the cache has a file of a repository; None where it does not."""
    try:
        path = require("huggingface_hub").try_to_load_from_cache(hub_id, name)
    # Asking the hub for it reports that this is no id.
    except _part("errors").HFValidationError:
        return None
    # Another object stands for a file that the repository is known not to have.
    return Path(path) if isinstance(path, str) else None


def cached_commit(hub_id: str) -> str | None:
    """The newest commit of a repository in the cache, None without; needs no huggingface_hub."""
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
    """The address of a repository, or of a file of it, on the hub."""
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
        alone: Whether the file is all that is needed, for the message.
        wanted: Else which of the repository's files are, in words.
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
    """Why a model could not be read, by the `error` and its causes, and what to do about it."""
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

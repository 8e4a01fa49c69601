"""Where a published model's files are, on disk or on the hub, and whether they are whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from flowbp.extras import require
from flowbp.hub import ask_hub, cached_file, is_hub_id, why_unread
from flowbp.rewards.weight_files import PublishedFile, check_whole, indexed_files

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Place = str | os.PathLike[str]
"""A file, a folder, or a hub id such as ``owner/name``."""

CLIP_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""A folder with one of these holds a CLIP tokenizer."""

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MODEL = f"config.json, preprocessor_config.json and the weights ({' or '.join(_WEIGHTS)})"
_TOKENIZER = "its tokenizer files (tokenizer*.json, special_tokens_map.json, vocab.*, merges.txt)"


def on_disk(place: Place) -> Path | None:
    """The file or folder that a place names, with ``~`` expanded, or None if there is none."""
    path = Path(place).expanduser()
    # The path of an empty text is the working folder.
    return path if path.exists() and str(place).strip() else None


def file_of(source: Place, name: str) -> Path | None:
    """A single file, given by itself, its folder or its hub id; None if yet to be downloaded."""
    path = on_disk(source)
    if path is None:
        return cached_file(str(source), name)
    return path / name if path.is_dir() else path


def located(
    *, file: str | None = None, folder: str | None = None
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """A validator of an optional place: an existing path of a wanted kind, or a hub id.

    Args:
        file: what a file should hold, in words; None refuses files.
        folder: what a folder should hold, in words; None refuses folders.
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


def check_file(
    source: Place, name: str, *, published: PublishedFile | None = None, argument: str = "source"
) -> None:
    """Check a single file of weights on disk, in the hub's cache or on the hub.

    Args:
        source: a file, a folder that holds it, or a hub id.
        name: of the file in a folder or on the hub.
        published: what it must be, bit for bit; None accepts any file that is whole.
        argument: that names it, for the message.
    """
    path = file_of(source, name)
    if path is None:
        ask_hub(str(source), name, argument=argument, alone=True)
        return
    if not path.is_file():
        raise FileNotFoundError(
            f"`{argument}` {str(source)!r} must hold {name}; copy or download it there"
        )
    if published is not None:
        published.check(path)
    check_whole(path)


def check_model(source: Place, *, argument: str, check: Callable[[Path], None]) -> None:
    """Check a model in the layout of transformers, on disk, in the hub's cache or on the hub.

    Args:
        source: a folder or a hub id.
        argument: that names it, for the message.
        check: what else a folder must be; raises.
    """
    folder = on_disk(source)
    if folder is None:
        config = cached_file(str(source), "config.json")
        # What the cache lacks is fetched when the model is loaded, if the hub can be asked.
        if config is None or _lacking(config.parent):
            ask_hub(str(source), "config.json", argument=argument, wanted=_MODEL)
            return
        folder = config.parent
    check(folder)
    check_folder(folder, argument=argument, source=source)


def check_folder(folder: Path, *, argument: str, source: Place) -> None:
    """Check that a folder in the layout of transformers holds all its weights, and whole."""
    lacking = _lacking(folder)
    if lacking:
        raise FileNotFoundError(
            f"`{argument}` {str(source)!r} {lacking}; copy or download the whole model"
        )
    for pattern in _WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            check_whole(path)


def _lacking(folder: Path) -> str:
    """What a folder lacks of its weights, in words; empty if all are there."""
    for index in sorted(folder.glob("*.index.json")):
        missing = [path.name for path in indexed_files(index) if not path.is_file()]
        if missing:
            return f"lacks {missing[0]}"
    if any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        return ""
    return f"holds no weights, looked for {' and '.join(_WEIGHTS)}"


def check_tokenizer(tokenizer: Place, *, files: Sequence[str], argument: str = "tokenizer") -> None:
    """Check that a tokenizer, one of whose `files` must be there, is on disk or on the hub."""
    if _tokenizer_folder(tokenizer, files, argument) is not None:
        return
    if not any(cached_file(str(tokenizer), name) for name in files):
        ask_hub(str(tokenizer), *files, argument=argument, wanted=_TOKENIZER)


def load_tokenizer(
    tokenizer: Place,
    *,
    kind: str = "CLIPTokenizer",
    files: Sequence[str] = CLIP_TOKENIZER_FILES,
    published: str = "a CLIP model",
    argument: str = "tokenizer",
) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        tokenizer: a folder or a hub id.
        kind: the class of transformers that reads it.
        files: of which a folder holds at least one.
        published: the model that it belongs to, for the message.
        argument: that names it, for the message.
    """
    folder = _tokenizer_folder(tokenizer, files, argument, of=published)
    with reading(argument, tokenizer):
        found: PreTrainedTokenizerBase = getattr(require("transformers"), kind).from_pretrained(
            str(tokenizer) if folder is None else folder
        )
    return found


def tokenizer_place(given: Place | None, source: Place, *, own: bool, published: str) -> Place:
    """The tokenizer of a CLIP model: the one given, else the source's own, else the published one.

    Args:
        given: chosen by the user.
        source: of the model.
        own: whether the repository of a hub id brings its own.
        published: what the published model was trained with.
    """
    if given is not None:
        return given
    path = on_disk(source)
    if path is not None:
        own = any((path / name).is_file() for name in CLIP_TOKENIZER_FILES)
    return source if own else published


@contextmanager
def reading(argument: str, place: Place) -> Iterator[None]:
    """Inside, an OSError becomes a FileNotFoundError with the argument, the reason and the cure."""
    try:
        yield
    except OSError as error:
        why = why_unread(error, on_disk(place) or str(place))
        raise FileNotFoundError(f"`{argument}` {str(place)!r} could not be read: {why}") from error


def _tokenizer_folder(
    tokenizer: Place, files: Sequence[str], argument: str, *, of: str = "this very model"
) -> Path | None:
    """The folder of a tokenizer, refused if it holds none; None for a hub id."""
    folder = on_disk(tokenizer)
    if folder is not None and not any((folder / name).is_file() for name in files):
        raise FileNotFoundError(
            f"`{argument}` {str(tokenizer)!r} holds neither {' nor '.join(files)}; name a folder "
            f"with the tokenizer of {of}"
        )
    return folder

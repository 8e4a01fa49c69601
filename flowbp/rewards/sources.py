"""Whether what a model would be loaded from is there and whole; no weights are loaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

from flowbp.adapters.hub import ask_hub, cached_file
from flowbp.adapters.weights import check_weight_file
from flowbp.rewards.places import Place, on_disk
from flowbp.rewards.weight_files import PublishedFile

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MODEL = f"config.json, preprocessor_config.json and the weights ({' or '.join(_WEIGHTS)})"
_WORDS = "its tokenizer files (tokenizer*.json, special_tokens_map.json, vocab.*, merges.txt)"
_AGAIN = "delete it, and copy or download it again"


def check_whole(path: Path) -> None:
    """Refuse a file of weights that was cut off; only its table of contents is read.

    Args:
        path: of a safetensors file or one of ``torch.save``, whose format before torch 1.6 has no
            table of contents and is not looked at.

    Raises:
        ValueError: it is damaged.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> check_whole(reward_folder() / "model.safetensors")
    """
    if path.suffix == ".safetensors":
        check_weight_file(path)
        return
    with path.open("rb") as file:
        begins = file.read(2)
    if not begins:
        raise ValueError(f"{path} is damaged, it is empty; {_AGAIN}")
    if begins != b"PK":
        return
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                archive.open(entry).close()
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} is damaged, {error}; {_AGAIN}") from error


def lacking(folder: Path) -> str | None:
    """What a folder in the layout of transformers lacks of its weights.

    Args:
        folder: that exists.

    Returns:
        A file that its index names, or what was looked for; None if all is there.

    Raises:
        ValueError: its index is damaged.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> lacking(reward_folder()) is None
        True
    """
    for index in sorted(folder.glob("*.index.json")):
        try:
            names = sorted(
                set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{index} is damaged ({type(error).__name__}: {error}); {_AGAIN}"
            ) from error
        for name in names:
            if not (folder / name).is_file():
                return str(name)
    if any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        return None
    return " or ".join(_WEIGHTS)


def check_model(source: Place, *, argument: str, check: Callable[[Path], None]) -> None:
    """Check a model in the layout of transformers, on disk, in the hub's cache or on the hub.

    Args:
        source: a folder or a hub id.
        argument: that names it, for the message.
        check: what else a folder must be; raises.

    Raises:
        FileNotFoundError: there is none, it lacks files, or the hub does not give it.
        ValueError: a file is damaged, or what `check` refuses.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> check_model(reward_folder(), argument="source", check=lambda folder: None)
    """
    folder = on_disk(source)
    if folder is None:
        config = cached_file(str(source), "config.json")
        # What the cache lacks is fetched when the model is loaded, if the hub can be asked.
        if config is None or lacking(config.parent) is not None:
            ask_hub(str(source), "config.json", argument=argument, wanted=_MODEL)
            return
        folder = config.parent
    check(folder)
    missing = lacking(folder)
    if missing is not None:
        raise FileNotFoundError(
            f"`{argument}` {str(source)!r} lacks {missing}; copy or download the whole model"
        )
    for pattern in _WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            check_whole(path)


def check_tokenizer(tokenizer: Place, *, files: Sequence[str], argument: str = "tokenizer") -> None:
    """Check that a tokenizer is on disk, in the hub's cache or on the hub.

    Args:
        tokenizer: a folder or a hub id.
        files: of which it has at least one.
        argument: that names it, for the message.

    Raises:
        FileNotFoundError: there is none.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> check_tokenizer(reward_folder(), files=["tokenizer.json"])
    """
    folder = on_disk(tokenizer)
    if folder is None:
        if not any(cached_file(str(tokenizer), name) for name in files):
            ask_hub(str(tokenizer), *files, argument=argument, wanted=_WORDS)
        return
    if not any((folder / name).is_file() for name in files):
        raise FileNotFoundError(
            f"`{argument}` {str(tokenizer)!r} holds neither {' nor '.join(files)}; name the folder "
            "of a tokenizer"
        )


def check_file(
    source: Place, name: str, *, published: PublishedFile | None = None, argument: str = "source"
) -> None:
    """Check a single file of weights on disk, in the hub's cache or on the hub.

    Args:
        source: a file, a folder that holds it, or a hub id.
        name: of the file in a folder or on the hub.
        published: what it must be, bit for bit; None if anything whole will do.
        argument: that names it, for the message.

    Raises:
        FileNotFoundError: the hub does not give it, or the folder lacks it.
        ValueError: it is damaged, or not the published one.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> check_file(reward_folder(), "model.safetensors")
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


def file_of(source: Place, name: str) -> Path | None:
    """Where a single file of weights is, without a download.

    Args:
        source: a file, a folder that holds it, or a hub id.
        name: of the file in a folder or on the hub.

    Returns:
        Its path, on disk or in the hub's cache; None if it is yet to be downloaded.

    Example:
        >>> file_of("owner/no-such-repository", "weights.pt") is None
        True
    """
    path = on_disk(source)
    if path is None:
        return cached_file(str(source), name)
    return path / name if path.is_dir() else path

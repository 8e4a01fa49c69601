"""What was written to disk earlier, read back as values: whole and valid, or refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .problems import ConfigurationError
from .rules import Scalar
from .structuring import structure
from .tree import tree_of

T = TypeVar("T")

SEAL = "sha256"
"""The key of a sealed file under which the digest of all its other keys is."""


class DamagedError(OSError):
    """A file that was written earlier is missing or not what was written.

    Args:
        path: of the file.
        problem: what is wrong with it, as a clause that follows its name.
        cure: what to do.

    Example:
        >>> print(DamagedError(Path("a.json"), "is missing", "restore it"))
        a.json is missing; restore it
    """

    def __init__(self, path: Path, problem: str, cure: str) -> None:
        self.path, self.problem, self.cure = path, problem, cure
        super().__init__(f"{path} {problem}; {cure}")


def sealed(tree: Mapping[str, Any]) -> str:
    """JSON text that carries the digest of its own content, so that any change of it is noticed.

    Args:
        tree: of what JSON can hold; all keys are texts, none of them `SEAL`.

    Returns:
        The text, with a line break at its end.

    Example:
        >>> sealed({"steps": 3}).splitlines()[1]
        ' "steps": 3,'
    """
    return json.dumps({**tree, SEAL: _digest(tree)}, indent=1) + "\n"


def read_sealed(cls: type[T], path: Path, *, cure: str) -> T:
    """Read a file that `sealed` made into an attrs class.

    Args:
        cls: an attrs class, whose fields are the keys besides the seal.
        path: of the file.
        cure: what to do about a damaged one, for the message.

    Raises:
        DamagedError: the file is missing, cannot be read, is not as it was written, or holds
            something else than the class.

    Example:
        >>> import attrs
        >>> from tempfile import mkdtemp
        >>> Done = attrs.make_class("Done", {"steps": attrs.field(type=int)}, frozen=True)
        >>> path = Path(mkdtemp()) / "finished.json"
        >>> path.write_text(sealed({"steps": 3})), read_sealed(Done, path, cure="remove it")
        (95, Done(steps=3))
    """
    text = read_utf8(path, cure)
    tree = parsed(text, path, cure)
    if not isinstance(tree, dict):
        raise DamagedError(path, f"must hold an object, got {_cut(repr(tree))}", cure)
    content = {key: value for key, value in tree.items() if key != SEAL}
    if _written(sealed, content) != text:
        raise DamagedError(path, "is damaged: it is not as it was written", cure)
    return structured(cls, content, path, cure)


def sealed_line(tree: Mapping[str, Any]) -> str:
    """A line of JSON that carries the digest of its own content.

    Args:
        tree: as for `sealed`.

    Returns:
        The line, with its break.

    Example:
        >>> sealed_line({"steps": 3})[:23]
        '{"steps": 3, "sha256": '
    """
    return json.dumps({**tree, SEAL: _digest(tree)}) + "\n"


def read_sealed_lines(path: Path, *, cure: str) -> list[dict[str, Any]]:
    """Read a file of lines that `sealed_line` made, but for a last one that a kill cut off.

    Args:
        path: of the file.
        cure: what to do about a damaged one, for the message.

    Returns:
        What each line holds, without its seal.

    Raises:
        DamagedError: the file is missing, cannot be read, or has a line that is not as it was
            written.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "figures.jsonl"
        >>> path.write_text(sealed_line({"steps": 3}) + '{"ste')
        96
        >>> read_sealed_lines(path, cure="remove it")
        [{'steps': 3}]
    """
    found = []
    *lines, _ = read_utf8(path, cure).split("\n")
    for number, line in enumerate(lines, 1):
        tree = parsed(line, path, cure, line=number)
        content = dict(tree) if isinstance(tree, dict) else {}
        content.pop(SEAL, None)
        if _written(sealed_line, content) != f"{line}\n":
            raise DamagedError(path, f"is damaged: line {number} is not as it was written", cure)
        found.append(content)
    return found


def read_utf8(path: Path, cure: str) -> str:
    """Read a text file that was written earlier.

    Args:
        path: of the file.
        cure: for the message.

    Raises:
        DamagedError: it is missing, cannot be read, or is not UTF-8.
    """
    # Reading a pipe would wait for ever.
    if path.exists() and not path.is_file():
        raise DamagedError(path, "is no file", cure)
    try:
        return path.read_bytes().decode()
    except FileNotFoundError as error:
        raise DamagedError(path, "is missing", cure) from error
    except OSError as error:
        raise DamagedError(path, f"cannot be read ({error.strerror or error})", cure) from error
    except UnicodeDecodeError as error:
        problem = f"is damaged: byte {error.start} is not UTF-8 text"
        raise DamagedError(path, problem, cure) from error


def parsed(text: str, path: Path, cure: str, *, line: int | None = None) -> Any:
    """What JSON text holds.

    Args:
        text: of a file or of one of its lines.
        path: of the file, for the message.
        cure: for the message.
        line: its number, from 1; None for a whole file.

    Raises:
        DamagedError: it is not JSON.
    """
    try:
        return json.loads(text)
    # Lists within lists without end, and numbers of thousands of digits, are refused so.
    except (ValueError, RecursionError) as error:
        where = "" if line is None else f" in line {line}"
        raise DamagedError(
            path, f"is damaged{where}: it is not JSON ({_cut(str(error))})", cure
        ) from error


def structured(
    cls: type[T],
    tree: Any,
    path: Path,
    cure: str,
    *,
    line: int | None = None,
    scalars: Iterable[Scalar] = (),
) -> T:
    """Turn what a file holds into an attrs class, by the rules of the configuration.

    Args:
        cls: an attrs class.
        tree: of mappings, lists and scalars.
        path: of the file, for the message.
        cure: for the message.
        line: its number, from 1; None for a whole file.
        scalars: further types that fields may hold.

    Raises:
        DamagedError: with the first key that is wrong, its value and how many more there are.
    """
    where = "" if line is None else f" in line {line}"
    try:
        return structure(cls, tree_of(tree, ""), scalars=scalars)
    except ConfigurationError as error:
        first, *more = error.problems
        others = f" (and {len(more)} more)" if more else ""
        told = _cut(str(first), 300)
        problem = f"is damaged, or of another version of flowbp{where}: {told}{others}"
        raise DamagedError(path, problem, cure) from error
    except (OverflowError, RecursionError) as error:
        problem = f"is damaged{where}: a number or its nesting is beyond all bounds ({error})"
        raise DamagedError(path, problem, cure) from error


def _digest(tree: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()


def _written(write: Callable[[Mapping[str, Any]], str], tree: Mapping[str, Any]) -> str | None:
    """What would be written; None of what no writer of ours could have made."""
    try:
        return write(tree)
    except RecursionError:
        return None


def _cut(text: str, most: int = 80) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."

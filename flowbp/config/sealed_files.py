"""What was written to disk earlier, read back as values: whole and valid, or refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from .converter import Scalar
from .problems import ConfigurationError
from .structuring import structure
from .tree import tree_of

T = TypeVar("T")

SEAL = "sha256"
"""The key of a sealed file under which the digest of all its other keys is."""


class DamagedError(OSError):
    """A file that was written earlier is missing or not what was written."""

    def __init__(self, path: Path, problem: str, cure: str) -> None:
        self.path, self.problem, self.cure = path, problem, cure
        super().__init__(f"{path} {problem}; {cure}")


def sealed(tree: Mapping[str, Any]) -> str:
    """JSON text that carries the digest of its own content, so that any change of it is noticed."""
    return json.dumps({**tree, SEAL: _digest(tree)}, indent=1) + "\n"


def read_sealed(cls: type[T], path: Path, *, cure: str) -> T:
    """Read a file that `sealed` made into an attrs class."""
    text = read_utf8(path, cure)
    tree = parse_json(text, path, cure)
    if not isinstance(tree, dict):
        raise DamagedError(path, f"must hold an object, got {_cut(repr(tree))}", cure)
    content = {key: value for key, value in tree.items() if key != SEAL}
    if _written(sealed, content) != text:
        raise DamagedError(path, "is damaged: it has changed since it was written", cure)
    return structure_record(cls, content, path, cure)


def sealed_line(tree: Mapping[str, Any]) -> str:
    """A line of JSON that carries the digest of its own content."""
    return json.dumps({**tree, SEAL: _digest(tree)}) + "\n"


def read_sealed_lines(path: Path, *, cure: str) -> list[dict[str, Any]]:
    """Read a file of lines that `sealed_line` made, but for a last one that a kill cut off."""
    found = []
    *lines, _ = read_utf8(path, cure).split("\n")
    for number, line in enumerate(lines, 1):
        tree = parse_json(line, path, cure, line=number)
        content = dict(tree) if isinstance(tree, dict) else {}
        content.pop(SEAL, None)
        if _written(sealed_line, content) != f"{line}\n":
            raise DamagedError(path, f"is damaged: line {number} is not as it was written", cure)
        found.append(content)
    return found


def read_utf8(path: Path, cure: str) -> str:
    """Read a text file that was written earlier."""
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


def parse_json(text: str, path: Path, cure: str, *, line: int | None = None) -> Any:
    """What JSON text holds."""
    try:
        return json.loads(text)
    # Lists within lists without end, and numbers of thousands of digits, are refused so.
    except (ValueError, RecursionError) as error:
        where = "" if line is None else f" in line {line}"
        raise DamagedError(
            path, f"is damaged{where}: it is not JSON ({_cut(str(error))})", cure
        ) from error


def structure_record(
    cls: type[T],
    tree: Any,
    path: Path,
    cure: str,
    *,
    line: int | None = None,
    scalars: Iterable[Scalar] = (),
) -> T:
    """Turn what a file holds into an attrs class, by the rules of the configuration."""
    where = "" if line is None else f" in line {line}"
    try:
        return structure(cls, tree_of(tree, ""), scalars=scalars)
    except ConfigurationError as error:
        first, *more = error.problems
        others = f" (and {len(more)} more)" if more else ""
        fault = _cut(str(first), 300)
        problem = f"is damaged, or of another version of flowbp{where}: {fault}{others}"
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

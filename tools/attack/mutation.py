"""What is done to a file, a text or a tree: one function each, drawn from a list."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Bytes = Callable[[random.Random, bytes], bytes]


def _flipped(source: random.Random, content: bytes) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(source.choice([1, 1, 1, 8])):
        place = source.randrange(8 * len(changed))
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


def _zeroed(source: random.Random, content: bytes) -> bytes:
    start = source.randrange(len(content) + 1)
    stop = source.choice([len(content), source.randint(start, len(content))])
    return content[:start] + bytes(stop - start) + content[stop:]


def _inserted(source: random.Random, content: bytes) -> bytes:
    pieces = [b"\xff\xfe", b"\0", b"\xed\xa0\x80", b'"', b"{", b"\n", b",", b"\x1b", b"0" * 6000]
    start = source.randrange(len(content) + 1)
    return content[:start] + source.choice(pieces) + content[start:]


def _cut(source: random.Random, content: bytes) -> bytes:
    return content[: source.randrange(len(content) + 1)]


def _as_utf16(source: random.Random, content: bytes) -> bytes:
    return content.decode("utf-8", errors="replace").encode("utf-16")


def _swapped_lines(source: random.Random, content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    source.shuffle(lines)
    return b"".join(lines[: source.randint(0, len(lines))])


BYTES: dict[str, Bytes] = {
    "bits flipped": _flipped,
    "zeroed": _zeroed,
    "inserted": _inserted,
    "cut": _cut,
    "emptied": lambda source, content: b"",
    "twice": lambda source, content: content + content,
    "noise": lambda source, content: source.randbytes(source.randint(1, 4000)),
}
TEXTS: dict[str, Bytes] = {
    **BYTES,
    "UTF-16": _as_utf16,
    "byte order mark": lambda source, content: b"\xef\xbb\xbf" + content,
    "carriage returns": lambda source, content: content.replace(b"\n", b"\r\n"),
    "lines shuffled": _swapped_lines,
}

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400,
    0.5, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"),
    "", " ", "a", "1", "1e5", "null", "auto", "..", "~", "ü\u2028\u202e", "a.b:c", "a" * 10_000,
    "\x07", "\0", "2001-01-01", "/dev/null", "/dev/zero", "cuda:99", "mps", "meta", "reward",
    [], [1], [[]], {}, {"name": "bridge"}, {"name": None}, {"name": "shapes"}, {"": 1},
    {"a": {"b": {"c": []}}},
)  # fmt: skip


def paths(tree: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that is in a tree, but its root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, item in items:
        found.append((*above, key))
        if isinstance(item, dict | list):
            found += paths(item, (*above, key))
    return found


def at(tree: Any, path: tuple[Any, ...]) -> Any:
    """What is at a path of a tree."""
    for step in path:
        tree = tree[step]
    return tree


def damaged_json(source: random.Random, content: bytes) -> bytes | None:
    """JSON with something else at one of its places; None of what is no JSON."""
    lines = content.splitlines(keepends=True)
    number = source.randrange(len(lines)) if len(lines) > 1 and lines[1][:1] == b"{" else None
    try:
        tree = json.loads(content if number is None else lines[number])
        path = source.choice(paths(tree))
    except (ValueError, IndexError, TypeError, AttributeError):
        return None
    above, key = at(tree, path[:-1]), path[-1]
    what = source.choice(["odd", "odd", "gone", "1e999", "twice", "deep", "digits"])
    if what == "gone":
        del above[key]
    elif what == "odd":
        above[key] = source.choice(ODD)
    else:
        above[key] = "PLACE"
    places = {
        "1e999": "1e999", "twice": f'1, "{key}": 2', "deep": "[" * 5000 + "]" * 5000,
        "digits": "9" * 5000,
    }  # fmt: skip
    text = json.dumps(tree).replace('"PLACE"', places.get(what, '"PLACE"'))
    if number is None:
        return text.encode()
    lines[number] = text.encode() + b"\n"
    return b"".join(lines)


def replaced_by_a_node(source: random.Random, path: Path, elsewhere: Path) -> str:
    """Put a folder, a pipe or a link in a file's place; `elsewhere` gets what is linked to."""
    kind = source.choice(["folder", "pipe", "loop", "dangling link", "device", "link"])
    content = path.read_bytes()
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        elsewhere.write_bytes(content)
        path.symlink_to(elsewhere)
    else:
        dangling = path.with_name("nowhere")
        path.symlink_to({"loop": path, "device": Path("/dev/zero")}.get(kind, dangling))
    return f"a {kind}"


def removed(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

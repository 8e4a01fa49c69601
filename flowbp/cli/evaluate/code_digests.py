"""Digests of the code that a component is made by, and of flowbp's own."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any

from flowbp.config import Component

_OURS = __name__.partition(".")[0]
_MODULES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
_INSTALLED = {"site-packages", "dist-packages"}


def code_of(component: Component[Any], digest: Callable[[Path], str]) -> dict[str, dict[str, str]]:
    """Digests of the code of others that a component is named by and is defined in.

    That is all of a package, and all that lies in one folder with it and is imported by its code;
    what is installed beside an installed package is not followed. By the package's or file's name,
    then by path.
    """
    named = component.name.partition(":")[0] if ":" in component.name else ""
    defined = getattr(component.target, "__module__", None) or ""
    left = [place for name in dict.fromkeys((named, defined)) for place in _imported(name)]
    found: dict[str, dict[str, str]] = {}
    seen: set[Path] = set()
    while left:
        place = left.pop()
        if place in seen:
            continue
        seen.add(place)
        files = {name: digest(path) for name, path in _files(place).items()}
        found.setdefault(place.name, {}).update(files)
        if not _INSTALLED & set(place.parts):
            wanted = [_imports(place / name, each) for name, each in files.items()]
            left += _beside(place, sorted(frozenset().union(*wanted)))
    return {name: found[name] for name in sorted(found)}


@functools.cache
def own_code() -> str:
    """The SHA-256 of flowbp's own code."""
    found = hashlib.sha256()
    for name, path in _files(Path(__file__).parents[2]).items():
        found.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _imported(name: str) -> Iterator[Path]:
    """Where the package is that a module is in, or the module itself."""
    top = name.partition(".")[0]
    if not top or top == _OURS or top in sys.stdlib_module_names:
        return
    module = sys.modules.get(top)
    folders = [Path(each) for each in getattr(module, "__path__", ())]
    file = getattr(module, "__file__", None)
    yield from folders or ([Path(file)] if file is not None and Path(file).is_file() else [])


def _files(place: Path) -> Mapping[str, Path]:
    if place.is_file():
        return {".": place}
    found = (path for path in place.rglob("*") if path.name.endswith(_MODULES) and path.is_file())
    return {path.relative_to(place).as_posix(): path for path in sorted(found)}


def _beside(place: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        if name == _OURS:
            continue
        folder, file = place.with_name(name), place.with_name(f"{name}.py")
        yield from [folder] if any(folder.glob("*.py")) else [file] if file.is_file() else []


@functools.cache
def _imports(path: Path, digest: str) -> frozenset[str]:
    """Top-level names that a module imports; its digest tells one content from another."""
    if path.suffix not in SOURCE_SUFFIXES:
        return frozenset()
    try:
        tree = ast.parse(path.read_bytes())
    # Such as a template in a package; what cannot be parsed imports nothing.
    except (SyntaxError, ValueError):
        return frozenset()
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").partition(".")[0])
    return frozenset(found - {""})

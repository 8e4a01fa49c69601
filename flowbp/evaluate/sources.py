"""The code that a component is made by: whole packages, and the modules that lie beside one."""

from __future__ import annotations

import ast
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from pathlib import Path
from typing import Any

from flowbp.configuration import Component
from flowbp.evaluate.digests import Digests

OURS = __name__.partition(".")[0]
_MODULES = (*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES)
_INSTALLED = {"site-packages", "dist-packages"}


def code_of(component: Component[Any], digests: Digests) -> dict[str, dict[str, str]]:
    """The code of others that a component is named by and is defined in.

    That is all of a package, and all that lies in one folder with it and is imported by its code;
    what is installed beside an installed package is not followed.

    Args:
        component: any.
        digests: of files.

    Returns:
        Digests by paths in a package, by its name; that of a module that is in no package by
        ``.``, by the name of its file.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> code_of(Component("fraction", __import__("fractions").Fraction), Digests(Path("/none")))
        {}
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
        files = {name: digests.of(path)["."] for name, path in _files(place).items()}
        found.setdefault(place.name, {}).update(files)
        if not _INSTALLED & set(place.parts):
            wanted = [_imports(place / name, digest) for name, digest in files.items()]
            left += _beside(place, sorted(frozenset().union(*wanted)))
    return {name: found[name] for name in sorted(found)}


@functools.cache
def own_code() -> str:
    """The digest of flowbp's own code, which is read once.

    Returns:
        SHA-256 in hexadecimal digits.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> len(own_code())
        64
    """
    found = hashlib.sha256()
    for name, path in _files(Path(__file__).parents[1]).items():
        found.update(f"{name}\n{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


def _imported(name: str) -> Iterator[Path]:
    """Where the package is that a module is in, or the module itself."""
    top = name.partition(".")[0]
    if not top or top == OURS or top in sys.stdlib_module_names:
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
        if name == OURS:
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

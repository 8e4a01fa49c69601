"""The command line: YAML files, overlays and dotted overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from .cases import BY, Layer, layered
from .choosing import NOTHING, choose
from .merging import merge
from .problems import ConfigurationError, Problem
from .text import read_file, read_text
from .tree import Step, Tree, path_text, plain, tree_of

COMMAND_LINE = "command line"
_KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")


def read_arguments(
    arguments: Sequence[str],
    *,
    find: Callable[[str], Path] = Path,
    names: Mapping[str, Collection[str]] = NOTHING,
) -> Tree:
    """Read and merge what was typed: files from left to right, then the overrides.

    An argument with ``=`` is an override, unless a path separator comes before the ``=``; every
    other argument is a YAML file. Overrides win over files wherever they stand, and their values
    are YAML: ``training.rate=1e-5``, ``method={name: bridge}``, ``lora=null``.

    A file's top-level block `by` holds what it sets for some values of other keys only, wherever
    these are given: ``by: {backbone.name: {sd3: {method: {active: 5}}}}``. What is chosen wins over
    the rest of its file, and loses to later files and to overrides.

    Args:
        arguments: such as ``["container.yaml", "overlay.yaml", "method.active=3"]``.
        find: where a file is that was typed; it may raise a `ConfigurationError`.
        names: the names that a key on which a block decides can have, where they are known.

    Returns:
        the merged tree, without `by`.

    Raises:
        ConfigurationError: every unreadable file, misspelt block, wrong override and conflict
            among overrides.

    Example:
        >>> from flowbp.configuration import plain
        >>> plain(read_arguments(["method.name=bridge", "method.alpha=0.5"]))
        {'method': {'name': 'bridge', 'alpha': 0.5}}
    """
    problems: list[Problem] = []
    files: list[Layer] = []
    overrides: dict[tuple[str, ...], Tree] = {}
    for argument in arguments:
        try:
            if _is_override(argument):
                path, value = _override(argument)
                _refuse_conflicts(path, overrides)
                overrides[path] = value
            else:
                files.append(layered(read_file(find(argument))))
        except ConfigurationError as error:
            problems.extend(error.problems)
    # Together first, so that `method.active=3 method.name=bridge` means the same in any order.
    above = merge(*(_nested(path, value) for path, value in overrides.items()))
    # What a file that cannot be read would have decided is not known.
    chosen = [file.plain for file in files] if problems else choose(files, above, names)
    base = merge(*chosen)
    problems.extend(_through_values(base, overrides))
    if problems:
        raise ConfigurationError(problems)
    return merge(base, above) if overrides else base


def _is_override(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and os.sep not in key


def _override(argument: str) -> tuple[tuple[str, ...], Tree]:
    key, _, text = argument.partition("=")
    if not _KEY.fullmatch(key):
        raise _refused(
            f"`{argument}` has the key {key!r}; write key.subkey=value, or ./ before a file's name"
        )
    if key.split(".")[0] == BY:
        raise _refused(f"`{argument}` sets `{BY}`, which only files hold; set the value itself")
    if not text.strip() or text.lstrip().startswith("#"):
        raise _refused(
            f"`{argument}` has no value; write {key}=null for none, quotes for empty text or a #"
        )
    try:
        data = plain(read_text(text, COMMAND_LINE))
    except ConfigurationError as error:
        reasons = "; ".join(_reason(key, problem) for problem in error.problems)
        raise _refused(f"`{argument}` has a value that {reasons}") from error
    return tuple(key.split(".")), tree_of(data, COMMAND_LINE)


def _reason(key: str, problem: Problem) -> str:
    return f"at `{key}.{problem.path}` {problem.message}" if problem.path else problem.message


def _refuse_conflicts(path: tuple[str, ...], others: Iterable[tuple[str, ...]]) -> None:
    for other in others:
        short, long = sorted((path, other), key=len)
        if long[: len(short)] == short:
            raise _refused(
                f"`{'.'.join(path)}` is given together with `{'.'.join(other)}`; keep one of them"
            )


def _through_values(base: Tree, overrides: Iterable[tuple[str, ...]]) -> Iterable[Problem]:
    for path in overrides:
        tree = base
        for depth, step in enumerate(path[:-1]):
            if not tree.is_mapping or step not in tree.value:
                break
            tree = tree.value[step]
            if not tree.is_mapping and tree.value is not None:
                above: tuple[Step, ...] = path[: depth + 1]
                message = (
                    f"cannot be reached: {path_text(above)} is {plain(tree)!r} in {tree.origin}; "
                    f"override {path_text(above)} as a whole"
                )
                yield Problem(".".join(path), message, COMMAND_LINE)


def _nested(path: tuple[str, ...], value: Tree) -> Tree:
    for step in reversed(path):
        value = Tree({step: value}, COMMAND_LINE)
    return value


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("", message, COMMAND_LINE)])

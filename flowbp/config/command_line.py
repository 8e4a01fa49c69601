"""The command line: YAML files, overlays and dotted overrides."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import attrs

from .problems import ConfigurationError, Problem
from .tree import (
    UNKNOWN,
    Step,
    Tree,
    Typed,
    merge,
    path_text,
    plain,
    tree_of,
    trees_along,
    with_unknown,
)
from .yaml import DEEPEST, parsed_file, parsed_text

COMMAND_LINE = "command line"
_KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")
_Path = tuple[str, ...]


@attrs.frozen
class Arguments:
    """What was typed, merged, and all that is wrong with how it was written."""

    tree: Tree
    problems: tuple[Problem, ...] = ()


def read_arguments(arguments: Sequence[str], *, find: Callable[[str], Path] = Path) -> Arguments:
    """Read and merge what was typed: files from left to right, then the overrides.

    An argument with ``=`` is an override, unless a path separator comes before the ``=``; every
    other argument is a YAML file, which `find` finds and may refuse by a `ConfigurationError`.
    Overrides win over files wherever they stand. Their values are YAML, ``training.rate=1e-5``,
    ``method={name: bridge}``, ``lora=null``, but where `structure` finds a text or a path, which is
    just what was typed, ``run.folder=runs/try #2``; so one that is not YAML is no problem yet.
    """
    problems: list[Problem] = []
    files: list[Tree] = []
    overrides: dict[_Path, Tree] = {}
    for argument in arguments:
        try:
            if not _is_override(argument):
                tree, found = _file(argument, find)
                files.append(tree)
                problems += found
                continue
            path, value = _override(argument)
            _refuse_conflicts(path, overrides)
            overrides[path] = value
            if value.typed is None:
                raise _refused(_no_value(argument))
        except ConfigurationError as error:
            problems.extend(error.problems)
    # Together first, so that `method.active=3 method.name=bridge` means the same in any order.
    above = merge(*(_nested(path, value) for path, value in overrides.items()))
    base = merge(*files)
    merged = merge(base, above) if overrides else base
    for override, depth, problem in _through_values(base, overrides):
        problems.append(problem)
        merged = with_unknown(merged, override[:depth])
    return Arguments(merged, tuple(problems))


def _file(argument: str, find: Callable[[str], Path]) -> tuple[Tree, tuple[Problem, ...]]:
    try:
        return parsed_file(find(argument))
    except ConfigurationError as error:
        return Tree({}, argument, partial=True), error.problems


def _is_override(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    return bool(equals) and os.sep not in key


def _override(argument: str) -> tuple[_Path, Tree]:
    key, _, text = argument.partition("=")
    if not _KEY.fullmatch(key):
        raise _refused(
            f"`{_short(argument)}` has the key {_short(key)!r}; write key.subkey=value, or ./ "
            "before a file's name"
        )
    path = tuple(key.split("."))
    if len(path) > DEEPEST:
        raise _refused(f"`{_short(argument)}` has a key of {len(path)} parts; there is none")
    if not text.strip():
        return path, Tree(UNKNOWN, COMMAND_LINE)
    return path, _typed(argument, text.strip())


def _no_value(argument: str) -> str:
    key = argument.partition("=")[0]
    return (
        f"`{argument}` has no value; write {key}=null for none, quotes for empty text or a #, as "
        f"in \"{key}=''\""
    )


def _typed(argument: str, text: str) -> Tree:
    key = argument.partition("=")[0]
    tree, problems = parsed_text(text, COMMAND_LINE)
    refusal = "; ".join(_reason(key, problem) for problem in problems)
    refusal = refusal and f"`{_short(argument)}` has a value that {refusal}"
    if text.startswith("#"):
        refusal = _no_value(argument)
    value = UNKNOWN if refusal else plain(tree)
    if text[0] == text[-1] and text[0] in "'\"" and isinstance(value, str):
        text = value
    typed = Typed(text, value, refusal)
    return attrs.evolve(tree_of(value, COMMAND_LINE), typed=typed)


def _reason(key: str, problem: Problem) -> str:
    return f"at `{key}.{problem.path}` {problem.message}" if problem.path else problem.message


def _refuse_conflicts(path: _Path, others: Iterable[_Path]) -> None:
    for other in others:
        short, long = sorted((path, other), key=len)
        if long == short:
            raise _refused(f"`{'.'.join(path)}` is given twice; keep one of them")
        if long[: len(short)] == short:
            raise _refused(
                f"`{'.'.join(path)}` is given together with `{'.'.join(other)}`; keep one of them"
            )


def _through_values(base: Tree, overrides: Iterable[_Path]) -> Iterator[tuple[_Path, int, Problem]]:
    for path in overrides:
        for depth, tree in enumerate(trees_along(base, path[:-1])):
            if tree.is_mapping or tree.value is None or tree.value is UNKNOWN:
                continue
            above: tuple[Step, ...] = path[:depth]
            message = (
                f"cannot be reached: {path_text(above)} is {plain(tree)!r} in {tree.origin}; "
                f"override {path_text(above)} as a whole"
            )
            yield path, depth, Problem(".".join(path), message, COMMAND_LINE)


def _nested(path: _Path, value: Tree) -> Tree:
    for step in reversed(path):
        value = Tree({step: value}, COMMAND_LINE)
    return value


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("", message, COMMAND_LINE)])

"""The command line: YAML files, overlays and dotted overrides."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from .problems import ConfigurationError, Problem
from .tree import (
    UNKNOWN,
    Tree,
    Typed,
    has_unknown,
    merge,
    merge_every_key,
    path_text,
    plain,
    replaced,
    tree_of,
    trees_along,
    with_unknown,
)
from .yaml import DEEPEST, parsed_file, parsed_text

COMMAND_LINE = "command line"
FILES = "files"
"""The key of those that a file is laid over."""

_KEY = re.compile(r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*")
_Path = tuple[str, ...]


@attrs.frozen
class Arguments:
    """What was typed, merged, and all that is wrong with how it was written."""

    tree: Tree
    problems: tuple[Problem, ...] = ()
    # The files that were read, by what named them.
    files: tuple[str, ...] = ()


def _whole(_: Path, tree: Tree) -> Tree:
    return tree


def read_arguments(
    arguments: Sequence[str],
    *,
    find: Callable[[str], Path] = Path,
    take: Callable[[Path, Tree], Tree] = _whole,
) -> Arguments:
    """Read and merge what was typed: files from left to right, then the overrides.

    An argument with ``=`` is an override, unless a path separator comes before the ``=``; every
    other argument is a YAML file, which `find` finds, and of which `take` takes what is wanted;
    both may refuse it by a `ConfigurationError`. The key `files` of a file names those that it is
    laid over. Overrides win over files wherever they stand, and of one key the last.

    Values of overrides are YAML, ``training.rate=1e-5``, ``method={name: bridge}``, ``lora=null``,
    but where `structure` finds a text or a path, which is just what was typed,
    ``run.folder=runs/try #2``; so one that is not YAML is no problem yet.
    """
    files, trees = _Files(find, take), list[Tree]()
    problems = files.problems
    overrides: dict[_Path, Tree] = {}
    for argument in arguments:
        if not _is_override(argument):
            trees.append(files.tree(argument))
            continue
        try:
            path, value = _override(argument)
            overrides[path] = replaced(overrides.pop(path, value), value)
            if value.typed is None:
                raise _refused(_no_value(argument))
        except ConfigurationError as error:
            problems.extend(error.problems)
    tree = _overridden(merge(*trees), overrides, problems) if overrides else merge(*trees)
    return Arguments(tree, tuple(problems), tuple(files.names))


class _Files:
    """Reads files, each laid over those that it names."""

    def __init__(self, find: Callable[[str], Path], take: Callable[[Path, Tree], Tree]) -> None:
        self.find, self.take = find, take
        self.names: list[str] = []
        self.problems: list[Problem] = []

    def tree(self, name: str, above: tuple[str, ...] = ()) -> Tree:
        """A file that those `above` lead to, over those that it names itself."""
        self.names.append(name)
        try:
            path = self.find(name)
            own, problems = parsed_file(path)
            self.problems += problems
            return self._over_others(self.take(path, own), (*above, os.path.realpath(path)))
        except ConfigurationError as error:
            self.problems += error.problems
            return Tree({}, name, partial=True)

    def _over_others(self, own: Tree, above: tuple[str, ...]) -> Tree:
        if not own.is_mapping or FILES not in own.value:
            return own
        named = own.value[FILES]
        rest = attrs.evolve(own, value={k: each for k, each in own.value.items() if k != FILES})
        items = named.value if isinstance(named.value, tuple) else (named,)
        if not all(isinstance(item.value, str) for item in items):
            # What could not be read is reported already.
            if not has_unknown(named):
                self._report(
                    f"must name a YAML file, or a list of them, got {plain(named)!r}", named
                )
            return attrs.evolve(rest, partial=True)
        others = []
        for item in items:
            if os.path.realpath(item.value) in above:
                self._report(f"names {item.value}, which leads back here; take it out", item)
            else:
                others.append(self.tree(item.value, above))
        return merge(*others, rest)

    def _report(self, message: str, tree: Tree) -> None:
        self.problems.append(Problem(FILES, message, tree.origin))


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
    if path[0] == FILES:
        raise _refused(f"`{_short(argument)}` is for YAML files; type the files' own names here")
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


def _overridden(base: Tree, overrides: Mapping[_Path, Tree], problems: list[Problem]) -> Tree:
    # Together first, so that `method.active=3 method.name=bridge` means the same in any order.
    above, unreachable = Tree({}, COMMAND_LINE), list[_Path]()
    for path, value in overrides.items():
        for depth, tree in enumerate(trees_along(merge(base, above), path[:-1])):
            # A text may be the name of a component.
            if tree.is_mapping or isinstance(tree.value, str) or tree.value in (None, UNKNOWN):
                continue
            problems.append(_unreachable(path, depth, tree))
            unreachable.append(path[:depth])
            break
        else:
            above = merge_every_key(above, _nested(path, value))
    return functools.reduce(with_unknown, unreachable, merge(base, above))


def _unreachable(path: _Path, depth: int, tree: Tree) -> Problem:
    place = path_text(path[:depth])
    typed = tree.origin == COMMAND_LINE
    where = f"on the {COMMAND_LINE}" if typed else f"in {tree.origin}"
    message = f"cannot be reached: {place} is {plain(tree)!r} {where}; override {place} as a whole"
    return Problem(".".join(path), message, COMMAND_LINE)


def _nested(path: _Path, value: Tree) -> Tree:
    for step in reversed(path):
        value = Tree({step: value}, COMMAND_LINE)
    return value


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:80]}…"


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("", message, COMMAND_LINE)])

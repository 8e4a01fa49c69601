"""YAML text to trees, with every problem of a file at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from flowbp.files import read_regular

from .problems import ConfigurationError, Problem, Rejected
from .scalars import DEEPEST, PREFIX, RULES, Loader, TooDeepError
from .tree import UNKNOWN, Step, Tree, path_text

LARGEST = 2**18
"""Bytes of a file."""

MOST = 100_000
"""Values of a file, those of an alias as often as it stands."""

_BLOCK = re.compile(r"^[A-Za-z_][\w-]*[ \t]*:(?=\s|$)", re.MULTILINE)
_Read = tuple[Tree, tuple[Problem, ...]]


def read_file(path: Path) -> Tree:
    """Read one YAML file into a tree.

    Args:
        path: a regular file of at most 256 KiB that holds one mapping; an empty file is an empty
            mapping.

    Returns:
        the tree; origins are ``path:line``.

    Raises:
        ConfigurationError: the file cannot be read, is not YAML, or has duplicate keys.

    Example:
        >>> read_file(Path("absent.yaml"))
        Traceback (most recent call last):
        flowbp.configuration.problems.ConfigurationError: 1 problem in the configuration:
          absent.yaml: cannot be read: No such file or directory; check the path
    """
    return _sound(*parsed_file(path))


def parsed_file(path: Path) -> _Read:
    """The same with its problems; what could not be read is `UNKNOWN` or lacks, see `Tree`."""
    try:
        text = read_regular(path, LARGEST).decode("utf-8-sig")
    except OSError as error:
        return _unread(path, f"cannot be read: {error.strerror or error}; check the path")
    except ValueError as error:
        if not isinstance(error, UnicodeDecodeError):
            return _unread(path, str(error))
        where = f"{error.reason} at byte {error.start}"
        return _unread(path, f"is not UTF-8 text: {where}; save it as UTF-8")
    tree, problems = parsed(text, str(path))
    if tree.value is None:
        return Tree({}, tree.origin), problems
    if tree.is_mapping or problems:
        return tree, problems
    return _unread(path, "must hold a mapping (`key: value` lines) at the top", tree.origin)


def _unread(path: Path, message: str, origin: str = "") -> _Read:
    origin = origin or str(path)
    return Tree({}, origin, partial=True), (Problem("", message, origin),)


def _sound(tree: Tree, problems: tuple[Problem, ...]) -> Tree:
    if problems:
        raise ConfigurationError(problems)
    return tree


def read_text(text: str, source: str) -> Tree:
    """Read YAML text into a tree.

    Args:
        text: one YAML document; empty text is null.
        source: the file's name, for the origins ``source:line``.

    Raises:
        ConfigurationError: the text is not YAML, nests deeper than 64 levels or holds more than
            100,000 values; a key is duplicate or not text; a number has more than 64 bits; a tag
            or an alias asks for more than plain data.

    Example:
        >>> from flowbp.configuration import plain
        >>> plain(read_text("{rate: 1e-5, vae: no}", "run.yaml"))
        {'rate': 1e-05, 'vae': 'no'}
    """
    return _sound(*parsed(text, source))


def parsed(text: str, source: str) -> _Read:
    """The same with its problems; what could not be read is `UNKNOWN` or lacks, see `Tree`."""
    try:
        node = yaml.compose(text, Loader=Loader)
    except yaml.reader.ReaderError as error:
        message = f"is not YAML: {error.reason} (character {error.position}); remove it"
        if "\0" in text:
            message = "is not YAML: it holds NUL characters, as UTF-16 does; save it as UTF-8"
        return Tree({}, source, partial=True), (Problem("", message, source),)
    except yaml.MarkedYAMLError as error:
        return _by_blocks(text, source, error)
    if node is None:
        return Tree(None, f"{source}:1"), ()
    return _Reading(source).whole(node)


def _by_blocks(text: str, source: str, error: yaml.MarkedYAMLError) -> _Read:
    """Read each top-level key of a text that is not YAML, so that one does not hide the others."""
    starts = [match.start() for match in _BLOCK.finditer(text)]
    pairs: list[Any] = []
    failed: dict[str, yaml.MarkedYAMLError] = {}
    for start, end in itertools.pairwise([*starts, len(text)]):
        key = text[start : text.index(":", start)].rstrip()
        # Empty lines before it, so that its lines keep their numbers.
        lines = "\n" * text.count("\n", 0, start)
        try:
            node = yaml.compose(lines + text[start:end], Loader=Loader)
        except yaml.MarkedYAMLError as own:
            failed[key] = own
        else:
            pairs += node.value if isinstance(node, yaml.MappingNode) else []
    # An anchor of another block is none of its faults.
    own_faults = [each for each in failed.values() if "undefined alias" not in str(each.problem)]
    problems = [_fault(each, source) for each in own_faults or [error]]
    whole = yaml.MappingNode(PREFIX + "map", pairs, error.problem_mark, error.problem_mark)
    reading = _Reading(source)
    tree, others = reading.whole(whole)
    unknown = {key: Tree(UNKNOWN, source) for key in failed}
    # Where each key can be read alone, what is wrong with the whole may have cost any of them.
    return Tree({**tree.value, **unknown}, f"{source}:1", partial=not failed), (*problems, *others)


def _fault(error: yaml.MarkedYAMLError, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    origin = f"{source}:{mark.line + 1}" if mark else source
    message = f"is not YAML: {error.problem or error.context}"
    if isinstance(error, TooDeepError):
        message = f"nests deeper than {DEEPEST} levels; write it flatter"
    return Problem("", message, origin)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1 if node.start_mark else 1


class _TooManyError(Exception):
    pass


class _Reading:
    """One pass over a YAML document, collecting its problems."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self.values = 0

    def whole(self, node: yaml.Node) -> _Read:
        try:
            return self.tree(node, (), _line(node), ()), tuple(self.problems)
        except _TooManyError:
            message = f"holds more than {MOST:,} values, those of an alias as often as it stands"
            problem = Problem("", f"{message}; write fewer", self.source)
            return Tree({}, self.source, partial=True), (*self.problems, problem)

    def reject(self, path: tuple[Step, ...], line: int, message: str) -> None:
        self.problems.append(Problem(path_text(path), message, f"{self.source}:{line}"))

    def tree(
        self, node: yaml.Node, path: tuple[Step, ...], line: int, above: tuple[yaml.Node, ...]
    ) -> Tree:
        self.values += 1
        if self.values > MOST:
            raise _TooManyError
        origin = f"{self.source}:{line}"
        if node in above:
            self.reject(path, line, "is an alias of one of its own parents; write it out")
            return Tree(UNKNOWN, origin)
        above = (*above, node)
        if isinstance(node, yaml.MappingNode) and node.tag == PREFIX + "map":
            return Tree(self.mapping(node, path, above), origin)
        if isinstance(node, yaml.SequenceNode) and node.tag == PREFIX + "seq":
            items = enumerate(node.value)
            trees = (self.tree(item, (*path, at), _line(item), above) for at, item in items)
            return Tree(tuple(trees), origin)
        return Tree(self.scalar(node, path, line), origin)

    def mapping(
        self, node: yaml.MappingNode, path: tuple[Step, ...], above: tuple[yaml.Node, ...]
    ) -> Mapping[str, Tree]:
        found: dict[str, Tree] = {}
        for key, line, item in self.entries(node, path):
            tree = self.tree(item, (*path, key), line, above)
            found[key] = _both(found[key], tree) if key in found else tree
        return found

    def entries(
        self, node: yaml.MappingNode, path: tuple[Step, ...]
    ) -> Iterator[tuple[str, int, yaml.Node]]:
        first: dict[str, int] = {}
        for key_node, item in node.value:
            key, line = key_node.value, _line(key_node)
            if key_node.tag != PREFIX + "str":
                self.reject(path, line, f"has a key that is not text: {_shown(key_node)}; quote it")
                continue
            if key in first:
                message = f"is given twice, first on line {first[key]}; keep one of them"
                self.reject((*path, key), line, message)
            first.setdefault(key, line)
            yield key, line, item

    def scalar(self, node: yaml.Node, path: tuple[Step, ...], line: int) -> Any:
        kind = node.tag.removeprefix(PREFIX)
        tag = node.tag.replace(PREFIX, "!!")
        message = f"has the tag {tag}, which does not fit plain data; remove the tag"
        if isinstance(node, yaml.ScalarNode):
            if kind == "str":
                return node.value
            if kind in RULES and RULES[kind][0].match(node.value):
                try:
                    return RULES[kind][1](node.value)
                except Rejected as error:
                    message = str(error)
        self.reject(path, line, message)
        return UNKNOWN


def _both(first: Tree, second: Tree) -> Tree:
    """What is known of a key that is given twice: of mappings the keys that one of them has."""
    if not (first.is_mapping and second.is_mapping):
        return Tree(UNKNOWN, first.origin)
    return Tree({**second.value, **first.value}, first.origin, partial=True)


def _shown(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "a list or a mapping"

"""YAML text to trees and plain data to YAML text, by the rules of YAML 1.2.

PyYAML follows YAML 1.1, where ``1e-5`` is text, ``no`` is false, ``010`` is eight and ``1:30``
is ninety. The resolvers here are those of the YAML 1.2 core schema. Every problem of a file is
found at once.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from flowbp.files import read_regular

from .problems import ConfigurationError, Problem, Rejected
from .tree import UNKNOWN, Step, Tree, path_text

# Bytes of a file; values in it, those of an alias as often as it stands; levels, each in the next.
LARGEST, MOST, DEEPEST = 2**18, 100_000, 64
_PREFIX = "tag:yaml.org,2002:"
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
# Far beyond 64 bits; over thousands of them Python takes long, or refuses.
_DIGITS = 100
_BLOCK = re.compile(r"^[A-Za-z_][\w-]*[ \t]*:(?=\s|$)", re.MULTILINE)
_Read = tuple[Tree, tuple[Problem, ...]]
_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise Rejected(
            f"is an integer of {len(text):,} characters, {text[:8]}…, and at most {_DIGITS} are "
            "read; write a smaller one, or put quotes around a text"
        )
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    found = float(re.sub(r"\.(?=[inIN])", "", text))
    if math.isinf(found) and "inf" not in text.lower():
        raise Rejected(
            f"is the number {text[:24]}, and the largest that can be held is 1.8e308; write a "
            "smaller one"
        )
    return found


_RULES: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (_NULL, lambda text: None),
    "bool": (_BOOL, lambda text: text.lower() == "true"),
    "int": (_INT, _int),
    "float": (_FLOAT, _float),
}
"""By kind what a scalar without quotes looks like, and what it is; what that refuses is raised."""


def unquoted(text: str) -> Any:
    """What YAML reads where a text is written without quotes."""
    for pattern, build in _RULES.values():
        if pattern.match(text):
            try:
                return build(text)
            except Rejected:
                return text
    return text


def unwritable(text: str) -> str:
    """What is wrong with a text that holds a character which no file or terminal should get."""
    found = _UNWRITABLE.search(text)
    if found is None:
        return ""
    return f"holds the character {found[0]!r}, which is no part of a text; remove it"


class _TooDeepError(yaml.MarkedYAMLError):
    """A document nests deeper than `DEEPEST`."""


class _Loader(yaml.SafeLoader):
    """Composes nodes with the resolvers of YAML 1.2."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, unless it lies too deep."""
        self._depth += 1
        if self._depth > DEEPEST:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _TooDeepError(problem="nests too deep", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that either version of YAML would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # Single quotes fold the line breaks of Unicode into spaces; double quotes escape them.
        style = '"' if re.search("[\x85\u2028\u2029]", data) else None
        return self.represent_scalar(_PREFIX + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
for _name, (_pattern, _) in _RULES.items():
    # None as the list of first characters makes PyYAML try the rule on every scalar.
    _Loader.add_implicit_resolver(_PREFIX + _name, _pattern, None)
    _Dumper.add_implicit_resolver(_PREFIX + _name, _pattern, None)


def dump(data: Any) -> str:
    """YAML text that reads back as the same data, keys in the order given."""
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=100,
    )


def dump_line(data: Any) -> str:
    """The same in one line, as a value is written after its key."""
    text = yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=True,
        width=2**20,
    )
    # What follows a scalar that stands alone.
    return text.strip().removesuffix("\n...")


def read_file(path: Path) -> Tree:
    """Read a file that holds one mapping; an empty one is an empty mapping."""
    return _sound(*parsed_file(path))


def parsed_file(path: Path) -> _Read:
    """The same with its problems; what could not be read is `UNKNOWN` or missing, see `Tree`."""
    try:
        text = read_regular(path, LARGEST).decode("utf-8-sig")
    except OSError as error:
        return _unread(path, f"cannot be read: {error.strerror or error}; check the path")
    except ValueError as error:
        if not isinstance(error, UnicodeDecodeError):
            return _unread(path, str(error))
        where = f"{error.reason} at byte {error.start}"
        return _unread(path, f"is not UTF-8 text: {where}; save it as UTF-8")
    tree, problems = parsed_text(text, str(path))
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
    """Read one YAML document; empty text is null. The origins are ``source:line``."""
    return _sound(*parsed_text(text, source))


def parsed_text(text: str, source: str) -> _Read:
    """The same with its problems; what could not be read is `UNKNOWN` or missing, see `Tree`."""
    try:
        node = yaml.compose(text, Loader=_Loader)
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
            node = yaml.compose(lines + text[start:end], Loader=_Loader)
        except yaml.MarkedYAMLError as own:
            failed[key] = own
        else:
            pairs += node.value if isinstance(node, yaml.MappingNode) else []
    # An anchor of another block is none of its faults.
    own_faults = [each for each in failed.values() if "undefined alias" not in str(each.problem)]
    problems = [_fault(each, source) for each in own_faults or [error]]
    whole = yaml.MappingNode(_PREFIX + "map", pairs, error.problem_mark, error.problem_mark)
    reading = _Reading(source)
    tree, others = reading.whole(whole)
    unknown = {key: Tree(UNKNOWN, source) for key in failed}
    # Where each key can be read alone, what is wrong with the whole may have cost any of them.
    return Tree({**tree.value, **unknown}, f"{source}:1", partial=not failed), (*problems, *others)


def _fault(error: yaml.MarkedYAMLError, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    origin = f"{source}:{mark.line + 1}" if mark else source
    message = f"is not YAML: {error.problem or error.context}"
    if isinstance(error, _TooDeepError):
        message = f"nests deeper than {DEEPEST} levels; nest it less"
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
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return Tree(self.mapping(node, path, above), origin)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            items = enumerate(node.value)
            trees = (self.tree(item, (*path, at), _line(item), above) for at, item in items)
            return Tree(tuple(trees), origin)
        return Tree(self.scalar(node, path, line), origin)

    def mapping(
        self, node: yaml.MappingNode, path: tuple[Step, ...], above: tuple[yaml.Node, ...]
    ) -> Mapping[str, Tree]:
        found: dict[str, Tree] = {}
        first: dict[str, int] = {}
        for key_node, item in node.value:
            key, line = key_node.value, _line(key_node)
            if key_node.tag != _PREFIX + "str":
                shown = key if isinstance(key_node, yaml.ScalarNode) else "a list or a mapping"
                self.reject(path, line, f"has a key that is not text: {shown}; quote it")
                continue
            if key in first:
                message = f"is given twice, first on line {first[key]}; keep one of them"
                self.reject((*path, key), line, message)
            first.setdefault(key, line)
            tree = self.tree(item, (*path, key), line, above)
            found[key] = _both(found[key], tree) if key in found else tree
        return found

    def scalar(self, node: yaml.Node, path: tuple[Step, ...], line: int) -> Any:
        kind = node.tag.removeprefix(_PREFIX)
        tag = node.tag.replace(_PREFIX, "!!")
        message = f"has the tag {tag}, which does not fit plain data; remove the tag"
        if isinstance(node, yaml.ScalarNode):
            if kind == "str":
                return node.value
            if kind in _RULES and _RULES[kind][0].match(node.value):
                try:
                    return _RULES[kind][1](node.value)
                except Rejected as error:
                    message = str(error)
        self.reject(path, line, message)
        return UNKNOWN


def _both(first: Tree, second: Tree) -> Tree:
    """What is known of a key that is given twice: of mappings the keys that one of them has."""
    if not (first.is_mapping and second.is_mapping):
        return Tree(UNKNOWN, first.origin)
    return Tree({**second.value, **first.value}, first.origin, partial=True)

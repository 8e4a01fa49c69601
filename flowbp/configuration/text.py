"""YAML text to trees and back, by the scalar rules of YAML 1.2.

PyYAML follows YAML 1.1, where ``1e-5`` is text, ``no`` is false, ``010`` is eight and ``1:30``
is ninety. The resolvers here are those of the YAML 1.2 core schema.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from .problems import ConfigurationError, Problem
from .tree import Step, Tree, path_text

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
_PREFIX = "tag:yaml.org,2002:"


def _int(text: str) -> int:
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


def _float(text: str) -> float:
    return float(re.sub(r"\.(?=[inIN])", "", text))


_RULES: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (_NULL, lambda text: None),
    "bool": (_BOOL, lambda text: text.lower() == "true"),
    "int": (_INT, _int),
    "float": (_FLOAT, _float),
}


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012


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


def read_file(path: Path) -> Tree:
    """Read one YAML file into a tree.

    Args:
        path: a file that holds one mapping; an empty file is an empty mapping.

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
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        message = f"cannot be read: {error.strerror}; check the path"
        raise ConfigurationError([Problem("", message, str(path))]) from error
    except UnicodeDecodeError as error:
        message = f"is not UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8"
        raise ConfigurationError([Problem("", message, str(path))]) from error
    tree = read_text(text, str(path))
    if tree.value is None:
        return Tree({}, tree.origin)
    if not tree.is_mapping:
        message = "must hold a mapping (`key: value` lines) at the top"
        raise ConfigurationError([Problem("", message, tree.origin)])
    return tree


def read_text(text: str, source: str) -> Tree:
    """Read YAML text into a tree.

    Args:
        text: one YAML document; empty text is null.
        source: the file's name, for the origins ``source:line``.

    Raises:
        ConfigurationError: the text is not YAML; a key is duplicate or not text; a tag or an
            alias asks for more than plain data.

    Example:
        >>> from flowbp.configuration import plain
        >>> plain(read_text("{rate: 1e-5, vae: no}", "run.yaml"))
        {'rate': 1e-05, 'vae': 'no'}
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        origin = f"{source}:{mark.line + 1}" if mark else source
        message = f"is not YAML: {error.problem or error.context}"
        raise ConfigurationError([Problem("", message, origin)]) from error
    except yaml.reader.ReaderError as error:
        message = f"is not YAML: {error.reason} (character {error.position}); remove it"
        raise ConfigurationError([Problem("", message, source)]) from error
    if node is None:
        return Tree(None, f"{source}:1")
    reading = _Reading(source)
    tree = reading.tree(node, (), _line(node), ())
    if reading.problems:
        raise ConfigurationError(reading.problems)
    return tree


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


class _Reading:
    """One pass over a YAML document, collecting its problems."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[Problem] = []

    def reject(self, path: tuple[Step, ...], line: int, message: str) -> None:
        self.problems.append(Problem(path_text(path), message, f"{self.source}:{line}"))

    def tree(
        self, node: yaml.Node, path: tuple[Step, ...], line: int, above: tuple[yaml.Node, ...]
    ) -> Tree:
        origin = f"{self.source}:{line}"
        if node in above:
            self.reject(path, line, "is an alias of one of its own parents; write it out")
            return Tree(None, origin)
        above = (*above, node)
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            entries = self.entries(node, path)
            return Tree(
                {
                    key: self.tree(item, (*path, key), _line(key_node), above)
                    for key, key_node, item in entries
                },
                origin,
            )
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            items = enumerate(node.value)
            trees = (self.tree(item, (*path, at), _line(item), above) for at, item in items)
            return Tree(tuple(trees), origin)
        return Tree(self.scalar(node, path, line), origin)

    def entries(
        self, node: yaml.MappingNode, path: tuple[Step, ...]
    ) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        first: dict[str, int] = {}
        for key_node, item in node.value:
            key, line = key_node.value, _line(key_node)
            if key_node.tag != _PREFIX + "str":
                self.reject(path, line, f"has a key that is not text: {_shown(key_node)}; quote it")
            elif key in first:
                message = f"is given twice, first on line {first[key]}; keep one of them"
                self.reject((*path, key), line, message)
            else:
                first[key] = line
                yield key, key_node, item

    def scalar(self, node: yaml.Node, path: tuple[Step, ...], line: int) -> Any:
        kind = node.tag.removeprefix(_PREFIX)
        if isinstance(node, yaml.ScalarNode):
            if kind == "str":
                return node.value
            if kind in _RULES and _RULES[kind][0].match(node.value):
                return _RULES[kind][1](node.value)
        tag = node.tag.replace(_PREFIX, "!!")
        self.reject(path, line, f"has the tag {tag}, which does not fit plain data; remove the tag")
        return None


def _shown(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "a list or a mapping"


def unquoted(text: str) -> Any:
    """What YAML reads where a text is written without quotes.

    Example:
        >>> unquoted("1e-5"), unquoted("no")
        (1e-05, 'no')
    """
    for pattern, build in _RULES.values():
        if pattern.match(text):
            return build(text)
    return text


def dump(data: Any) -> str:
    """YAML text that reads back as the same data, keys in the order given.

    Args:
        data: nested dicts with str keys, lists or tuples, and scalars; what `plain` returns.

    Example:
        >>> print(dump({"method": {"name": "bridge", "rate": 1e-5}, "note": "1e-5"}), end="")
        method:
          name: bridge
          rate: 1.0e-05
        note: '1e-5'
    """
    return yaml.dump(
        data,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=100,
    )

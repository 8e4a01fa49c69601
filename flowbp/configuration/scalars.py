"""Scalars by the rules of YAML 1.2, and plain data back into YAML text.

PyYAML follows YAML 1.1, where ``1e-5`` is text, ``no`` is false, ``010`` is eight and ``1:30``
is ninety. The resolvers here are those of the YAML 1.2 core schema.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import yaml

from .problems import Rejected

PREFIX = "tag:yaml.org,2002:"
DEEPEST = 64
"""Levels of a document, each in the one before."""

_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_INT = re.compile(r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")
_FLOAT = re.compile(
    r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
)
# Far beyond 64 bits; over thousands of them Python takes long, or refuses.
_DIGITS = 100
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


RULES: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (_NULL, lambda text: None),
    "bool": (_BOOL, lambda text: text.lower() == "true"),
    "int": (_INT, _int),
    "float": (_FLOAT, _float),
}
"""By kind what a scalar without quotes looks like, and what it is; what that refuses is raised."""


def unquoted(text: str) -> Any:
    """What YAML reads where a text is written without quotes.

    Example:
        >>> unquoted("1e-5"), unquoted("no")
        (1e-05, 'no')
    """
    for pattern, build in RULES.values():
        if pattern.match(text):
            try:
                return build(text)
            except Rejected:
                return text
    return text


def unwritable(text: str) -> str:
    r"""What is wrong with a text that holds a character which no file or terminal should get.

    Returns:
        The fault; empty if there is none.

    Example:
        >>> unwritable("two\nlines")
        ''
        >>> print(unwritable("a\x7f"))
        holds the character '\x7f', which is no part of a text; remove it
    """
    found = _UNWRITABLE.search(text)
    if found is None:
        return ""
    return f"holds the character {found[0]!r}, which is no part of a text; remove it"


class TooDeepError(yaml.MarkedYAMLError):
    """A document nests deeper than `DEEPEST`."""


class Loader(yaml.SafeLoader):
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
            raise TooDeepError(problem="nests too deep", problem_mark=mark)
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
        return self.represent_scalar(PREFIX + "str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)
for _name, (_pattern, _) in RULES.items():
    # None as the list of first characters makes PyYAML try the rule on every scalar.
    Loader.add_implicit_resolver(PREFIX + _name, _pattern, None)
    _Dumper.add_implicit_resolver(PREFIX + _name, _pattern, None)


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

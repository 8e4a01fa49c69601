"""How signatures look on the site: with the defaults that hold, and names in place of addresses."""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs
from sphinx.util.inspect import stringify_signature


def is_skipped(
    app: object, kind: str, name: str, value: object, skip: bool, options: object
) -> bool:
    """Whether a member is left out: what is no name of flowbp's, such as modules and imports."""
    return skip or not getattr(value, "__module__", "").startswith("flowbp")


def signature_of(
    app: object,
    kind: str,
    name: str,
    value: Any,
    options: object,
    signature: str | None,
    returned: str | None,
) -> tuple[str, str | None] | None:
    """The signature of a class or function; none of a protocol, which nobody calls."""
    if getattr(value, "_is_protocol", False):
        return "", None
    if not signature:
        return None
    factories = attrs.fields_dict(value) if isinstance(value, type) and attrs.has(value) else {}
    found = inspect.signature(value)
    named = [
        each.replace(default=_Text(_default(each, factories)))
        if each.default is not each.empty
        else each
        for each in found.parameters.values()
        if kind != "method" or each.name != "self"
    ]
    shown = found.replace(parameters=named, return_annotation=inspect.Signature.empty)
    return stringify_signature(shown, unqualified_typehints=True), returned


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _default(parameter: inspect.Parameter, fields: dict[str, Any]) -> str:
    value = parameter.default
    if value is attrs.NOTHING:
        # A private field's argument has no underscore.
        field = fields.get(parameter.name) or fields[f"_{parameter.name}"]
        if field.default.takes_self:
            return "…"
        value = field.default.factory()
    if inspect.isroutine(value) or inspect.isclass(value):
        return value.__name__
    text = re.sub(r"<([\w.]*\.)?(\w+) object at 0x\w+>", r"\2()", repr(value))
    return re.sub(r"PosixPath\('/[^']*/\.cache", "Path('~/.cache", text)

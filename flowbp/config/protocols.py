"""Whether something is what a protocol asks for, found without calling it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, get_origin

_CALL = "__call__"
_ABSENT = "has no "


def lacking(found: Any, protocol: Any) -> str:
    """What an object, or the objects of a class, would lack of a protocol."""
    protocol = get_origin(protocol) or protocol
    if not getattr(protocol, "_is_protocol", False):
        return ""
    return "; ".join(_faults(found, protocol))


def differing(found: Any, protocol: Any) -> str:
    """What an object has of a protocol that cannot be called as the protocol is."""
    return "; ".join(each for each in _faults(found, protocol) if not each.startswith(_ABSENT))


def members(protocol: Any) -> dict[str, Any]:
    """The methods and attributes that a protocol asks for."""
    bases = [base for base in protocol.__mro__ if getattr(base, "_is_protocol", False)]
    return {
        name: value
        for base in reversed(bases)
        for name, value in vars(base).items()
        if name == _CALL or (not name.startswith("_") and _asked(value))
    }


def _asked(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, property)


def _faults(found: Any, protocol: Any) -> Iterator[str]:
    of_class = isinstance(found, type)
    absent = []
    for name, member in members(protocol).items():
        method = inspect.isfunction(member)
        if of_class and not method:
            # A constructor may set it.
            continue
        asked = list(inspect.signature(member).parameters.values())[1:] if method else []
        wanted = ", ".join(parameter.name for parameter in asked)
        if not _present(found, name, of_class):
            words = name if name == _CALL or not method else f"{name}({wanted})"
            absent.append(f"`{words}`")
        elif method and not _takes(found, name, asked):
            article = "an" if name[:1] in "aeiou" else "a"
            yield (
                f"cannot be called with ({wanted})"
                if name == _CALL and not of_class
                else f"has {article} `{name}` that does not take ({wanted})"
            )
    if absent == ["`__call__`"]:
        yield "cannot be called"
    elif absent:
        yield f"{_ABSENT}{', '.join(absent)}"


def _present(found: Any, name: str, of_class: bool) -> bool:
    if name == _CALL and of_class:
        # A class can be called; its objects only where one of its bases says how.
        return any(_CALL in vars(base) for base in found.__mro__)
    if of_class and any("__getattr__" in vars(base) for base in found.__mro__):
        return True
    return callable(found) if name == _CALL else hasattr(found, name)


def _takes(found: Any, name: str, asked: list[inspect.Parameter]) -> bool:
    """Whether a method can be called as its protocol is."""
    of_class = isinstance(found, type)
    method = found if name == _CALL and not of_class else getattr(found, name, None)
    try:
        signature = inspect.signature(method)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        # Of what is written in C there may be none.
        return True
    needed = [p for p in asked if p.default is p.empty]
    positional = [None for p in needed if p.kind is not p.KEYWORD_ONLY]
    named = {p.name: None for p in needed if p.kind is p.KEYWORD_ONLY}
    try:
        signature.bind(*([None] if of_class else []), *positional, **named)
    except TypeError:
        return False
    return True


def misfit(target: Any, kind: str, protocol: Any) -> str:
    """Why a target plainly makes no component of a kind, found before calling it; or empty."""
    top = (getattr(target, "__module__", None) or "").partition(".")[0]
    if top in sys.stdlib_module_names:
        what = "class" if isinstance(target, type) else "function"
        return f"is a {what} of Python itself, and no {kind}"
    made = made_by(target)
    lacks = lacking(made, protocol) if made is not None else ""
    if not lacks:
        return ""
    return f"is no {kind}: it {lacks}" if made is target else f"makes no {kind}: it {lacks}"


def made_by(target: Any) -> type | None:
    """The class of what a target makes."""
    if isinstance(target, type):
        return target
    try:
        made = inspect.get_annotations(target, eval_str=True).get("return")
    # What an annotation names need not be there, and what is written in C has none.
    except Exception:
        made = None
    owner = getattr(target, "__self__", None)
    # The class method of a base makes objects of the class that it is asked of.
    if isinstance(owner, type) and (
        made is None or (isinstance(made, type) and issubclass(owner, made))
    ):
        return owner
    return made if isinstance(made, type) and made is not type(None) else None

"""Held-out prompts: texts of which each belongs to a kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import attrs

from flowbp.validators import not_empty


class HeldOut(Protocol):
    """A prompt that knows its kind: anything with `text` and `kind`."""

    @property
    def text(self) -> str:
        """The words given to the model."""

    @property
    def kind(self) -> str:
        """The group it is counted in."""


@attrs.frozen
class HeldOutPrompt:
    """The plain `HeldOut` prompt, for lists that come from a file.

    Args:
        text: the words given to the model.
        kind: the group it is counted in.

    Example:
        >>> HeldOutPrompt("a circle").kind
        'prompts'
    """

    text: str = attrs.field(validator=not_empty)
    kind: str = attrs.field(default="prompts", validator=not_empty)


class HeldOutText(str):
    """The text of a held-out prompt, with whatever else the prompt has."""

    _prompt: HeldOut

    def __new__(cls, prompt: HeldOut) -> HeldOutText:
        """Take the prompt's text, and keep the prompt."""
        text = super().__new__(cls, prompt.text)
        text._prompt = prompt
        return text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._prompt, name)


class _OfKind(Protocol):
    @property
    def kind(self) -> str: ...


_Prompt = TypeVar("_Prompt", bound=_OfKind)


def spread(prompts: Sequence[_Prompt], count: int | None) -> tuple[_Prompt, ...]:
    """Choose prompts evenly over the list, each kind by its share of it."""
    if count is None:
        return tuple(prompts)
    if not 1 <= count <= len(prompts):
        raise ValueError(f"`count` must be in [1, {len(prompts)}], got {count}")
    order = {kind: place for place, kind in enumerate(dict.fromkeys(p.kind for p in prompts))}
    # By kind first: where kinds take turns, even spacing over the list could meet one kind only.
    by_kind = sorted(range(len(prompts)), key=lambda i: (order[prompts[i].kind], i))
    chosen = sorted(by_kind[(2 * i + 1) * len(prompts) // (2 * count)] for i in range(count))
    return tuple(prompts[i] for i in chosen)

"""Prompts as the pipelines of OpenAI's CLIP and of open_clip hand them to the tokenizer."""

from __future__ import annotations

import html

from flowbp.adapters.extras import require


def repaired(prompt: str) -> str:
    """Broken Unicode and HTML entities repaired, white space collapsed, lower case.

    ``ftfy`` repairs the Unicode, straightens quotes and takes ligatures apart. Entities are
    resolved twice, because web captions were often escaped twice.

    Args:
        prompt: Any text.

    Returns:
        The text to tokenize.

    Raises:
        ModuleNotFoundError: ftfy is not installed.

    Example:
        >>> repaired("“Fish &amp;amp;  Chips”")
        '"fish & chips"'

    Source: OpenAI CLIP, clip/simple_tokenizer.py; open_clip, tokenizer.py.
    """
    text: str = require("ftfy", extra="rewards").fix_text(prompt)
    return " ".join(html.unescape(html.unescape(text)).split()).lower()

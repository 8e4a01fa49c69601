"""The fenced blocks of documentation pages, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str) -> list[str]:
    """The code of a page's blocks of a language; the page by its path in the repository."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def write_modules(page: str, folder: Path) -> list[str]:
    """Write those Python blocks that begin with the name of a file; the names of the modules."""
    written = []
    for block in blocks(page, "python"):
        named = re.match(r"# (\w+)\.py\n", block)
        if named:
            (folder / f"{named[1]}.py").write_text(block)
            written.append(named[1])
    return written


def run_python(page: str) -> None:
    """Run the other Python blocks of a page, one after the other."""
    for block in blocks(page, "python"):
        if not re.match(r"# \w+\.py\n", block):
            exec(compile(block, page, "exec"), {"__name__": page})

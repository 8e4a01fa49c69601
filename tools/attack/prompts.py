"""Prompt files that are damaged at random: read as text that is whole, or refused by name."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

from flowbp.run import main as run_main
from tools.attack.forks import Tried, command, forked
from tools.attack.mutation import TEXTS, damaged_json, replaced_by_a_node
from tools.attack.scene import Scene

LIMIT = 30.0
TEXT = [f"{colour} {shape}" for colour in ("red", "a blue") for shape in ("circle", "square", "ü")]
FORMATS = ("txt", "csv", "jsonl", "parquet")
_UNFIT = 71
"""The exit code of a check that took what is no text."""


def attack(scene: Scene, seed: str, number: int, folder: Path) -> Tried:
    """Damage a prompt file, and check a run on it."""
    source = random.Random(f"prompts {seed} {number}")
    form = source.choice(FORMATS)
    path, held_out = folder / f"prompts.{form}", source.random() < 0.4
    path.write_bytes(_written(form, folder))
    words = f"{form}: {_damage(source, path, folder)}"
    if source.random() < 0.1:
        other = path.with_suffix(f".{source.choice(FORMATS)}")
        path, words = path.rename(other), f"{words}, called {other.name}"
    column = "" if path.suffix == ".txt" else ", column: caption"
    reading = f"{{name: text, path: {path}{column}}}"
    typed = [
        scene.run_yaml,
        f"evaluation={{prompts: {reading}}}" if held_out else f"prompts={reading}",
        f"run.folder={folder / 'out'}",
    ]

    def call() -> int:
        code = command(run_main, [*typed, "--check"])()
        return _UNFIT if code == 0 and not _all_text(typed, held_out) else code

    ended = forked(call, folder / "log", limit=LIMIT)
    said = ended.said[-2000:]
    if ended.fault or ended.code not in (0, 2, _UNFIT):
        return Tried(number, words, ended.fault or f"code {ended.code}", wrong=True, said=said)
    if ended.code == _UNFIT:
        return Tried(number, words, "taken, though it is no text", wrong=True, said=said)
    if ended.code == 2 and path.name not in ended.said:
        return Tried(number, words, "refused, unnamed", wrong=True, said=said)
    return Tried(number, words, "taken" if ended.code == 0 else "refused")


def _all_text(typed: list[str], held_out: bool) -> bool:
    """Whether all prompts are text that someone can have written."""
    from flowbp.settings import load

    settings: Any = load(typed).settings
    prompts = settings.evaluation.prompts if held_out else settings.prompts
    return not any(
        (ord(sign) < 32 and sign not in "\t\n\r") or 0xD800 <= ord(sign) < 0xE000
        for entry in prompts.table.prompts
        for sign in entry.text
    )


def _written(form: str, folder: Path) -> bytes:
    if form == "txt":
        return "".join(f"{each}\n" for each in TEXT).encode()
    if form == "jsonl":
        return "".join(json.dumps({"caption": each, "n": 1}) + "\n" for each in TEXT).encode()
    if form == "csv":
        stream = io.StringIO()
        csv.writer(stream).writerows([["n", "caption"], *([1, each] for each in TEXT)])
        return stream.getvalue().encode()
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"caption": TEXT, "n": [1] * len(TEXT)})
    parquet.write_table(table, folder / "table")
    return (folder / "table").read_bytes()


def _damage(source: random.Random, path: Path, folder: Path) -> str:
    content = path.read_bytes()
    kind = source.choice(["bytes", "bytes", "bytes", "json", "node", "long line"])
    if kind == "json" and (changed := damaged_json(source, content)) is not None:
        path.write_bytes(changed)
        return "a value of its JSON"
    if kind == "node":
        return replaced_by_a_node(source, path, folder / "elsewhere")
    if kind == "long line":
        path.write_bytes(content + b"a" * 10**7)
        return "a line of 10 MB"
    name = source.choice(list(TEXTS))
    path.write_bytes(TEXTS[name](source, content))
    return name

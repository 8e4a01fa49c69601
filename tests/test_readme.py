"""What the README promises holds: its commands, its code and its links."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.M | re.S)


def test_the_quickstart_is_two_commands_each_with_its_own_installation():
    section = README.split("## Quickstart")[1].split("\n## ")[0]
    run, test = blocks("bash", section)
    for command in (run, test):
        assert "python3 -m venv" in command and "pip install" in command
        assert "-c constraints.txt" in command
    assert run.splitlines()[-1] == "python -m flowbp.run container.yaml"
    assert test.splitlines()[-1] == "pytest -n auto --maxprocesses 4 --dist worksteal"


def test_the_trainer_example_runs_and_learns():
    (example,) = blocks("python")
    torch.manual_seed(0)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["loss"].item() < 0.2, "the reward starts near -3.5 and should come close to 0"


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    assert len(links) >= 3 or page.name != "README.md"
    for link in links:
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_method_is_in_the_table():
    from flowbp.core import methods

    concrete = {"ReFL", "DRaFTLV", "DRTune", "LeapAlign", "Sparse", "Bridge", "Lagrange"}
    assert concrete <= set(vars(methods))
    for name in (*concrete, "DRaFT(last=K)"):
        assert f"| `{name}` |" in README, name


def test_dotted_names_exist():
    for name in re.findall(r"`(flowbp(?:\.\w+)+)`", README):
        if name.split(".")[1] in {"backbones", "rewards", "methods"}:
            continue  # entry point groups
        *parents, last = name.split(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(".".join(parents)), last), name


def test_each_concept_has_one_word_in_the_documentation():
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    rows = [line.strip("| ").split("|") for line in glossary.splitlines() if line.startswith("| ")]
    banned = {word.strip() for row in rows[2:] if len(row) == 3 for word in row[2].split(",")}
    assert {"plan", "figure", "evaluator"} <= banned
    for page in PAGES:
        if page.name == "glossary.md":
            continue
        text = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", page.read_text(), flags=re.S)
        for word in banned:
            found = re.search(rf"\b{word}s?\b", text, flags=re.I)
            assert not found, (
                f"{page.name} says {found[0]!r}, which docs/glossary.md has a word for"
            )

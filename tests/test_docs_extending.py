"""What the pages on extending show runs, passes its check, and can be named in a YAML."""

from __future__ import annotations

import re
import sys

import pytest

from flowbp import run
from flowbp.settings import REGISTRIES, Settings
from flowbp.settings.key_reference import look_up

from .pages import ROOT, blocks, run_python, write_modules

PAGES = [
    f"docs/extending/{name}.md"
    for name in ("method", "reward", "metric", "observer", "optimizer", "backbone")
]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """The modules of all pages, in a folder from which they are imported."""
    written = [name for page in PAGES for name in write_modules(page, tmp_path)]
    monkeypatch.syspath_prepend(tmp_path)
    yield written
    for name in written:
        # Another test's module of this name is another module.
        sys.modules.pop(name, None)


def test_there_is_a_page_for_each(modules):
    assert sorted(modules) == [
        f"my_{each}s" for each in sorted(re.findall(r"(\w+)\.md", f"{PAGES}"))
    ]
    assert {path.name for path in (ROOT / "docs/extending").glob("*.md")} == {
        "index.md",
        *(page.rpartition("/")[2] for page in PAGES),
    }


@pytest.mark.parametrize("page", [*PAGES, "docs/extending/index.md"])
def test_what_a_page_shows_runs(modules, page):
    run_python(page)


def test_all_of_them_are_checked_as_the_parts_of_a_run(modules, tmp_path, capsys):
    overlays = []
    for page in PAGES:
        (shown,) = blocks(page, "yaml")
        overlays.append(tmp_path / f"{page.rpartition('/')[2]}.yaml")
        overlays[-1].write_text(shown)
    arguments = ["container.yaml", *map(str, overlays), f"run.folder={tmp_path / 'run'}", "--check"]
    assert run.main(arguments) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    for name in ("EveryOther", "Colour", "contrast", "Momentum", "Blobs"):
        assert name in out, out


@pytest.mark.parametrize(
    "words",
    [
        ["method", "my_methods:EveryOther"],
        ["reward", "my_rewards:Colour"],
        ["metric", "my_metrics:Contrast"],
        ["observer", "my_observers:RewardTable"],
        ["optimizer", "my_optimizers:Momentum"],
        ["schedule", "my_optimizers:Waves"],
        ["backbone", "my_backbones:Blobs"],
    ],
    ids=lambda words: words[0],
)
def test_their_keys_are_shown(modules, words):
    (entry,) = look_up(words, Settings)
    assert entry.keys and all(key.text for key in entry.keys)


def test_every_group_of_entry_points_is_named():
    page = (ROOT / "docs/extending/index.md").read_text()
    for registry in REGISTRIES:
        assert f"`{registry.entry_points}`" in page, registry.kind

from __future__ import annotations

import base64
import io
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowbp.evaluation import Report, environment, render, write_report

from .samples import comparison, metrics

COUNT = 30
REWARDS = [(0.5, 0.5 + 0.01 * (i - 9)) for i in range(COUNT)]
VERDICTS = [(i % 3 == 0, i % 4 != 0) for i in range(COUNT)]
PROMPTS = ["<script>alert('x')</script>", 'a "red" circle & more', "two squares"]
VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and holds every opened tag against its end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def report(judged: bool = True, side: int = 16, **changes: object) -> Report:
    pictures = torch.rand(2, COUNT, 3, side, side, generator=torch.Generator().manual_seed(0))
    return Report(
        **{
            "title": "Shapes & <b>Bridge</b>",
            "subtitle": "150 steps",
            "comparison": comparison(
                REWARDS,
                VERDICTS if judged else None,
                kinds=["two_object", "counting"],
                prompts=PROMPTS,
            ),
            "before": pictures[0],
            "after": pictures[1],
            "metrics": metrics(40),
            "configuration": "reward: {source: 'https://example.org/<model>'}",
            "timings": {"training": 112.4, "one step": 0.734},
            "environment": environment(torch.device("cpu"), 11),
            **changes,
        }
    )


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("side", [16, 160])
def test_the_page_is_well_formed_and_loads_nothing(judged: bool, side: int) -> None:
    text = render(report(judged, side))
    page = Page(text)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "base", "use", "image"})
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "xlink:href", "action", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style
    policies = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


@pytest.mark.parametrize("side", [16, 160])
def test_every_picture_decodes_and_has_a_text(side: int) -> None:
    images = Page(render(report(side=side))).named("img")
    assert len(images) == 2 * (8 + 4 + 8)
    for image in images:
        content = base64.b64decode(image["src"].partition("base64,")[2], validate=True)
        picture = Image.open(io.BytesIO(content))
        picture.load()
        assert picture.size == (side, side)
        assert image["alt"].partition(" training: ")[2] in PROMPTS


def test_prompts_title_and_configuration_are_escaped() -> None:
    text = render(report())
    page = Page(text)
    assert "<script" not in text and "<b>Bridge" not in text and "<model>" not in text
    words = "".join(page.text)
    assert PROMPTS[0] in words and PROMPTS[1] in words
    assert "https://example.org/<model>" in words
    assert "Shapes & <b>Bridge</b>" in words


def test_the_page_says_the_figures() -> None:
    words = " ".join("".join(Page(render(report())).text).split())
    passed_before, passed_after = (sum(v[i] for v in VERDICTS) for i in (0, 1))
    assert f"{100 * passed_before / COUNT:.1f} → {100 * passed_after / COUNT:.1f} %" in words
    assert "0.500 → 0.555" in words
    assert "Of 30 prompts 15 newly pass" in words
    for heading in ("Largest gains", "Largest losses", "An even sample", "Training", "Timings"):
        assert heading in words
    assert "1 min 52 s" in words and "0.734 s" in words
    assert "two object" in words and "✓ pass" in words and "✗ fail" in words


def test_without_a_judge_there_is_no_word_of_accuracy() -> None:
    words = "".join(Page(render(report(judged=False))).text)
    assert "Accuracy" not in words and "✓" not in words and "newly" not in words


def test_parts_that_were_not_given_are_left_out() -> None:
    bare = report(metrics=(), configuration="", timings={}, environment={}, subtitle="")
    words = "".join(Page(render(bare)).text)
    for heading in ("Training", "Configuration", "Timings", "Environment"):
        assert heading not in words


def test_writing_replaces_the_file_whole_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "report.html"
    write_report(path, report())
    assert path.read_text("utf-8") == render(report())
    write_report(path, report(title="Again"))
    assert "<title>Again</title>" in path.read_text("utf-8")
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failed_write_leaves_the_old_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def refuse(source: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(OSError, match="no space"):
        write_report(path, report())
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_pictures_must_belong_to_the_records() -> None:
    with pytest.raises(ValueError, match=r"`after` .* shape \(30, 3, H, W\), got \(29, 3, 8, 8\)"):
        report(after=torch.zeros(29, 3, 8, 8))
    with pytest.raises(ValueError, match="`title` must not be empty"):
        report(title="")


def test_environment_names_missing_packages() -> None:
    facts = environment(torch.device("cpu"), 7, packages=["torch", "no-such-package-here"])
    assert facts["torch"] == torch.__version__
    assert facts["no-such-package-here"] == "not installed"
    assert facts["threads"] == str(torch.get_num_threads())

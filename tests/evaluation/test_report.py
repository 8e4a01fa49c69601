from __future__ import annotations

import base64
import hashlib
import io
import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowbp.evaluation import Scores, environment, render, write_report

from .pages import COUNT, HACKED, PROMPTS, VERDICTS, page_of, report
from .samples import comparison

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


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("side", [16, 160])
def test_the_page_is_well_formed_and_loads_nothing(judged: bool, side: int) -> None:
    text = render(report(judged, side))
    page = Page(text)
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"link", "iframe", "object", "embed", "base", "use", "image"})
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "xlink:href", "action", "poster", "data"):
            assert (attributes.get(name) or "data:").startswith("data:")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_only_the_own_script_may_run() -> None:
    text = page_of("several")
    script = text.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page = Page(text)
    assert page.open == []
    policies = [m["content"] for m in page.named("meta") if "http-equiv" in m]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    ]
    # A label with the end of a script in it stays inside the data.
    assert [each.get("type") for each in page.named("script")] == ["application/json", None]
    assert "http" not in script and "eval" not in script


@pytest.mark.parametrize("side", [16, 160])
def test_every_picture_decodes_and_has_a_text(side: int) -> None:
    text = render(report(side=side))
    images = Page(text).named("img")
    shown = text.partition('<template id="besides">')[0].count("<img")
    assert shown == 2 * (8 + 4 + 8) and len(images) >= shown
    for image in images:
        content = base64.b64decode(image["src"].partition("base64,")[2], validate=True)
        picture = Image.open(io.BytesIO(content))
        picture.load()
        assert picture.size == (side, side)
        assert image["alt"].partition(": ")[2] in PROMPTS


def test_prompts_title_and_configuration_are_escaped() -> None:
    text = render(report())
    page = Page(text)
    assert "<script>alert" not in text and "<b>Bridge" not in text and "<model>" not in text
    words = "".join(page.text)
    assert PROMPTS[0] in words and PROMPTS[1] in words
    assert "https://example.org/<model>" in words
    assert "Shapes & <b>Bridge</b>" in words


def test_the_page_says_the_figures() -> None:
    words = " ".join("".join(Page(render(report())).text).split())
    passed_before, passed_after = (sum(v[i] for v in VERDICTS) for i in (0, 1))
    assert f"{100 * passed_before / COUNT:.1f} % → {100 * passed_after / COUNT:.1f} %" in words
    assert "there are 30 prompts and 30 pictures of each model" in words
    assert "0.500 → 0.555" in words and "reward trained on" in words
    assert "p ≤ 0.05 after Holm's correction for the 2 comparisons of the table" in words
    for heading in ("Largest gains", "Largest losses", "An even sample", "Training", "Timings"):
        assert heading in words
    assert "1 min 52 s" in words and "0.734 s" in words
    assert "two object" in words and "✓ pass" in words and "✗ fail" in words


def test_without_a_judge_there_is_no_word_of_accuracy() -> None:
    page = render(report(judged=False, held_out=()))
    words = "".join(Page(page.partition("<script>")[0]).text)
    assert "accuracy" not in words and "✓" not in words


def test_parts_that_were_not_given_are_left_out() -> None:
    bare = report(
        metrics=(), held_out=(), configuration="", timings={}, environment={}, subtitle=""
    )
    words = "".join(Page(render(bare)).text)
    for heading in ("Training", "Configuration", "Timings", "Environment", "Held out"):
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


def test_reports_that_cannot_be_are_refused() -> None:
    scores = comparison([(0.1, 0.2)]).scores
    with pytest.raises(ValueError, match="`scores` must have the base and at least one more"):
        report(scores=Scores(scores.rows[:1]))
    for trained in ({"after": ["hps"]}, {"hps": ["reward"]}):
        with pytest.raises(ValueError, match="columns reward, got 'hps'"):
            report(scores=scores, trained=trained)
    with pytest.raises(ValueError, match="`title` must not be empty"):
        report(title="")


def test_a_divergence_is_warned_of() -> None:
    assert "From step 30 on the reward rose while accuracy fell" in render(report())
    assert 'class="warning"' not in render(report(held_out=HACKED[:3]))
    # What has no numbers of its prompts is drawn, and not warned of.
    assert 'class="warning"' not in render(report(held_out_each=()))
    with pytest.raises(ValueError, match="`held_out_each` must be as many as the 5 of `held_out`"):
        report(held_out_each=[{}])
    words = "".join(Page(page_of("several")).text)
    assert (
        "aligned: hpsv2, which was trained on, is better, and image_reward is down by 1." in words
    )


def test_environment_names_missing_packages() -> None:
    facts = environment(torch.device("cpu"), 7, packages=["torch", "no-such-package-here"])
    # A build for a device has a local part besides.
    assert facts["torch"] and torch.__version__.startswith(facts["torch"])
    assert facts["no-such-package-here"] == "not installed"
    assert facts["threads"] == str(torch.get_num_threads())

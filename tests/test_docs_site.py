"""The site is built without a warning, and the pages on Python run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .pages import ROOT, blocks, run_python


def test_the_site_is_built_strictly(tmp_path):
    """Links and anchors lead somewhere, docstrings are well formed, each page is in a menu."""
    # In a process of its own, because it changes what modules and docutils look like.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr

    def page(name: str) -> str:
        text = (tmp_path / f"{name}.html").read_text(encoding="utf-8")
        return re.sub(r"<[^>]*>", "", text).replace("&#39;", "'").replace("&quot;", '"')

    for source in (ROOT / "docs").rglob("*.md"):
        assert (tmp_path / source.relative_to(ROOT / "docs")).with_suffix(".html").exists(), source
    assert "Largest norm of all gradients together" in page("keys/run")
    assert "300 in flux1_dev" in page("keys/run")
    assert "methods.LABEL" not in page("keys/run") and "ascent.draws" in page("keys/study")
    assert "method.alpha" in page("keys/components")
    assert "usage: python -m flowbp.evaluate" in page("commands")
    core = page("api/core")
    assert "class Bridge(active: int = 5, late_bias: float = 2.0" in core
    assert "pair: PairDraw = UniformPair()" in core
    assert " at 0x" not in core and "/.cache" not in page("keys/run").replace("~/.cache", "")


def test_a_run_from_python(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    run_python("docs/python.md")
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "package"), [(0, "accelerate"), (1, "lightning")])
def test_the_core_in_the_loop_of_a_framework(number, package):
    pytest.importorskip(package)
    exec(compile(blocks("docs/embedding.md", "python")[number], "embedding.md", "exec"), {})

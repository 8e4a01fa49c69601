"""Rewards for quoted text: what counts as quoted, where it is read, values, gradients, refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional as F

from flowbp.adapters import DtypePolicy
from flowbp.evaluation import HeldOutPrompt
from flowbp.rewards.words import EasyOCR, quoted_text
from flowbp.rewards.words.easyocr import CHARACTERS, collapsed, load_model

from . import tiny_words
from .rendered_words import WORDS, asking, drawn
from .tiny_words import SIZE, easyocr, trocr

FLOAT64 = DtypePolicy(torch.float64, torch.float64)
PROMPTS = ['a sign "ab"', 'the word "Hello"', "two “words here”"]


@pytest.fixture(scope="module")
def installed():
    pytest.importorskip("easyocr_en_models", reason="needs the extra words")
    return EasyOCR()


@pytest.fixture
def pictures():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, 24, 60, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('says "OPEN"', "OPEN"),
        ("says “two  words”", "two words"),
        ('"one" over "two"', "one two"),
        ("says „so“ und «ainsi»", "so ainsi"),
        ('a 5" disc', ""),
        ("the dogs' bowl isn't 'here'", ""),
        ('nothing in ""', ""),
        ('only " " space', ""),
    ],
)
def test_what_a_prompt_quotes(prompt, text):
    assert quoted_text(prompt) == text


def test_the_published_recogniser_reads_words_and_prefers_each_to_all_others(installed):
    scores = torch.stack(
        [installed(drawn(word).expand(len(WORDS), -1, -1, -1), asking()) for word in WORDS]
    )
    assert [installed.read(drawn(word)[None]) for word in WORDS] == [[word] for word in WORDS]
    assert (scores <= 0).all()
    assert (scores.diagonal() > -0.05).all()
    assert (scores - torch.diag(torch.full((len(WORDS),), torch.inf)) < -1).all()


def test_the_published_recogniser_tells_cases_apart(installed):
    open_, upper = drawn("open")[None], drawn("OPEN")[None]
    assert installed(open_, ['"open"']) > installed(open_, ['"OPEN"']) + 1
    assert installed(upper, ['"OPEN"']) > installed(upper, ['"open"']) + 1


def test_the_published_recognisers_gradient_is_that_of_finite_differences(installed):
    reward = EasyOCR(policy=FLOAT64)
    generator = torch.Generator().manual_seed(3)
    # Noise: where neighbours are equal, pooling bends, and there is no derivative.
    x = torch.rand(2, 3, 64, 128, generator=generator, dtype=torch.float64).requires_grad_()
    reward(x, PROMPTS[:2]).sum().backward()
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        up, down = (reward(x + h * direction, PROMPTS[:2]).sum() for h in (1e-8, -1e-8))
    assert (x.grad * direction).sum().item() == pytest.approx((up - down).item() / 2e-8, rel=1e-3)


def test_scores_sum_over_all_alignments(tmp_path, monkeypatch):
    """CTC by its definition: every path of classes that collapses to the text."""
    reward = easyocr(tmp_path / "random.pth", policy=FLOAT64)
    steps, text = 5, "aab"
    classes = [0, *(CHARACTERS.index(c) + 1 for c in "abc")]
    logits = torch.randn(1, steps, 97, generator=torch.Generator().manual_seed(0)).double()
    kept = torch.full((97,), -torch.inf, dtype=torch.float64)
    kept[classes] = 0.0
    log_p = (logits + kept).log_softmax(-1)
    monkeypatch.setattr(EasyOCR, "log_probabilities", lambda self, crops: log_p)
    paths = itertools.product(classes, repeat=steps)
    total = sum(
        log_p[0, range(steps), path].sum().exp() for path in paths if collapsed(path) == text
    )
    score = reward(torch.rand(1, 3, 8, 8), [f'"{text}"'])
    assert score.item() == pytest.approx(total.log().item() / 3, rel=1e-12)


def test_its_preparation_is_grey_high_64_and_padded_by_its_edge(tmp_path, pictures):
    reward = easyocr(tmp_path / "random.pth", policy=FLOAT64)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    grey = (pictures * luma[:, None, None]).sum(1, keepdim=True)
    line = F.interpolate(grey, (64, 160), mode="bicubic", align_corners=False, antialias=True)
    line = torch.cat([line, line[..., -1:].expand(-1, -1, -1, 32)], -1)
    expected = reward.model(2 * line - 1).log_softmax(-1)
    assert torch.allclose(reward.log_probabilities(pictures), expected, rtol=0, atol=1e-9)


def published_trocr(reward, pictures, texts):
    """Teacher forcing as transformers does it, one picture at a time."""
    size = (SIZE, SIZE)
    pixels = F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)
    scores = []
    for each, text in zip(2 * pixels - 1, texts, strict=True):
        ids = reward.text_tokenizer.convert_tokens_to_ids([*text, "</s>"])
        found = reward.model(
            pixel_values=each[None],
            labels=torch.tensor([ids]),
            decoder_input_ids=torch.tensor([[2, *ids[:-1]]]),
        )
        scores.append(-found.loss * len(ids) / len(text))
    return torch.stack(scores)


def test_trocr_scores_as_transformers_loss_does(tmp_path, pictures):
    reward = trocr(tmp_path, policy=FLOAT64)
    expected = published_trocr(reward, pictures, ["ab", "Hello", "words here"])
    # transformers computes its loss in float32.
    scores = reward(pictures, PROMPTS)
    assert torch.allclose(scores, expected.double(), rtol=1e-5)
    assert scores.std() > 0.01


@pytest.mark.parametrize("build", [easyocr, trocr])
def test_the_gradient_in_a_region_is_that_of_finite_differences(build, tmp_path, pictures):
    reward = build(tmp_path / "random", policy=FLOAT64, region=(0.1, 0.2, 0.9, 0.9))
    x = pictures.clone().requires_grad_()
    reward(x, PROMPTS).sum().backward()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        up, down = (reward(x + h * direction, PROMPTS).sum() for h in (1e-8, -1e-8))
    assert (x.grad * direction).sum().item() == pytest.approx((up - down).item() / 2e-8, rel=1e-3)
    outside = x.grad.clone()
    outside[:, :, 4:22, 6:54] = 0
    assert not outside.any()


@pytest.mark.parametrize("build", [easyocr, trocr])
def test_each_prompt_may_have_its_own_region(build, tmp_path, pictures):
    regions = {PROMPTS[1]: [0.5, 0.0, 1.0, 0.5]}
    reward = build(tmp_path / "own", policy=FLOAT64, regions=regions)
    scores = reward(pictures, PROMPTS)
    whole = build(tmp_path / "whole", policy=FLOAT64)
    assert torch.allclose(scores[[0, 2]], whole(pictures[[0, 2]], [PROMPTS[0], PROMPTS[2]]))
    part = whole(pictures[1:2, :, :12, 30:], PROMPTS[1:2])
    assert torch.allclose(scores[1:2], part)


def test_a_prompt_without_quotes_is_refused_or_gets_its_score_without_gradient(tmp_path, pictures):
    path, prompts = tmp_path / "random.pth", [PROMPTS[0], "a cat", PROMPTS[2]]
    with pytest.raises(ValueError, match=r"double quotes, got 'a cat'; .*or give `unquoted`"):
        easyocr(path)(pictures, prompts)
    reward = easyocr(path, unquoted=-1.5, policy=FLOAT64)
    x = pictures.clone().requires_grad_()
    scores = reward(x, prompts)
    assert scores[1] == -1.5
    scores.sum().backward()
    assert not x.grad[1].any() and x.grad[0].any() and x.grad[2].any()
    assert torch.equal(reward(x[:1], ["a cat"]), torch.tensor([-1.5]).double())


def test_texts_that_cannot_be_read_are_refused(tmp_path, pictures):
    reward = easyocr(tmp_path / "random.pth")
    with pytest.raises(ValueError, match=r"'a \"café\"': EasyOCR.*not know 'é'"):
        reward(pictures, ['a "café"', *PROMPTS[1:]])
    with pytest.raises(ValueError, match=r"`region` must have room for 'far too.*24 by 24 pixels"):
        reward(pictures[:1, :, :, :24], ['"far too long for this"'])
    model = trocr(tmp_path / "trocr")
    with pytest.raises(ValueError, match="does not know some of its characters"):
        model(pictures[:1], ['"1"'])
    with pytest.raises(ValueError, match="has 21 tokens, and the model reads at most 16"):
        model(pictures[:1], [f'"{"a" * 20}"'])


def test_what_prompts_it_cannot_score_is_known_before_it_is_built():
    def asked(*texts, unquoted=None):
        return EasyOCR.why_unsuitable([HeldOutPrompt(text) for text in texts], unquoted)

    assert asked('"ok"') == "" and asked("no", unquoted=0.0) == ""
    assert "1 of 2 prompts quote nothing, the first being 'no'" in asked('"ok"', "no")
    assert "cannot read what '\"né\"' quotes" in asked('"né"', unquoted=0.0)


@pytest.mark.parametrize("region", [[0, 1, 1, 0.5], [0, 0, 1], [0, 0, 1, 1.5], ["a", 0, 1, 1], 3])
def test_a_region_is_refused_with_its_meaning(region):
    with pytest.raises(ValueError, match=r"`region` must be \[left, top, right, bottom\]"):
        EasyOCR(region=region)
    with pytest.raises(ValueError, match=r"`regions` of 'a' must be \[left, top"):
        EasyOCR(regions={"a": region})


def test_another_file_is_refused(tmp_path):
    path = tiny_words.save_easyocr(tmp_path / "english_g2.pth")
    with pytest.raises(ValueError, match=r"english_g2\.pth.*verify=false"):
        EasyOCR(source=path)
    state = torch.load(path, weights_only=True)
    del state["module.Prediction.bias"]
    torch.save(state, path)
    with pytest.raises(ValueError, match=r"lacks Prediction\.bias"):
        load_model(path)


def test_the_missing_package_is_named_before_anything_is_built(monkeypatch):
    monkeypatch.setattr("flowbp.extras.find_spec", lambda module: None)
    (need,) = EasyOCR.needs(None, True)
    with pytest.raises(ModuleNotFoundError, match=r'`easyocr_en_models`.*"flowbp-align\[words\]"'):
        need.check()


def test_what_is_read_from_the_package_is_listed(installed):
    (need,) = EasyOCR.needs(None, True)
    need.check()
    assert need.location().endswith("models/english_g2.pth (here, 15.1 MB)")


def test_another_model_than_trocr_is_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="must hold a VisionEncoderDecoderModel, got model_type"):
        tiny_words.TrOCR(source=folder)


def test_bfloat16_is_near(tmp_path, pictures):
    policy = DtypePolicy(torch.bfloat16, torch.bfloat16)
    for build in (easyocr, trocr):
        exact = build(tmp_path / build.__name__)(pictures.float(), PROMPTS)
        scores = build(tmp_path / build.__name__, policy=policy)(pictures.float(), PROMPTS)
        assert scores.dtype == torch.float32
        assert (scores - exact).abs().max() < 0.3

"""ImageReward: the published mathematics, keys and preprocessing, and what a wrong file says."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch.nn import functional as F

from flowbp.adapters import DtypePolicy
from flowbp.rewards import BLIP_LARGE, Towers, image_reward
from flowbp.rewards.image_reward import MAX_TOKENS
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD

from . import blip_original
from .tiny_image_reward import FLOAT64, load, save

PROMPTS = ["bad cab", "a bead", "fed a hag: beef " * 20]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save(tmp_path_factory.mktemp("image_reward"))


@pytest.fixture
def pictures():
    size = blip_original.SIZE
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))


def published(pictures, prompts, tokenizer, dtype):
    """The original's score, from pictures to number, in plain torch."""
    mean, std = (torch.tensor(v, dtype=dtype)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    batch = tokenizer(
        prompts, padding="max_length", max_length=35, truncation=True, return_tensors="pt"
    )
    state = {key: value.to(dtype) for key, value in blip_original.random_state().items()}
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    pixels = (pictures.to(dtype) - mean) / std
    return blip_original.score(state, pixels, batch.input_ids, batch.attention_mask)


def test_it_scores_as_the_original_does(path, pictures):
    reward = load(path)
    expected = published(pictures, PROMPTS, reward.bert_tokenizer, torch.float32)
    scores = reward(pictures, PROMPTS)
    assert (scores - expected).abs().max() <= 1e-5
    assert scores.std() > 0.01


def test_the_centre_is_cut_out_where_torchvision_cuts_it(path):
    reward, size = load(path), blip_original.SIZE
    tall = torch.rand(3, 3, size + 3, size, generator=torch.Generator().manual_seed(0))
    assert torch.equal(reward(tall, PROMPTS), reward(tall[:, :, 2 : size + 2], PROMPTS))


def test_its_gradient_is_the_originals(path, pictures):
    reward = load(path, policy=FLOAT64)
    x, y = (pictures.double().requires_grad_() for _ in range(2))
    reward(x, PROMPTS).sum().backward()
    published(y, PROMPTS, reward.bert_tokenizer, torch.float64).sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=1e-9, atol=1e-12)


def test_its_gradient_is_that_of_finite_differences(path, pictures):
    reward = load(path, policy=FLOAT64)
    x = F.interpolate(pictures.double(), size=(40, 48)).requires_grad_()
    reward(x, PROMPTS).sum().backward()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    with torch.no_grad():
        up, down = (reward(x + h * direction, PROMPTS).sum() for h in (1e-5, -1e-5))
    assert (x.grad * direction).sum().item() == pytest.approx((up - down).item() / 2e-5, rel=1e-6)


def test_a_prompt_is_read_once_and_cut_at_35_tokens(path, pictures):
    reward = load(path)
    reward(pictures, PROMPTS)
    assert {len(ids) for ids, _ in reward._tokens.values()} == {MAX_TOKENS}
    calls = []
    object.__setattr__(reward, "bert_tokenizer", lambda *given, **_: calls.append(given))
    reward(pictures, PROMPTS)
    assert not calls


def test_bfloat16_keeps_the_head_in_float32(path, pictures):
    exact, policy = load(path), DtypePolicy(torch.bfloat16, torch.bfloat16)
    reward = load(path, policy=policy)
    assert {p.dtype for p in reward.model.head.parameters()} == {torch.float32}
    assert {p.dtype for p in reward.model.vision.parameters()} == {torch.bfloat16}
    scores = reward(pictures, PROMPTS)
    assert scores.dtype == torch.float32
    assert (scores - exact(pictures, PROMPTS)).abs().max() < 0.2


def test_autocast_of_the_caller_does_not_leak_in(path, pictures):
    reward = load(path)
    outside = reward(pictures, PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(reward(pictures, PROMPTS), outside)


def test_nothing_of_it_is_trained(path):
    reward = load(path)
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())
    assert not any(module.training for module in reward.model.modules())


def test_the_real_model_has_the_published_keys_and_shapes():
    with torch.device("meta"):
        own = image_reward.build_model().state_dict()
    mapped = {}
    for key, shape in _published_shapes().items():
        if (new := image_reward.rename(key)) is not None:
            mapped[new] = shape
    assert mapped == {key: tuple(tensor.shape) for key, tensor in own.items()}


def _published_shapes():
    """The published file's keys and shapes, written out from the tiny file's pattern."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in dict(
            WIDTH=1024, TEXT_WIDTH=768, LAYERS=24, PATCH=16, SIZE=224, WORDS=30524
        ).items():
            patch.setattr(blip_original, name, value)
        shapes = blip_original.shapes()
    shapes["blip.text_encoder.embeddings.position_embeddings.weight"] = (512, 768)
    beyond = tuple(f"blip.text_encoder.encoder.layer.{i}." for i in range(12, 24))
    return {key: shape for key, shape in shapes.items() if not key.startswith(beyond)}


def test_a_folder_is_as_good_as_the_file(path, pictures):
    folder = load(path.parent)
    assert torch.equal(folder(pictures, PROMPTS), load(path)(pictures, PROMPTS))


def test_a_missing_key_is_named_with_its_file(tmp_path):
    path = save(tmp_path)
    state = torch.load(path, weights_only=True)
    del state["blip.visual_encoder.blocks.1.attn.qkv.bias"]
    torch.save(state, path)
    expected = (
        r"ImageReward\.pt does not hold.*lacks vision\.encoder\.layers\.1\.self_attn\.qkv\.bias"
    )
    with pytest.raises(ValueError, match=expected):
        load(path)


def test_the_tiny_file_does_not_fit_the_real_model(path):
    with pytest.raises(ValueError, match=r"ImageReward\.pt does not hold ImageReward: it lacks"):
        load(path, sizes=BLIP_LARGE)


def test_a_file_that_is_not_the_published_one_is_refused(path):
    with pytest.raises(ValueError, match=r"ImageReward\.pt has .* bytes .*it was cut off"):
        load(path, verify=True)


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, keep):
    path = save(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=r"ImageReward\.pt is damaged"):
        load(path)


def test_a_pickle_with_code_in_it_is_refused(tmp_path):
    path = save(tmp_path)
    path.write_bytes(pickle.dumps({"blip": _Surprise()}, protocol=2))
    with pytest.raises(ValueError, match=r"ImageReward\.pt cannot be read as weights alone"):
        load(path)
    assert not _Surprise.unpacked


class _Surprise:
    unpacked = False

    def __reduce__(self):
        return _Surprise.spring, ()

    @staticmethod
    def spring():
        _Surprise.unpacked = True


def test_no_such_file_and_no_such_tokenizer(path, tmp_path):
    with pytest.raises(ValueError, match=r"`source` .* must hold ImageReward\.pt"):
        load(tmp_path, tokenizer=path.parent)
    with pytest.raises(ValueError, match=r"`tokenizer` must be a folder .*no such path"):
        load(path, tokenizer=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"`tokenizer` .* holds neither"):
        (tmp_path / "empty").mkdir()
        load(path, tokenizer=tmp_path / "empty")


def test_portions_change_the_memory_and_neither_score_nor_gradient(path, pictures):
    whole, portions = load(path), load(path, batch=2)
    x, y = (pictures.clone().requires_grad_() for _ in range(2))
    expected, found = whole(x, PROMPTS), portions(y, PROMPTS)
    assert torch.allclose(found, expected, atol=1e-5)
    expected.sum().backward()
    found.sum().backward()
    assert torch.allclose(y.grad, x.grad, rtol=1e-3, atol=1e-6)


def test_a_judge_of_the_same_file_shares_the_model(path):
    towers = Towers()
    assert load(path, towers=towers).model is load(path.parent, towers=towers).model


def test_pictures_and_prompts_must_be_as_many(path, pictures):
    with pytest.raises(ValueError, match="a sequence of 3 strings"):
        load(path)(pictures, ["a"])

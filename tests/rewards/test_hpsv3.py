"""HPSv3: the published read-out, keys and positions, its gradient, and what a wrong file says."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers.models.qwen2_vl import modeling_qwen2_vl

from flowbp.adapters import DtypePolicy
from flowbp.adapters.dtype_policy import FLOAT32
from flowbp.rewards import QWEN2_VL_7B, Towers, hpsv3_model
from flowbp.rewards.hpsv3 import REWARD_TOKEN, Conversation
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise, patches

from .test_hpsv3_conversation import PUBLISHED
from .tiny_hpsv3 import (
    PICTURE,
    PIXELS,
    TEMPLATE,
    Original,
    configuration,
    load,
    original,
    qwen_tokenizer,
    save,
)

PROMPTS = ["a red cat", "two dots on a box of many colours", "é"]
FLOAT64 = DtypePolicy(torch.float64, torch.float64)
SHORT = "Rate {prompt}: "


@pytest.fixture(scope="module")
def published():
    return original()


@pytest.fixture(scope="module")
def path(published, tmp_path_factory):
    return save(tmp_path_factory.mktemp("hpsv3"), published)


@pytest.fixture
def load_tiny(path):
    def loaded(source=path, policy=FLOAT32, **settings):
        return load(source, tokenizer=path.parent, policy=policy, **settings)

    return loaded


@pytest.fixture
def pictures():
    return torch.rand(3, 3, 56, 84, generator=torch.Generator().manual_seed(0))


def score_as_published(model, pictures, prompts):
    """The whole conversation, padded at the end, through the original's forward pass."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([REWARD_TOKEN], special_tokens=True)
    tokens = pictures.shape[-2] * pictures.shape[-1] // 28**2
    rows = []
    for prompt in prompts:
        text = PUBLISHED.replace("{text}", TEMPLATE.replace("{prompt}", prompt))
        ids = tokenizer(text).input_ids
        at = ids.index(PICTURE)
        rows.append(torch.tensor([*ids[:at], *[PICTURE] * tokens, *ids[at + 1 :]]))
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    ids = pad_sequence(rows, batch_first=True, padding_value=end)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    pixels = normalise(pictures, CLIP_MEAN, CLIP_STD)
    grid = torch.tensor([[1, *(side // 14 for side in pictures.shape[-2:])]] * len(prompts))
    return model.score(ids, mask, patches(pixels, patch=14, merge=2, frames=2), grid)


def test_it_scores_as_the_original_does(published, load_tiny, pictures):
    expected = score_as_published(published, pictures, PROMPTS)
    scores = load_tiny()(pictures, PROMPTS)
    assert scores.dtype == torch.float32
    assert (scores - expected).abs().max() <= 1e-5
    assert scores.std() > 0.01


def test_its_gradient_is_the_originals(published, load_tiny, pictures):
    x, y = (pictures.clone().requires_grad_() for _ in range(2))
    load_tiny()(x, PROMPTS).sum().backward()
    score_as_published(published, y, PROMPTS).sum().backward()
    assert (x.grad - y.grad).norm() <= 1e-5 * y.grad.norm()


def test_the_picture_counts_in_line_with_the_words(published, pictures, monkeypatch):
    # With Qwen2-VL's own positions, in three directions, the score is another one.
    in_line = score_as_published(published, pictures, PROMPTS)
    language = published.model.language_model
    real, start = language.forward, len(Conversation(qwen_tokenizer(), TEMPLATE).before)

    def in_three_directions(*, inputs_embeds, position_ids, **settings):
        positions = torch.arange(inputs_embeds.shape[1]).repeat(3, len(inputs_embeds), 1)
        rows, columns = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
        positions[0, :, start : start + 6] = start
        positions[1, :, start : start + 6] = start + rows.flatten()
        positions[2, :, start : start + 6] = start + columns.flatten()
        positions[:, :, start + 6 :] -= 3
        return real(inputs_embeds=inputs_embeds, position_ids=positions, **settings)

    monkeypatch.setattr(language, "forward", in_three_directions)
    assert (in_line - score_as_published(published, pictures, PROMPTS)).abs().max() > 1e-3


def test_its_gradient_is_that_of_finite_differences(load_tiny, pictures, monkeypatch):
    _without_float32(monkeypatch)
    reward = load_tiny(policy=FLOAT64, template=SHORT)
    x = F.interpolate(pictures.double(), size=(70, 90)).requires_grad_()
    reward(x, PROMPTS).sum().backward()
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    step = 1e-5
    with torch.no_grad():
        up, down = (reward(x + h * direction, PROMPTS).sum() for h in (step, -step))
    slope = (up - down).item() / (2 * step)
    assert (x.grad * direction).sum().item() == pytest.approx(slope, rel=1e-6)


def _without_float32(monkeypatch):
    """transformers normalises and rotates in float32 whatever the dtype; here it does not."""

    def normalised(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, True) + self.variance_epsilon)

    def rotated(q, k, cos, sin):
        cos, sin = cos.unsqueeze(-2).to(q), sin.unsqueeze(-2).to(q)
        half = modeling_qwen2_vl.rotate_half
        return q * cos + half(q) * sin, k * cos + half(k) * sin

    monkeypatch.setattr(modeling_qwen2_vl.Qwen2VLRMSNorm, "forward", normalised)
    monkeypatch.setattr(modeling_qwen2_vl, "apply_rotary_pos_emb_vision", rotated)


def test_other_pictures_of_the_batch_and_longer_prompts_do_not_matter(load_tiny, pictures):
    reward = load_tiny(template=SHORT)
    alone = torch.cat(
        [reward(pictures[b : b + 1], PROMPTS[b : b + 1]) for b in range(len(PROMPTS))]
    )
    assert torch.allclose(reward(pictures, PROMPTS), alone, atol=1e-5)


def test_checkpointing_changes_the_memory_and_not_the_gradient(load_tiny, pictures):
    calls, gradients = [], []
    for recompute in (False, True):
        reward = load_tiny(template=SHORT, gradient_checkpointing=recompute)
        layers = [reward.model.body.visual.blocks[0], reward.model.body.language_model.layers[0]]
        count = [0, 0]
        for number, layer in enumerate(layers):
            layer.mlp.register_forward_pre_hook(partial(_count, count, number))
        x = pictures.clone().requires_grad_()
        reward(x, PROMPTS).sum().backward()
        calls.append(count)
        gradients.append(x.grad)
    assert calls == [[1, 1], [2, 2]]
    assert torch.equal(*gradients)


def _count(counts, number, *_):
    counts[number] += 1


def test_a_reward_of_pictures_without_gradient_has_none(load_tiny, pictures):
    reward = load_tiny(template=SHORT, gradient_checkpointing=True)
    assert not reward(pictures, PROMPTS).requires_grad


def test_a_prompts_tokens_are_kept(load_tiny, pictures):
    reward = load_tiny(template=SHORT)
    reward(pictures, PROMPTS)
    object.__setattr__(reward, "conversation", None)
    reward(pictures, PROMPTS)


def test_bfloat16_keeps_the_head_in_float32(path, load_tiny, pictures):
    reward = load(path, tokenizer=path.parent)
    assert {p.dtype for p in reward.model.body.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in reward.model.rm_head.parameters()} == {torch.float32}
    scores = reward(pictures, PROMPTS)
    assert scores.dtype == torch.float32
    assert (scores - load_tiny()(pictures, PROMPTS)).abs().max() < 0.5


def test_nothing_of_it_is_trained(load_tiny):
    reward = load_tiny(gradient_checkpointing=True)
    assert not any(parameter.requires_grad for parameter in reward.model.parameters())


def test_shards_and_keys_of_older_versions(path, load_tiny, pictures, tmp_path):
    weights = load_file(path)
    old = {
        key.replace("model.visual.", "visual.").replace("model.language_model.", "model."): value
        for key, value in weights.items()
    }
    shards = {"a.safetensors": {}, "b.safetensors": {}}
    for number, (key, value) in enumerate(sorted(old.items())):
        shards[list(shards)[number % 2]][key] = value
    for name, shard in shards.items():
        save_file(shard, tmp_path / name)
    index = {key: name for name, shard in shards.items() for key in shard}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    expected = load_tiny()(pictures, PROMPTS)
    assert torch.equal(load_tiny(tmp_path)(pictures, PROMPTS), expected)


def test_the_real_model_has_the_published_keys_and_shapes():
    config = configuration(QWEN2_VL_7B)
    with torch.device("meta"):
        own, file = hpsv3_model.build_model().state_dict(), Original(config).state_dict()
    mapped = {new: tensor.shape for key, tensor in file.items() if (new := hpsv3_model.rename(key))}
    assert mapped == {key: tensor.shape for key, tensor in own.items()}
    head = {key: tuple(tensor.shape) for key, tensor in own.items() if key.startswith("rm_head")}
    assert head == {
        "rm_head.0.weight": (1024, 3584),
        "rm_head.0.bias": (1024,),
        "rm_head.3.weight": (16, 1024),
        "rm_head.3.bias": (16,),
        "rm_head.5.weight": (2, 16),
        "rm_head.5.bias": (2,),
    }
    # The published file is of 16.6 GB.
    size = sum(t.numel() * (4 if "rm_head" in key else 2) for key, t in file.items())
    assert size == pytest.approx(16.6e9, rel=2e-3)


def test_a_missing_key_is_named_with_its_file(path, load_tiny, tmp_path):
    weights = load_file(path)
    del weights["model.visual.merger.mlp.0.bias"]
    save_file(weights, tmp_path / path.name)
    expected = (
        r"HPSv3\.safetensors does not hold HPSv3: it lacks body\.visual\.merger\.mlp\.0\.bias"
    )
    with pytest.raises(ValueError, match=expected):
        load_tiny(tmp_path)


def test_a_truncated_file_is_named(path, load_tiny, tmp_path):
    (tmp_path / path.name).write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"HPSv3\.safetensors is damaged"):
        load_tiny(tmp_path)


def test_the_tiny_file_does_not_fit_the_real_model(path, tmp_path):
    with pytest.raises(ValueError, match=r"HPSv3\.safetensors does not hold HPSv3: it lacks"):
        load(path, tokenizer=_words(tmp_path), sizes=QWEN2_VL_7B, pixels=PIXELS)


def _words(folder):
    """A tokenizer as large as Qwen2-VL's."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([f"<|{number}|>" for number in range(151657 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    return folder


def test_portions_change_the_memory_and_neither_score_nor_gradient(load_tiny, pictures):
    whole = load_tiny(template=SHORT)
    portions = load_tiny(template=SHORT, batch=2, gradient_checkpointing=True)
    x, y = (pictures.clone().requires_grad_() for _ in range(2))
    expected, found = whole(x, PROMPTS), portions(y, PROMPTS)
    assert torch.allclose(found, expected, atol=1e-5)
    expected.sum().backward()
    found.sum().backward()
    assert (x.grad - y.grad).norm() <= 1e-4 * x.grad.norm()


def test_a_judge_of_the_same_file_shares_the_model_unchanged(load_tiny, pictures):
    towers = Towers()
    judge = load_tiny(template=SHORT, towers=towers)
    reward = load_tiny(template=SHORT, towers=towers, gradient_checkpointing=True)
    assert judge.model is reward.model
    reward(pictures, PROMPTS)
    assert not any("forward" in vars(module) for module in judge.model.modules())


def test_a_tokenizer_of_another_size_is_refused(path, tmp_path):
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(["<|more|>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`tokenizer` must be of 262 tokens and the reward"):
        load(path, tokenizer=tmp_path)
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"`tokenizer` must be a folder .*no such path"):
        load(path, tokenizer=tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"`tokenizer` .* holds neither"):
        load(path, tokenizer=empty)


def test_a_budget_below_one_token_is_refused(load_tiny):
    with pytest.raises(ValueError, match="`pixels` must be at least 784"):
        load_tiny(pixels=700)

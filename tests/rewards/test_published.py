"""HPSv2, PickScore, CLIPScore and the aesthetic predictor: formulas, gradients, portions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from flowbp.adapters import DtypePolicy
from flowbp.rewards import repaired
from flowbp.rewards.aesthetic import head_layout
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD

from .open_clip_oracle import TINY, cosine, image_features, random_weights, text_features
from .published_rewards import NAMES, build, head_weights

PROMPTS = ["two dots", "A red  box", "a cat on a mat &amp; more words than fit"]
FLOAT64 = DtypePolicy(torch.float64, torch.float64)
BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)
MIXED = DtypePolicy(torch.float32, torch.bfloat16)


def pictures(height=24, width=20, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, height, width, generator=generator, dtype=dtype)


def bicubic(images, height, width):
    return F.interpolate(images, (height, width), mode="bicubic", antialias=True)


def normalised(images):
    mean, std = (torch.tensor(v, dtype=images.dtype)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def tensor(output):
    return output if torch.is_tensor(output) else output.pooler_output


def tokens(tokenizer, prompts):
    options = dict(padding="max_length", max_length=12, truncation=True, return_tensors="pt")
    return tokenizer(prompts, **options).input_ids


def assert_same(reward, expected, images):
    """Scores and the gradients of their sum to the pixels agree to 1e-5 of their size."""
    values = []
    for scores in (lambda x: reward(x, PROMPTS), expected):
        x = images.clone().requires_grad_(True)
        score = scores(x)
        values.append((score, torch.autograd.grad(score.sum(), x)[0]))
    for found, wanted in zip(*values, strict=True):
        assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)
    assert values[1][0].std() > 1e-3 * values[1][0].abs().max()


@pytest.mark.parametrize(("height", "width"), [(16, 16), (24, 20), (11, 29)])
def test_hpsv2_is_the_cosine_of_open_clips_features_on_padded_pictures(
    folder, tokenizer, tmp_path, height, width
):
    weights = random_weights(TINY)
    ids = tokens(tokenizer, [repaired(prompt) for prompt in PROMPTS])

    def expected(x):
        scale = 16 / max(height, width)
        small = x
        if scale != 1:
            small = bicubic(x, round(height * scale), round(width * scale))
        rows, columns = 16 - small.shape[2], 16 - small.shape[3]
        edges = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        image = image_features(weights, TINY, normalised(F.pad(small, edges)))
        return cosine(image, text_features(weights, TINY, ids))

    assert_same(build("hpsv2", folder, tmp_path), expected, pictures(height, width))


def test_hpsv2_reads_a_folder_as_it_reads_a_file(folder, tmp_path):
    from flowbp.rewards import HPSv2, load_open_clip

    from .published_rewards import save_hps

    filed = build("hpsv2", folder, tmp_path)
    model = load_open_clip(save_hps(tmp_path / "again.pt"), TINY, dtype=torch.float32)
    model.save_pretrained(tmp_path / "folder")
    foldered = HPSv2(source=tmp_path / "folder", tokenizer=folder)
    assert torch.allclose(
        foldered(pictures(), PROMPTS), filed(pictures(), PROMPTS), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("name", "top"), [("pickscore", 1), ("clipscore", 2)])
def test_the_score_is_the_formula_on_cropped_pictures(
    folder, model, tokenizer, tmp_path, name, top
):
    clean = repaired if name == "clipscore" else str
    ids = tokens(tokenizer, [clean(prompt) for prompt in PROMPTS])

    def expected(x):
        small = bicubic(x, 19, 16)[:, :, top : top + 16]
        image = tensor(model.get_image_features(pixel_values=normalised(small)))
        score = cosine(image, tensor(model.get_text_features(input_ids=ids)))
        return score * model.logit_scale.exp() if name == "pickscore" else score

    assert_same(build(name, folder, tmp_path), expected, pictures())


def test_the_aesthetic_score_is_five_layers_on_the_unit_embedding(folder, model, tmp_path):
    head = head_weights(8)

    def expected(x):
        pixels = normalised(bicubic(x, 19, 16)[:, :, 2:18])
        features = tensor(model.get_image_features(pixel_values=pixels))
        y = features / features.norm(dim=-1, keepdim=True)
        for number in (0, 2, 4, 6, 7):
            y = y @ head[f"layers.{number}.weight"].T + head[f"layers.{number}.bias"]
        return y.squeeze(-1)

    reward = build("aesthetic", folder, tmp_path)
    assert_same(reward, expected, pictures())
    assert torch.equal(reward(pictures(), PROMPTS), reward(pictures(), ["", "b", "c"]))


def test_the_head_has_the_published_keys_and_shapes():
    sizes = {0: (1024, 768), 2: (128, 1024), 4: (64, 128), 6: (16, 64), 7: (1, 16)}
    weights = {f"layers.{number}.weight": size for number, size in sizes.items()}
    biases = {f"layers.{number}.bias": size[:1] for number, size in sizes.items()}
    assert head_layout(768) == weights | biases


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(folder, tmp_path, name, batch):
    reward = build(name, folder, tmp_path, policy=FLOAT64, batch=batch)
    images = pictures(dtype=torch.float64).requires_grad_(True)
    generator = torch.Generator().manual_seed(1)
    direction = torch.randn(images.shape, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(reward(images, PROMPTS).sum(), images)
    step = 1e-5
    with torch.no_grad():
        ahead = reward(images + step * direction, PROMPTS).sum()
        behind = reward(images - step * direction, PROMPTS).sum()
    expected = (ahead - behind) / (2 * step)
    assert torch.allclose((gradient * direction).sum(), expected, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_portions_change_scores_and_gradients_by_rounding_alone(folder, tmp_path, name):
    found = []
    for batch in (None, 1, 2):
        x = pictures().requires_grad_(True)
        scores = build(name, folder, tmp_path, batch=batch)(x, PROMPTS)
        found.append((scores, torch.autograd.grad(scores.sum(), x)[0]))
    for scores, gradient in found[1:]:
        for mine, whole in ((scores, found[0][0]), (gradient, found[0][1])):
            assert (mine - whole).abs().max() <= 2e-6 * whole.abs().max()


@pytest.mark.parametrize(
    ("batch", "expected"),
    [(None, ["forward 3", "backward 3"]), (1, ["forward 1"] * 3 + ["forward 1", "backward 1"] * 3)],
)
@pytest.mark.parametrize("name", NAMES)
def test_one_portion_at_a_time_is_computed_again_and_gone_back_through(
    folder, tmp_path, name, batch, expected
):
    reward, events = build(name, folder, tmp_path, batch=batch), []
    tower = reward.tower if name == "aesthetic" else reward.clip

    def follow(module, inputs, output):
        size = len(output.pooler_output)
        events.append(f"forward {size}")
        output.pooler_output.register_hook(lambda _: events.append(f"backward {size}"))

    handle = tower.model.vision_model.register_forward_hook(follow)
    reward(pictures().requires_grad_(True), PROMPTS).sum().backward()
    handle.remove()
    # Gradients go through the graph of the first pass, on what the second one computed again.
    assert events == expected


@pytest.mark.parametrize("policy", [BFLOAT16, MIXED])
@pytest.mark.parametrize("name", NAMES)
def test_the_last_steps_stay_in_float32(folder, tmp_path, name, policy):
    exact = build(name, folder, tmp_path)(pictures(), PROMPTS)
    reward = build(name, folder, tmp_path, policy=policy)
    plain = reward(pictures(), PROMPTS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = reward(pictures(), PROMPTS)
    assert torch.equal(scores, plain) and scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())
    assert (scores - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("name", ["hpsv2", "pickscore", "clipscore"])
def test_a_prompt_is_read_once(folder, tmp_path, name, monkeypatch):
    reward = build(name, folder, tmp_path)
    first = reward(pictures(), PROMPTS)
    monkeypatch.setattr(reward.clip.model, "get_text_features", None)
    assert torch.equal(reward(pictures(), PROMPTS), first)


@pytest.mark.parametrize("name", NAMES)
def test_one_prompt_per_picture_is_needed(folder, tmp_path, name):
    with pytest.raises(ValueError, match="`prompts` must be a sequence of 3 strings"):
        build(name, folder, tmp_path)(pictures(), ["red"])

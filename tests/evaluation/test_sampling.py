from __future__ import annotations

import pytest
import torch

from flowbp.evaluation import Sampling, generate, generate_batches, own_facts, sampling_facts
from flowbp.evaluation.sampling import noise_generator
from flowbp.shapes.embedded import embedded_backbone

from .samples import FakeBackbone

PROMPTS = ["a circle", "two blue squares", "a cross", "a red circle", "four triangles"]
SIZE = {"steps": 3, "height": 4, "width": 6}


@pytest.mark.parametrize("guidance", [1.0, 3.5])
@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_pictures_do_not_depend_on_the_batch_size(batch: int, guidance: float) -> None:
    sampling = Sampling(**SIZE, guidance=guidance, batch=batch)
    whole, parts = FakeBackbone(), FakeBackbone()
    expected = generate(whole, PROMPTS, 5, Sampling(**SIZE, guidance=guidance, batch=5))
    images = generate(parts, PROMPTS, 5, sampling)
    assert images.shape == (5, 3, 4, 6)
    # Under guidance, a call holds the samples of both branches.
    branches = 1 if guidance == 1 else 2
    started = [each.chunk(branches)[0] for each in (*parts.started, *whole.started)]
    assert torch.equal(torch.cat(started[:-1]), started[-1])
    # Vectorised kernels round by an element's place in the batch, so the last bit may differ.
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


def test_noise_belongs_to_the_seed_and_the_place_alone() -> None:
    sampling = Sampling(**SIZE)
    first = generate(FakeBackbone(), PROMPTS, 5, sampling)
    shorter = generate(FakeBackbone(), PROMPTS[:2], 5, sampling)
    torch.testing.assert_close(shorter, first[:2], rtol=0, atol=1e-6)
    assert not torch.equal(generate(FakeBackbone(), PROMPTS, 6, sampling), first)
    draws = {
        tuple(torch.randn(4, generator=noise_generator(seed, index)).tolist())
        for seed in range(20)
        for index in range(20)
    }
    assert len(draws) == 400


def test_pictures_are_the_euler_rollout_of_the_guided_velocity() -> None:
    backbone = FakeBackbone()
    sampling = Sampling(**SIZE, guidance=3.0, negative_prompt="blurred")
    images = generate(backbone, ["a circle"], 5, sampling)
    x = torch.randn(1, 3, 4, 6, generator=noise_generator(5, 0))
    for sigma, following in ((1.0, 2 / 3), (2 / 3, 1 / 3), (1 / 3, 0.0)):
        positive, negative = x * sigma + 0.8, x * sigma + 0.7
        x = x + (following - sigma) * (negative + 3.0 * (positive - negative))
    torch.testing.assert_close(images, x.sigmoid())


def test_the_negative_prompt_is_encoded_once_and_only_with_guidance() -> None:
    backbone = FakeBackbone()
    generate(backbone, PROMPTS, 0, Sampling(**SIZE, guidance=2.0, batch=2))
    assert backbone.encoded == [[""], PROMPTS[:2], PROMPTS[2:4], PROMPTS[4:]]
    plain = FakeBackbone()
    generate(plain, PROMPTS, 0, Sampling(**SIZE, batch=5))
    assert plain.encoded == [PROMPTS]
    assert plain.sizes == [5] * 3


@pytest.mark.parametrize(("decode", "sizes"), [(None, [4, 1]), (3, [3, 1, 1]), (9, [4, 1])])
def test_pictures_are_decoded_in_portions(decode: int | None, sizes: list[int]) -> None:
    backbone, decoded = FakeBackbone(), []
    plain = backbone.decode
    backbone.decode = lambda latents: decoded.append(len(latents)) or plain(latents)
    images = generate(backbone, PROMPTS, 0, Sampling(**SIZE, batch=4, decode=decode))
    assert decoded == sizes
    expected = generate(FakeBackbone(), PROMPTS, 0, Sampling(**SIZE, batch=4))
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("count", "sizes"), [(5, [2, 2, 2]), (4, [2, 2]), (1, [1])])
def test_compiled_code_is_given_one_size(count: int, sizes: list[int]) -> None:
    backbone = FakeBackbone()
    backbone.module.compile(backend="eager")
    images = generate(backbone, PROMPTS[:count], 0, Sampling(**SIZE, batch=2))
    assert [len(each) for each in backbone.encoded] == sizes and len(images) == count


def test_training_mode_is_left_as_it_was_and_no_gradient_is_kept() -> None:
    backbone = FakeBackbone()
    frozen = backbone.module[0].train(False)
    images = generate(backbone, PROMPTS, 0, Sampling(**SIZE))
    assert backbone.module.training and not frozen.training
    assert not images.requires_grad


def test_progress_and_batches_cover_the_list() -> None:
    told: list[tuple[int, int]] = []
    sampling = Sampling(**SIZE, batch=2)
    generate(
        FakeBackbone(),
        PROMPTS,
        0,
        sampling,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(2, 5), (4, 5), (5, 5)]
    slices = [chosen for chosen, _ in generate_batches(FakeBackbone(), PROMPTS, 0, sampling)]
    assert slices == [slice(0, 2), slice(2, 4), slice(4, 5)]


def test_no_prompts_is_an_error() -> None:
    with pytest.raises(ValueError, match="`prompts` is empty; give at least one"):
        generate(FakeBackbone(), [], 0, Sampling(**SIZE))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer >= 1, got 0"),
        ({"height": 6.5}, "`height` must be an integer >= 1, got 6.5"),
        ({"decode": 0}, "`decode` must be an integer >= 1, got 0"),
        ({"batch": True}, "`batch` must be an integer >= 1, got True"),
        ({"guidance": float("inf")}, "`guidance` must be a number in .*, got inf"),
        ({"negative_prompt": "blurred"}, "`guidance` is 1, which never evaluates it"),
    ],
)
def test_sampling_refuses_what_cannot_be_sampled(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampling(**{**SIZE, **change})


def test_facts_say_what_pictures_depend_on() -> None:
    backbone = embedded_backbone()
    found = sampling_facts(backbone, Sampling(steps=2, height=64, width=64))
    assert (found["guidance"], found["compute"], found["steps"]) == ("1.0", "float32", "2")
    assert own_facts(backbone)["compute"] == "float32" and own_facts(object()) == {}

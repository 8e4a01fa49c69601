"""Pictures that the reward is trained against."""

from __future__ import annotations

import pytest
import torch

from flowbp.shapes import parse, render, sample_scene
from tools.shapes.hard_pictures import attacked, broken, pixel_noise, spoilt, worn


def drawn(seed: int = 0, count: int = 6) -> torch.Tensor:
    return torch.randn(count, 8, 4, 4, generator=torch.Generator().manual_seed(seed))


def lengths(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).norm(dim=1)


def test_an_attack_climbs_the_loss_and_stays_within_its_radius():
    latents, target = drawn(), drawn(1)

    def loss(z: torch.Tensor) -> torch.Tensor:
        return -((z - target) ** 2).sum()

    moved = attacked(latents, loss, torch.Generator().manual_seed(2))
    offset = lengths(moved - latents)
    radius = 0.15 * torch.rand(6, generator=torch.Generator().manual_seed(2))
    assert torch.allclose(offset, radius * latents.std() * 128**0.5, rtol=1e-3)
    # A quadratic's steepest ascent runs straight towards the target, but for the random start.
    direction = (moved - latents) / offset[:, None, None, None]
    wanted = (target - latents) / lengths(target - latents)[:, None, None, None]
    assert ((direction * wanted).flatten(1).sum(1) > 0.9).all()


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(7)
    return render([sample_scene(parse("three green squares"), generator) for _ in range(60)])


def test_pictures_are_spoilt_by_their_strength_and_whole_without(pictures):
    whole, _ = spoilt(pictures, torch.zeros(60), torch.Generator().manual_seed(8))
    torch.testing.assert_close(whole, pictures, atol=1e-4, rtol=0)
    changes = []
    for strength in (0.25, 1.0):
        changed, fades = spoilt(
            pictures, torch.full((60,), strength), torch.Generator().manual_seed(8)
        )
        changes.append(lengths(changed - pictures))
        assert torch.equal(changed[:, :, 0, 0], pictures[:, :, 0, 0])
        assert changed.min() >= 0 and changed.max() <= 1 and 10 < fades.sum() < 30
    assert (changes[0] < changes[1]).all() and changes[0].min() > 0.1
    grey = pictures[fades, :, :1, :1].expand_as(pictures[fades])
    torch.testing.assert_close(changed[fades], grey, atol=1e-6, rtol=0)


@pytest.mark.parametrize("harden", [worn, broken])
def test_hardening_is_a_function_of_the_generator(harden):
    once, again = (harden(drawn(), torch.Generator().manual_seed(3)) for _ in range(2))
    other = harden(drawn(), torch.Generator().manual_seed(4))
    assert torch.equal(once, again) and not torch.equal(once, other)


def test_worn_latents_stay_near_and_broken_ones_do_not():
    latents = drawn(count=64)
    typical = latents.std() * 128**0.5
    near = lengths(worn(latents, torch.Generator().manual_seed(5)) - latents) / typical
    far = lengths(broken(latents, torch.Generator().manual_seed(5)) - latents) / typical
    assert near.max() < 0.2 and far.min() > 0.4


def test_a_broken_picture_is_never_left_whole():
    with_itself = drawn(count=2)
    for seed in range(20):
        moved = broken(with_itself, torch.Generator().manual_seed(seed))
        assert lengths(moved - with_itself).min() > 0.2


def test_pixel_noise_is_weak():
    noise = pixel_noise((32, 3, 16, 16), torch.Generator().manual_seed(6))
    deviations = noise.flatten(1).std(dim=1)
    assert deviations.max() < 0.06 and deviations.min() < 0.02

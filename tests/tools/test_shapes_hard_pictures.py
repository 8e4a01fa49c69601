"""What the reward is trained against, and the layouts that it must tell."""

from __future__ import annotations

import pytest
import torch

from flowbp.shapes import KINDS, Scene, Shape
from tools.shapes.corpus import LAYOUT, layout
from tools.shapes.hard_pictures import attacked, broken, pixel_noise, worn
from tools.shapes.reward import contrast


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
    # A quadratic's steepest ascent runs straight towards the target.
    direction = (moved - latents) / offset[:, None, None, None]
    wanted = (target - latents) / lengths(target - latents)[:, None, None, None]
    assert torch.allclose(direction, wanted, atol=1e-3)


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


def test_layouts_of_a_scene_made_by_hand():
    scene = Scene(
        (
            Shape("circle", "red", 16.0, 48.0, 6.0),
            Shape("circle", "blue", 48.0, 48.0, 6.0),
            Shape("square", "red", 16.0, 24.0, 6.0),
        ),
        background=0.1,
    )
    numbers = torch.tensor(layout(scene)).reshape(-1, 3)
    assert numbers.numel() == LAYOUT
    circle, square = KINDS.index("circle"), KINDS.index("square")
    assert numbers[circle].tolist() == [2.0, 0.0, 2.0]
    assert numbers[square].tolist() == [1.0, -1.0, -0.5]
    coloured = numbers[len(KINDS) :]
    assert sorted(row for row in coloured.tolist() if row[0]) == [
        [1.0, -1.0, -0.5],
        [1.0, -1.0, 1.0],
        [1.0, 1.0, 1.0],
    ]


def test_the_contrast_is_least_where_pictures_and_captions_match():
    def cross_entropies(seen: torch.Tensor, said: torch.Tensor) -> float:
        return contrast(seen, said, torch.tensor(20.0)).item()

    axes = torch.eye(6)
    said = torch.stack([axes[:2], axes[2:4]], dim=1)  # right, then wrong captions of two pictures
    matched = cross_entropies(axes[:2], said)
    assert matched < 1e-6
    assert cross_entropies(axes[[1, 0]], said) > 30  # each other's picture
    assert cross_entropies(axes[2:4], said) > 20  # the wrong caption's picture
    assert cross_entropies(axes[[0, 1, 0]], said) == pytest.approx(0.5 * 0.693, abs=1e-3)

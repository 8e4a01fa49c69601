"""A rollout keeps what it was, in the latents' precision, and surrogates must fit its grid."""

from __future__ import annotations

import pytest
import torch

from flowbp.core import DRaFT, Segment, Sparse, Surrogate, read, residuals, rollout

SIGMAS = torch.linspace(1, 0, 5, dtype=torch.float64)


def shifted(sigmas: torch.Tensor, shift: float) -> torch.Tensor:
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def test_a_field_may_return_the_same_buffer_at_every_call():
    noise = torch.ones(2, 3, dtype=torch.float64)
    buffer = torch.empty_like(noise)
    path = rollout(lambda x, sigma: torch.mul(x, -1, out=buffer), noise, SIGMAS)
    expected = torch.tensor([-1, -1.25, -1.5625, -1.953125], dtype=torch.float64)
    assert torch.equal(path.velocities[:, 0, 0], expected)


def test_low_precision_velocities_leave_the_latents_arithmetic_alone():
    noise = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
    path = rollout(lambda x, sigma: x.bfloat16(), noise, SIGMAS.float())
    assert path.velocities.dtype == torch.float32
    surrogate = Sparse(active=1).draw(SIGMAS.float(), torch.Generator().manual_seed(0))
    assert max(d.max() for d in residuals(surrogate, path)) < 1e-6


def test_a_surrogate_of_another_grid_with_as_many_steps_is_refused():
    path = rollout(lambda x, sigma: -x, torch.ones(1, 2, dtype=torch.float64), shifted(SIGMAS, 3))
    surrogate = DRaFT(last=2).draw(SIGMAS, torch.Generator())
    with pytest.raises(
        ValueError, match=r"`surrogate` must have weights that sum to .* got -0\.25"
    ):
        read(surrogate, path)


def test_a_velocity_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"`velocity` must return the latents' shape \(1, 2\)"):
        rollout(lambda x, sigma: x[:, :1], torch.ones(1, 2), SIGMAS.float())


def test_a_velocity_linear_in_sigma_is_extrapolated_exactly():
    levels, seen = shifted(torch.linspace(1, 0, 9, dtype=torch.float64), 3), list[float]()

    def field(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(sigma.item())
        return torch.full_like(x, 2.0) - 3 * sigma

    noise = torch.ones(1, 2, dtype=torch.float64)
    whole, chosen = rollout(field, noise, levels), (0, 1, 4, 5)
    seen.clear()
    path = rollout(field, noise, levels, evaluate=chosen)
    assert seen == [levels[i].item() for i in chosen]
    torch.testing.assert_close(path.velocities, whole.velocities, rtol=0, atol=1e-13)
    torch.testing.assert_close(path.latents, whole.latents, rtol=0, atol=1e-13)


def test_steps_after_a_single_evaluation_have_its_velocity():
    noise = torch.ones(1, 2, dtype=torch.float64)
    path = rollout(lambda x, sigma: -x, noise, SIGMAS, evaluate={0, 3})
    assert torch.equal(path.velocities[:3], -torch.ones(3, 1, 2, dtype=torch.float64))
    assert torch.equal(path.velocities[3], -path.latents[3])


def test_a_rollout_that_does_not_evaluate_its_first_step_is_refused():
    with pytest.raises(ValueError, match=r"`evaluate` must hold step 0, .*got \[1, 2\]"):
        rollout(lambda x, sigma: -x, torch.ones(1, 2), SIGMAS.float(), evaluate=(2, 1))


def test_what_a_prediction_is_made_of_is_exact_besides_active_steps():
    start, leap = Segment(0, 2, {0: -0.25, 1: -0.25}, {1: 1.0}), Segment(2, 4, {3: -0.5}, {})
    assert Surrogate((start, leap)).exact_steps == [1]
    assert Surrogate((start, leap), reward_input="posterior_mean").exact_steps == [1, 3]

"""The streamed step against one joint autograd graph, in float64."""

from __future__ import annotations

import attrs
import pytest
import torch

from flowbp.component_errors import ComponentError
from flowbp.core import Bridge, DRaFTLV, Hinge, ReFL, SampleClip
from flowbp.training import Batching, Streams, TrainingSampling, cost

from .cases import BATCHINGS, GUIDANCE, METHODS, close
from .fakes import PROMPTS, FakeBackbone, colour_reward, gradients, make_step
from .oracle import joint_gradient


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("method", METHODS)
def test_gradient_is_that_of_the_joint_graph(method: str, guidance: str) -> None:
    for seed, batching in enumerate(BATCHINGS):
        step = make_step(method=METHODS[method], sampling=GUIDANCE[guidance], batching=batching)
        expected = joint_gradient(step, PROMPTS, Streams.of(seed))
        result = step(PROMPTS, Streams.of(seed))
        assert result.loss.item() == pytest.approx(expected.loss.item(), rel=1e-12)
        assert result.anchor is None
        close(gradients(step), expected.gradients)


@pytest.mark.parametrize("method", METHODS)
def test_accumulation_is_the_large_batch(method: str) -> None:
    prompts = [f"prompt {i}" for i in range(8)]
    outcomes = []
    for batching in (Batching(8), Batching(4, 2), Batching(2, 4), Batching(1, 8)):
        step = make_step(method=METHODS[method], batching=batching)
        result = step(prompts, Streams.of(3))
        outcomes.append((result.loss, result.rewards, gradients(step)))
    for loss, rewards, found in outcomes[1:]:
        assert loss.item() == pytest.approx(outcomes[0][0].item(), rel=1e-12)
        torch.testing.assert_close(rewards, outcomes[0][1], rtol=1e-12, atol=0)
        close(found, outcomes[0][2])


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("method", METHODS)
def test_cost_counts_what_the_network_was_evaluated_for(method: str, guidance: str) -> None:
    backbone = FakeBackbone()
    step = make_step(
        backbone=backbone,
        method=METHODS[method],
        sampling=GUIDANCE[guidance],
        batching=Batching(5, pull=2),
    )
    result = step(PROMPTS, Streams.of(0))
    assert backbone.forward_samples == 5 * result.cost.forward
    assert backbone.backward_samples == 5 * result.cost.backward
    assert result.cost == cost(result.surrogate, step.sampling)
    assert result.cost.velocity_calls == result.cost.forward + result.cost.backward


def test_no_portion_exceeds_its_size() -> None:
    for method in (DRaFTLV(noised=3), Bridge(active=3)):
        backbone = FakeBackbone()
        seen: list[int] = []

        def reward(images, prompts, seen=seen):
            seen.append(len(images))
            return colour_reward(images, prompts)

        batching = Batching(2, 2, decode=1)
        step = make_step(backbone=backbone, method=method, reward=reward, batching=batching)
        step(PROMPTS[:4], Streams.of(0))
        assert backbone.largest == 2 * step.sampling.branches
        assert set(seen) == {1}


def test_early_surrogates_stop_the_rollout() -> None:
    step = make_step(method=ReFL(last=6))
    result = step(PROMPTS[:3], Streams.of(1))
    assert result.surrogate.horizon < 6
    assert all(part.isnan().all() for part in result.residuals)


def test_copies_stay_out_of_rewards_but_not_of_the_loss() -> None:
    step = make_step(method=DRaFTLV(noised=2))
    result = step(PROMPTS[:3], Streams.of(0))
    assert result.rewards.shape == (3,)
    assert result.scores.rewards.shape == result.scores.losses.shape == (9,)
    assert [part.shape for part in result.residuals] == [(3,)]
    assert result.loss.item() == pytest.approx(-result.scores.rewards.mean().item())


def test_satisfied_hinge_has_no_gradient() -> None:
    step = make_step(shape=Hinge(-1.0))
    result = step(PROMPTS[:3], Streams.of(0))
    assert result.loss.item() == 0
    assert all(gradient.abs().max() == 0 for gradient in gradients(step).values())


def test_negative_prompt_is_encoded_once() -> None:
    backbone = FakeBackbone()
    sampling = TrainingSampling(6, 3.5, 4, 4, "mud")
    step = make_step(backbone=backbone, sampling=sampling)
    step(PROMPTS[:3], Streams.of(0))
    step(PROMPTS[:3], Streams.of(0))
    assert backbone.encoded == [("mud",), PROMPTS[:3], PROMPTS[:3]]


def test_method_that_does_not_fit_is_refused_at_construction() -> None:
    with pytest.raises(ValueError, match=r"`last` must be in \[1, 6\], got 7"):
        make_step(method=ReFL(last=7))


def test_wrong_number_of_prompts_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`prompts` must hold 3 prompts.*got 2"):
        make_step()(PROMPTS[:2], Streams.of(0))


def test_frozen_backbone_is_refused() -> None:
    backbone = FakeBackbone()
    backbone.trainable = dict
    with pytest.raises(ValueError, match="at least one trainable parameter"):
        make_step(backbone=backbone)


def test_reward_without_a_gradient_is_refused() -> None:
    with pytest.raises(ComponentError, match=r"differentiable with .*'red', 'green'"):
        make_step(reward=lambda images, prompts: colour_reward(images, prompts).detach())(
            PROMPTS[:3], Streams.of(0)
        )


def test_reward_of_another_shape_is_refused() -> None:
    with pytest.raises(ComponentError, match=r"shape \(3,\), got shape \(3, 1\)"):
        make_step(reward=lambda images, prompts: colour_reward(images, prompts)[:, None])(
            PROMPTS[:3], Streams.of(0)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "`steps` must be an integer >= 1, got 0"),
        ({"guidance": float("nan")}, "`guidance` must be a number"),
        ({"height": True}, "`height` must be an integer"),
        ({"guidance": 1, "negative_prompt": "mud"}, "`negative_prompt` is 'mud' but `guidance`"),
        ({"guidance": 1, "detach_negative": False}, "`detach_negative` is False but `guidance`"),
        (
            {"steps": 2, "velocity_every": 2},
            "`velocity_every` is 2, but `steps` is 2.*leave it out",
        ),
        ({"velocity_every": 0}, "`velocity_every` must be an integer >= 1, got 0"),
    ],
)
def test_illegal_sampling_is_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSampling(**{"steps": 6, "guidance": 2.0, "height": 4, "width": 4, **arguments})


@pytest.mark.parametrize("name", ["samples", "accumulate", "global_", "pull", "decode"])
def test_illegal_batching_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1, got 0"):
        Batching(**{"samples": 2, name: 0})


def test_a_global_batch_is_divided_among_the_processes() -> None:
    batching = Batching(4, global_=24)
    assert batching.accumulate is None
    assert [batching.total(size) for size in (1, 2, 3, 6)] == [24] * 4
    assert batching.portions == Batching(4, 6).portions
    assert Batching(4, 6).total(3) == 72 and attrs.evolve(batching, pull=2).total() == 24


@pytest.mark.parametrize(
    ("total", "processes", "near", "samples"),
    [
        (23, 1, "20 or 24", 1),
        (24, 4, "16 or 32", 3),
        (8, 4, "16", 2),
        (3, 1, "4", 3),
        # An odd number is none of two processes, whatever they sample at a time.
        (65, 2, "64 or 72", None),
    ],
)
def test_a_global_batch_that_cannot_be_divided_is_refused_with_the_cure(
    total: int, processes: int, near: str, samples: int | None
) -> None:
    batching = Batching(4, global_=total)
    cure = "" if samples is None else f", or keep it with `samples` {samples}"
    message = f"must be a multiple of {4 * processes}, .*got {total}; the nearest is {near}{cure}$"
    if samples is not None:
        assert attrs.evolve(batching, samples=samples).total(processes) == total
    with pytest.raises(ValueError, match=message):
        batching.total(processes)
    if processes == 1:
        with pytest.raises(ValueError, match=message):
            make_step(batching=batching)


def test_a_batch_is_given_once() -> None:
    for accumulate, whole, cure in (
        (2, 8, "one .* must be null"),
        (None, None, "be given"),
    ):
        with pytest.raises(ValueError, match=f"`accumulate` is .* and `global` is .*{cure}"):
            Batching(2, accumulate, global_=whole)


@pytest.mark.parametrize("batching", [Batching(8), Batching(2, 4)])
def test_samples_are_clipped_by_the_median_of_the_whole_batch(batching: Batching) -> None:
    prompts, clipped = [f"prompt {i}" for i in range(8)], []

    def clip(cotangents: torch.Tensor) -> torch.Tensor:
        clipped.append(cotangents)
        return SampleClip(0.5)(cotangents)

    step = make_step(method=Bridge(active=3), batching=batching, sample_clip=clip)
    result = step(prompts, Streams.of(3))
    # Once before the first pull and once after the joint.
    assert [len(each) for each in clipped] == [8, 8]
    assert torch.equal(clipped[0], result.scores.cotangent)
    found = gradients(step)
    whole = make_step(method=Bridge(active=3), batching=Batching(8), sample_clip=SampleClip(0.5))
    whole(prompts, Streams.of(3))
    close(found, gradients(whole))
    free = make_step(method=Bridge(active=3), batching=Batching(8))
    free(prompts, Streams.of(3))
    assert any(not torch.equal(found[name], value) for name, value in gradients(free).items())

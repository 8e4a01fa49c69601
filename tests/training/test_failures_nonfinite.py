"""A number that is not finite stops the run before it reaches the parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flowbp.core import Hinge, Linear
from flowbp.training import AdamW, Averaging, Batching, Checkpoints, NonFiniteError, SavePolicy
from flowbp.training.failures import describe_parameters

from .fakes import FakeBackbone, Recorder, colour_reward, make_step, make_trainer

BAD_STEP = 3


def at_third(spoil: Callable, plain: Callable) -> Callable:
    """`plain`, but `spoil` at the call of step 3."""
    calls = []

    def function(*arguments, **named):
        calls.append(1)
        return (spoil if len(calls) == BAD_STEP else plain)(*arguments, **named)

    return function


def spoiled_rewards(value: float) -> Callable:
    def reward(images, prompts):
        bad = torch.tensor([prompt == "blue" for prompt in prompts])
        return torch.where(bad, value, colour_reward(images, prompts))

    return reward


def spoiled_derivative(images, prompts):
    return colour_reward(images, prompts) + (0 * images).sum((1, 2, 3)).sqrt()


def spoiled_noise(backbone: FakeBackbone) -> Callable:
    plain = backbone.noise

    def noise(*arguments, **named):
        drawn = plain(*arguments, **named)
        drawn[1] = float("inf")
        return drawn

    return noise


def parts(quantity: str) -> dict[str, object]:
    backbone = FakeBackbone()
    changed: dict[str, object] = {"backbone": backbone, "batching": Batching(5)}
    if quantity == "latents":
        backbone.noise = at_third(spoiled_noise(backbone), backbone.noise)
    elif quantity == "rewards":
        changed["reward"] = at_third(spoiled_rewards(float("nan")), colour_reward)
    elif quantity == "loss":
        changed["shape"] = at_third(lambda rewards: rewards / 0, Linear())
    elif quantity == "cotangent":
        changed["reward"] = at_third(spoiled_derivative, colour_reward)
    else:
        spoil = at_third(lambda gradient: gradient / 0, lambda gradient: gradient)
        # One pull per step of one portion: the hook sees one gradient of the bias for each of
        # the two active steps, so the third comes in the second step.
        backbone.module.bias.register_hook(spoil)
    return changed


@pytest.mark.parametrize(
    ("quantity", "step", "words"),
    [
        ("latents", 3, "the latents of 1 of 5 samples are not finite, at the prompts '"),
        (
            "rewards",
            3,
            "the rewards of 1 of 5 samples are not finite, with the values nan, "
            "at the prompts 'blue'",
        ),
        ("loss", 3, "the loss of 5 of 5 samples is not finite, with the values inf"),
        ("cotangent", 3, "the cotangent of 5 of 5 samples is not finite, at the prompts '"),
        ("gradients", 2, "1 of 4 gradients are not finite (`bias`)"),
    ],
)
def test_stops_before_the_update(tmp_path: Path, quantity: str, step: int, words: str) -> None:
    changed = parts(quantity)
    backbone, states = changed["backbone"], []
    recorder = Recorder(act=lambda _: states.append(backbone.state()))
    trainer = make_trainer(
        make_step(**changed), observers=[recorder], checkpoints=Checkpoints(tmp_path)
    )
    with pytest.raises(NonFiniteError) as caught:
        trainer.run()
    word = "failed" if quantity in ("latents", "gradients") else "last-good"
    error, folder = caught.value, tmp_path / f"{word}-{step - 1:06}"
    assert (error.step, error.quantity) == (step, quantity)
    assert str(error).startswith(f"step {step} was stopped before the optimizer: ")
    assert words in str(error)
    assert "Likely cause: " in str(error)
    assert str(folder) in str(error)
    assert [row.step for row in recorder.rows] == list(range(1, step))
    assert recorder.closed == 1
    for name, tensor in torch.load(folder / "weights.pt", weights_only=True).items():
        assert torch.equal(tensor, states[-1][name])
        assert torch.equal(backbone.state()[name], states[-1][name])


def test_infinite_reward_that_the_hinge_hides_is_found() -> None:
    reward = at_third(spoiled_rewards(float("inf")), colour_reward)
    step = make_step(reward=reward, shape=Hinge(0.9), batching=Batching(5))
    with pytest.raises(NonFiniteError, match=r"rewards of 1 of 5 .* values inf, .*'blue'"):
        make_trainer(step).run()


def test_average_is_saved_besides(tmp_path: Path) -> None:
    step = make_step(**parts("rewards"))
    with pytest.raises(NonFiniteError, match=r"last-good-000002; averaged, .*-averaged"):
        make_trainer(step, averaging=Averaging(0.9), checkpoints=Checkpoints(tmp_path)).run()
    plain, averaged = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True)
        for name in ("last-good-000002", "last-good-000002-averaged")
    )
    assert not torch.equal(plain["outer"], averaged["outer"])


def test_without_checkpoints_it_says_so() -> None:
    with pytest.raises(NonFiniteError, match="not saved, as no folder for checkpoints is set"):
        make_trainer(make_step(**parts("rewards"))).run()


def test_failing_save_does_not_hide_the_error(tmp_path: Path) -> None:
    changed = parts("rewards")

    def save(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    changed["backbone"].save = save
    with pytest.raises(NonFiniteError, match=r"step 3 .* could not be saved \(CheckpointError"):
        make_trainer(make_step(**changed), checkpoints=Checkpoints(tmp_path)).run()


def test_long_lists_are_cut_short() -> None:
    changed = parts("loss")
    changed["batching"] = Batching(12)
    with pytest.raises(NonFiniteError, match=r"inf, -?inf, -?inf and 8 more, at the prompts '"):
        make_trainer(make_step(**changed)).run()


@pytest.mark.parametrize("first", ["as it comes", "rewards", "gradients"])
def test_runaway_weights_are_not_called_good(tmp_path: Path, first: str) -> None:
    # Which quantity overflows first under weights of 1e300 depends on the order of sums; whatever
    # it is, what is saved is not called good.
    parts: dict[str, object] = {"backbone": FakeBackbone()}
    if first == "rewards":
        parts["reward"] = lambda images, prompts: images.mean((1, 2, 3)) / 0
    elif first == "gradients":
        bias = parts["backbone"].module.bias
        bias.register_hook(lambda gradient: gradient / 0)
    with torch.no_grad():
        for parameter in parts["backbone"].trainable().values():
            if first != "as it comes":
                # Finite latents come of them, for they differ in size and not in what they do.
                parameter.copy_(torch.zeros_like(parameter))
                parameter.view(-1)[0] = 1e300
    rate = 1e300 if first == "as it comes" else 1e-3
    with pytest.raises(NonFiniteError, match="these are the ones that failed") as caught:
        make_trainer(
            make_step(**parts), optimizer=AdamW(rate), checkpoints=Checkpoints(tmp_path)
        ).run()
    assert "no checkpoint was written before" in str(caught.value)
    (place,) = tmp_path.iterdir()
    assert place.name.startswith("failed-")


def test_runaway_weights_are_not_saved_as_final(tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make_trainer(
        steps=1,
        optimizer=AdamW(1e300),
        checkpoints=Checkpoints(tmp_path),
        observers=[recorder],
        averaging=Averaging(0.5),
    )
    with pytest.raises(NonFiniteError, match="step 1 was stopped after the optimizer") as caught:
        trainer.run()
    assert caught.value.quantity == "parameters"
    assert "No parameter was changed" not in str(caught.value)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["failed-000001", "failed-000001-averaged"]
    assert recorder.closed == 1


def test_failed_state_names_the_checkpoint_before(tmp_path: Path) -> None:
    changed = parts("latents")
    trainer = make_trainer(
        make_step(**changed), checkpoints=Checkpoints(tmp_path, SavePolicy(every=1))
    )
    with pytest.raises(NonFiniteError) as caught:
        trainer.run()
    # That of step 2 has the very parameters that failed.
    place = tmp_path / "step-000001"
    assert f"the newest checkpoint before is that of step 1, {place}" in str(caught.value)


def test_parameters_that_are_not_finite_are_named() -> None:
    broken = {"weight": torch.ones(2), "bias": torch.tensor([torch.inf])}
    assert describe_parameters(broken) == "1 of 2 parameters are not finite (`bias`)"
    assert describe_parameters({"weight": torch.ones(2)}) is None
    huge = {"weight": torch.full((4,), 3e38)}
    assert "their norm is not finite" in describe_parameters(huge)

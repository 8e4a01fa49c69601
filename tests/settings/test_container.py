"""The container: every part built once, and any part replaced from Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from dependency_injector import providers

from flowbp.cli.rehearsal import try_observer
from flowbp.cli.run.execution import execute
from flowbp.component_errors import ComponentError
from flowbp.config import ConfigurationError
from flowbp.core import SampleClip
from flowbp.settings import RunContainer, chosen_device, load
from flowbp.settings.schema import TrainingSettings
from flowbp.training import (
    JsonLines,
    Observer,
    PortionLines,
    SampleGrids,
    TensorBoard,
    Trackio,
)

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


def container(*typed: str) -> RunContainer:
    return RunContainer(settings=load(typed).settings)


class Redness:
    """A reward made in Python."""

    def __init__(self) -> None:
        self.scored = 0

    def __call__(self, images, prompts):
        self.scored += len(images)
        return images[:, 0].mean((1, 2)) - images[:, 1:].mean((1, 2, 3))


def test_any_part_can_be_replaced(yaml, tmp_path, capsys):
    parts, reward = container(yaml), Redness()
    parts.reward.override(providers.Object(reward))
    parts.prompts.override(providers.Object(OnePrompt()))
    assert execute(parts) is None
    # Two in the try before the run.
    assert reward.scored == 2 + 4
    # Once for the try, once to know what to encode, and once to train.
    assert OnePrompt.asked == 3
    assert "prompts, reward" in capsys.readouterr().out
    first = (tmp_path / "run" / "configuration.yaml").read_text().splitlines()[0]
    assert first == "# Replaced from Python in this run: prompts, reward."


class OnePrompt:
    """A prompt source made in Python."""

    asked = 0

    def stream(self, generator):
        OnePrompt.asked += 1
        while True:
            yield "a circle"


def test_heavy_parts_are_built_once(yaml):
    parts = container(yaml)
    assert parts.backbone() is parts.backbone() is parts.step().backbone.backbone
    assert parts.model() is parts.step().backbone
    assert parts.reward() is parts.trainer().step.reward
    assert parts.backbone().device == torch.device("cpu") == parts.device()


def test_containers_share_nothing(yaml):
    one, other = container(yaml), container(yaml, "optimizer.learning_rate=0.5")
    one.reward.override(providers.Object("mine"))
    assert not other.reward.overridden
    assert one.optimizer().learning_rate != other.optimizer().learning_rate == 0.5


def test_absent_sections_build_nothing(yaml):
    parts = container(yaml, "observers={json_lines: false, tensorboard: false}")
    assert parts.judge() is None and parts.snapshots() is None
    assert parts.evaluation_sampling() is None and parts.held_out() == ()
    assert parts.observers() == ()


def test_anchor_holds_to_the_model_as_it_was_built(yaml):
    parts = container(yaml, "anchor.strength=0.5")
    step = parts.step()
    assert step.anchor is parts.anchor() and step.anchor.strength == 0.5
    assert container(yaml).anchor() is None


class Bare:
    """A third party's backbone: the protocol and nothing more."""

    def __init__(self, backbone) -> None:
        for name in ("module", "device", "encode", "noise", "sigmas", "velocity", "decode", "save"):
            setattr(self, name, getattr(backbone, name))
        self.trainable = backbone.trainable


def test_backbone_that_has_no_reference_is_refused_only_where_it_needs_one(yaml, tmp_path):
    parts = container(yaml, "anchor.strength=0.5", "embeddings.folder=null")
    parts.backbone.override(providers.Object(Bare(parts.backbone())))
    with pytest.raises(
        ConfigurationError, match=r"anchor: `anchor` needs a backbone .* Bare has none"
    ) as no:
        execute(parts)
    assert "write anchor=null" in str(no.value) and not (tmp_path / "run").exists()
    parts = container(yaml, "embeddings.folder=null")
    parts.backbone.override(providers.Object(Bare(parts.backbone())))
    execute(parts)


def test_observers_follow_their_switches(yaml):
    parts = container(yaml, "samples.every=1", "observers.tensorboard=true")
    kinds = [SampleGrids, JsonLines, PortionLines, TensorBoard]
    assert [type(each) for each in parts.observers()] == kinds


def test_sample_pictures_are_those_of_the_evaluation(yaml):
    evaluation = "evaluation={prompts: {name: shapes, count: 12}, noise_seed: 5}"
    parts = container(yaml, "samples={every: 1, count: 3}", evaluation)
    snapshots = parts.snapshots()
    assert snapshots.seed == 5
    assert snapshots.prompts == tuple(prompt.text for prompt in parts.held_out()[:3])


def test_sample_pictures_without_an_evaluation_are_of_training_prompts(yaml):
    parts = [container(yaml, "samples={every: 1, count: 3}", "run.seed=4") for _ in range(2)]
    assert len(parts[0].snapshots().prompts) == 3 and parts[0].snapshots().seed == 4
    assert parts[0].snapshots() == parts[1].snapshots()


def test_evaluation_follows_the_sampling_unless_told(yaml):
    prompts = "evaluation.prompts={name: shapes, count: 6}"
    assert container(yaml, prompts).evaluation_sampling().steps == 4
    assert container(yaml, prompts, "evaluation.steps=9").evaluation_sampling().steps == 9


def test_guidance_of_zero_is_not_taken_for_none(yaml):
    prompts = "evaluation={prompts: {name: shapes, count: 6}, guidance: 0}"
    assert container(yaml, prompts).evaluation_sampling().guidance == 0


def test_a_policy_and_a_clamp_reach_the_backbone(yaml):
    parts = container(
        yaml,
        "backbone.policy={weights: float32, compute: bfloat16}",
        "backbone.clamp={name: returning}",
    )
    backbone = parts.backbone()
    assert backbone.policy.compute == torch.bfloat16
    assert backbone.decoder.clamp.__name__ == "returning_clamp"


def test_device_auto_takes_what_there_is():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert chosen_device("auto").type == expected


def test_sample_pictures_are_sampled_as_the_evaluation_is(yaml):
    evaluation = "evaluation={prompts: {name: shapes, count: 6}, steps: 9, batch: 3}"
    parts = container(yaml, "samples={every: 1, count: 3}", evaluation, "batching.decode=1")
    sampling = parts.snapshots().sampling
    assert sampling == parts.evaluation_sampling()
    assert (sampling.steps, sampling.batch, sampling.decode) == (9, 3, 1)


def test_samples_are_clipped_where_the_yaml_says_so(yaml):
    assert container(yaml, "training.sample_clip=null").step().sample_clip is None
    assert container(yaml, "training.sample_clip=0.5").step().sample_clip == SampleClip(0.5)


def test_average_warms_up_unless_told():
    default = TrainingSettings(steps=10).averaging
    assert default.warmup and default.start_share(10) < 0.01


def test_a_published_reward_shares_what_it_loads_within_the_run(yaml, models):
    parts = container(yaml, f"reward={{name: pickscore, source: {models}/reward}}")
    assert parts.reward().towers is parts.towers()
    assert len(parts.towers()) == 1
    assert parts.reward().clip.model is not container(yaml).reward().model


class Configured(Observer):
    """Takes all that an observer is offered."""

    def __init__(self, folder: Path, steps: int, configuration: Mapping[str, Any]) -> None:
        self.offered = (folder.name, steps, configuration["training"]["steps"])


class WithoutRows(Observer):
    def begin(self) -> None:
        return


def observed(yaml, name: str):
    found = f"observers={{json_lines: false, others: [{{name: '{__name__}:{name}'}}]}}"
    return container(yaml, found)


def test_an_observer_gets_folder_steps_and_configuration(yaml):
    (observer,) = observed(yaml, "Configured").observers()
    assert observer.offered == ("run", 2, 2)


def test_an_event_that_an_observer_cannot_take_is_told_before_the_run(yaml):
    with pytest.raises(ComponentError, match=r"WithoutRows has a `begin` that does not take"):
        observed(yaml, "WithoutRows").observers()
    component = observed(yaml, "WithoutRows").settings().observers.others[0]
    with pytest.raises(ComponentError, match=r"during the rehearsal of the observers"):
        try_observer(component, 2)


def test_trackers_get_the_whole_configuration(yaml):
    pytest.importorskip("trackio", reason="the extra `trackio` is not installed")
    parts = container(yaml, "observers={json_lines: false, trackio: {project: mine}}")
    (tracker,) = parts.observers()
    assert isinstance(tracker, Trackio)
    assert tracker.record == parts.settings().run.folder / "trackio.json"

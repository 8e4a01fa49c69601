"""GenEval, the judge that answers, diversity and distance by name in YAML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
import torch

from flowbp.config import Component, ConfigurationError, read_text, structure
from flowbp.evaluation import HeldOutPrompt, Metric, PictureSet
from flowbp.evaluation.metrics import BaseDistance, Diversity, PixelDistance, UnifiedReward
from flowbp.evaluation.metrics.geneval import GenEval
from flowbp.prompts import HeldOutSource
from flowbp.rewards import Towers
from flowbp.settings import METRICS, REGISTRIES, SCALARS, built_metric
from flowbp.settings.metric_factories import PointsByEmbedding, reward_metric, threshold_judge
from flowbp.shapes.embedded import reward_folder

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"
CLIP = reward_folder()
TASK = {
    "tag": "single_object",
    "include": [{"class": "dog", "count": 1}],
    "prompt": "a photo of a dog",
}


@attrs.frozen(kw_only=True)
class Asked:
    """What an evaluation's YAML names."""

    metric: Component[Metric] | None = None
    prompts: Component[HeldOutSource] | None = None


@attrs.frozen(kw_only=True)
class All:
    """Several metrics by label."""

    metrics: Mapping[str, Component[Metric]]


def read(text):
    tree = read_text(text, "asked.yaml")
    return structure(Asked, tree, registries=REGISTRIES, scalars=SCALARS)


@pytest.fixture
def metadata(tmp_path):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text(json.dumps(TASK))
    return path


def pictures(seed):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    prompts = [HeldOutPrompt("a")] * 2
    return PictureSet(label="m", prompts=prompts, numbers=[0, 0], seeds=[0, 1], pictures=images)


def test_the_names():
    added = {"geneval", "unified_reward", "diversity", "distance", "pixel_distance"}
    assert added <= set(METRICS.names())


def test_geneval_is_checked_before_anything_loads(metadata):
    component = read(f"metric: {{name: geneval, metadata: {metadata}, batch: 2}}").metric
    assert component.target is GenEval
    with pytest.raises(ConfigurationError) as caught:
        read("metric: {name: geneval, metadata: /no/file, source: /no/path, batch: 0}")
    told = str(caught.value)
    for piece in ("metric.metadata: must be a file", "metric.source: must be", "metric.batch"):
        assert piece in told
    metadata.write_text("{}")
    with pytest.raises(ConfigurationError, match="line 1: `include` is missing"):
        read(f"metric: {{name: geneval, metadata: {metadata}}}")


def test_geneval_prompts_are_held_out(metadata):
    source = read(f"prompts: {{name: geneval, metadata: {metadata}}}").prompts.build()
    assert [(prompt.text, prompt.kind) for prompt in source.prompts()] == [
        ("a photo of a dog", "single_object")
    ]


def test_the_judge_is_checked_before_anything_loads():
    asked = "metric: {name: unified_reward, source: owner/name, question: 'Rate {prompt}'}"
    assert read(asked).metric.target is UnifiedReward
    with pytest.raises(ConfigurationError) as caught:
        read("metric: {name: unified_reward, source: /no/path, tokens: 0}")
    told = str(caught.value)
    for piece in ("metric.source: must be", "metric.tokens", "must be what UnifiedReward is asked"):
        assert piece in told


@pytest.mark.parametrize(
    ("name", "kind"),
    [("diversity", Diversity), ("distance", BaseDistance), ("pixel_distance", PixelDistance)],
)
def test_metrics_of_sets_are_built_with_their_label(name, kind):
    embedding = "" if kind is PixelDistance else f", embedding: {{name: clip, source: {CLIP}}}"
    component = read(f"metric: {{name: {name}{embedding}}}").metric
    metric = built_metric("mine", component, device=torch.device("cpu"), towers=Towers())
    assert isinstance(metric, kind)
    column = metric(model=pictures(0), base=pictures(1))["mine"]
    assert column.shape == (2,) and float(column[0]) > 0


def means(images):
    return images.mean((2, 3))


def test_a_function_of_pictures_is_an_embedding():
    text = f"metric: {{name: distance, embedding: {{name: '{__name__}:means'}}}}"
    component = read(text).metric
    metric = built_metric("far", component, device=torch.device("cpu"), towers=Towers())
    assert metric.embedding is means


def test_what_the_documentation_shows_is_read(metadata, monkeypatch):
    monkeypatch.chdir(metadata.parent)
    (metadata.parent / "question.txt").write_text("Rate {prompt}")
    blocks = re.findall(r"```yaml\n(.*?)```", DOCUMENTATION.read_text(), flags=re.DOTALL)
    metrics, prompts = (read_text(block, "docs/metrics.md") for block in blocks)
    found = structure(All, metrics, registries=REGISTRIES, scalars=SCALARS).metrics
    assert list(found) == ["geneval", "judge", "diversity", "distance", "pixels", "words"]
    asked = structure(Asked, prompts, registries=REGISTRIES, scalars=SCALARS)
    assert len(asked.prompts.build().prompts()) == 1


def test_a_reward_is_a_metric_and_from_a_score_on_a_judge():
    bright = Component("bright", lambda: lambda images, prompts: images.mean((1, 2, 3)))
    assert reward_metric(reward=bright, label="brightness").label == "brightness"
    judge = threshold_judge(reward=bright, at_least=0.5)
    images = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    assert judge(images, ["a", "b"]).tolist() == [0.0, 1.0]


def test_embeddings_that_are_configured_alike_share_their_points():
    component = Component("means", lambda: means)
    points = PointsByEmbedding()
    assert points.of(component) is points.of(component)
    assert points.of(component) is not points.of(Component("others", lambda: means))

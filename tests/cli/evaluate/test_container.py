"""Every part of an evaluation is typed, and can be replaced from Python."""

from __future__ import annotations

import pytest
from dependency_injector import providers

from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.execution import execute
from flowbp.cli.evaluate.preflight import load
from flowbp.evaluation import HeldOutPrompt

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


def test_no_provider_is_of_any_type():
    annotations = EvaluationContainer.__annotations__
    assert annotations.keys() == EvaluationContainer.providers.keys()
    for annotation in annotations.values():
        kind, _, built = annotation.removesuffix("]").partition("[")
        assert kind in ("Dependency", "Provider", "Singleton") and built not in ("", "Any")


def test_parts_that_were_replaced_are_taken(evaluation_yaml, models):
    from flowbp.adapters import SD3Backbone

    typed = [evaluation_yaml, "prompts.count=2", "evaluation.seeds=[3]"]
    container = EvaluationContainer(settings=load(typed).settings)
    backbone = SD3Backbone.from_pretrained(models / "base", use_t5=False, text_length=4)
    of_ours = (HeldOutPrompt("a circle"), HeldOutPrompt("a cross"))
    made = []

    def metric(label, component):
        made.append(label)
        return lambda images, prompts: images.mean((1, 2, 3))

    container.backbone.override(providers.Object(backbone))
    container.prompts.override(providers.Object(of_ours))
    container.metric.override(providers.Callable(metric))
    scores = execute(container)
    assert [row.prompt for row in scores.rows] == ["a circle", "a cross"]
    assert made == ["likeness"] and scores.columns == ("likeness",)
    assert all(0 < row.values["likeness"] < 1 for row in scores.rows)

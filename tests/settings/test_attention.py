"""`run.attention`: refused where it is not there, and set before anything is compiled."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters.attention_kernels import AUTO, CHOICES
from flowbp.cli.run.execution import execute
from flowbp.config import ConfigurationError
from flowbp.settings import RunContainer, RunSettings, container, load
from flowbp.settings.device import fault_of_attention
from flowbp.settings.loader import problems_of
from flowbp.settings.preflight import reading_checks
from flowbp.training import Ranks

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


@pytest.fixture
def with_cuda(monkeypatch):
    """A machine that says it has a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def refused(*typed):
    with pytest.raises(ConfigurationError) as caught:
        load(typed)
    (problem,) = caught.value.problems
    assert problem.path == "run.attention"
    return str(problem)


def test_a_run_names_its_attention(yaml, tmp_path):
    assert RunSettings(folder=tmp_path).attention == AUTO
    for name, said in {"fast": "'native', got 'fast'", "cudnn": "a kernel of CUDA"}.items():
        assert said in refused(yaml, "run.device=cpu", f"run.attention={name}")
    assert list(fault_of_attention("run", "cudnn", "cuda")) == []


def kernel_problems(*typed, replaced=()):
    """What is found before a model is loaded."""
    return [*map(str, problems_of(reading_checks(replaced), load(typed).settings))]


def test_a_kernel_is_refused_for_a_model_in_float32_before_it_is_loaded(yaml, with_cuda):
    typed = [yaml, "run.device=cuda", "run.attention=flash"]
    (said,) = kernel_problems(*typed)
    assert said.startswith("run.attention: is 'flash', a kernel of half precision")
    assert "computes in float32; write auto, or backbone.policy=" in said
    half = "backbone.policy={weights: float32, compute: bfloat16}"
    assert kernel_problems(*typed, half) == []
    assert kernel_problems(yaml, "run.device=cuda") == []
    # A model of others is asked when it is there.
    assert kernel_problems(*typed, replaced=["backbone"]) == []


def test_the_embedded_model_has_no_policy_to_change(yaml, with_cuda):
    typed = ["run.device=cuda", "run.attention=flash", "backbone={name: shapes}"]
    size = ["sampling.height=64", "sampling.width=64"]
    (said,) = kernel_problems(yaml, *typed, *size)
    assert said.endswith("computes in float32; write auto")


class Second(Ranks):
    rank, size = 1, 2


@pytest.mark.parametrize("ranks", [Ranks(), Second()], ids=["first", "second"])
def test_it_is_set_before_the_network_is_compiled(ranks, yaml, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(container, "set_attention", lambda *of, **how: called.append((of, how)))
    monkeypatch.setattr(
        container, "compile_backbone", lambda backbone, **how: called.append(backbone)
    )
    settings = load([yaml, "run.attention=native", "run.compile=true"]).settings
    parts = RunContainer(settings=settings, ranks=ranks)
    tuned = parts.tuned()
    (((backbone, name), how), compiled) = called
    assert backbone is compiled is tuned and name == "native"
    assert how["agree"] == ranks.agreed and how.keys() == {"agree", "say"}
    how["say"]("a line")
    assert capsys.readouterr().out == ("a line\n" if ranks.first else "")


def test_a_run_leaves_nothing_behind(yaml, monkeypatch):
    before, during = (CHOICES.agree, CHOICES.say, CHOICES.key), []
    parts = RunContainer(settings=load([yaml]).settings)
    plain = container.set_attention

    def watched(*given, **options):
        plain(*given, **options)
        during.append((CHOICES.agree, CHOICES.say, CHOICES.key))

    monkeypatch.setattr(container, "set_attention", watched)
    execute(parts)
    assert during == [(parts.ranks().agreed, container._say, "run.attention")]
    assert (CHOICES.agree, CHOICES.say, CHOICES.key) == before

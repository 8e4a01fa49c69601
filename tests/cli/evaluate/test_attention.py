"""`evaluation.attention`: as a run's, under its own key."""

from __future__ import annotations

import pytest
import torch

from flowbp.adapters.attention_kernels import CHOICES
from flowbp.cli.evaluate import container, preflight
from flowbp.cli.evaluate.preflight import load, run_preflight
from flowbp.config import ConfigurationError
from flowbp.evaluate import main
from flowbp.training import ALONE

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

KEY = "evaluation.attention"


@pytest.mark.parametrize(
    ("given", "said"),
    [("fast", "must be 'auto' or 'cudnn' or"), ("cudnn", "is 'cudnn', a kernel of CUDA")],
)
def test_one_that_is_not_there_is_refused(given, said, evaluation_yaml):
    with pytest.raises(ConfigurationError) as refused:
        load([evaluation_yaml, f"{KEY}={given}"])
    (problem,) = refused.value.problems
    assert problem.path == KEY and said in str(problem)


def test_a_kernel_is_refused_for_a_model_in_float32(evaluation_yaml, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(preflight, "made_up_pictures", lambda *_: torch.zeros(1, 3, 16, 16))

    def check(*more):
        typed = [evaluation_yaml, "evaluation.device=cuda", f"{KEY}=flash", *more]
        run_preflight(container.EvaluationContainer(settings=load(typed).settings))

    with pytest.raises(ConfigurationError) as refused:
        check()
    (problem,) = refused.value.problems
    assert problem.path == KEY and "computes in float32" in str(problem)
    check("backbone.policy={weights: bfloat16, compute: bfloat16}")


def test_it_is_set_before_the_network_is_compiled_and_ends_with_it(
    evaluation_yaml, monkeypatch, capsys
):
    before, called, plain = (CHOICES.agree, CHOICES.say, CHOICES.key), [], container.set_attention

    def watched(backbone, name, **how):
        plain(backbone, name, **how)
        called.append((backbone, name))
        assert CHOICES.agree == how["agree"] == ALONE.agreed and CHOICES.key == KEY
        CHOICES.say("a line of attention")

    monkeypatch.setattr(container, "set_attention", watched)
    monkeypatch.setattr(container, "compile_backbone", called.append)
    typed = ["prompts.count=2", "evaluation.compile=true", f"{KEY}=native"]
    assert main([evaluation_yaml, *typed]) == 0
    ((backbone, name), compiled) = called
    assert backbone is compiled and name == "native"
    assert "a line of attention\n" in capsys.readouterr().out
    assert (CHOICES.agree, CHOICES.say, CHOICES.key) == before

"""What foreign code raises or returns wrongly is one sentence that names it."""

from __future__ import annotations

import functools
import sys

import pytest
import torch

from flowbp.component_errors import (
    ComponentError,
    calling,
    dotted_path,
    during,
    foreign_error,
    foreign_frames,
    is_foreign,
    is_ours,
    passes,
    raised,
    shown,
    wrong,
)
from flowbp.rank_errors import RankEndedError, RanksDifferError

PATH = "flowbp.component_errors:dotted_path"


def test_an_error_says_which_component_did_what_when_and_where():
    error = ComponentError("the reward mine:red", "must return a tensor, got None", ["a", "a"])
    error.stage = "step 3 of the training"
    assert str(error) == (
        "the reward mine:red must return a tensor, got None; during step 3 of the training, at "
        "the prompt 'a'"
    )
    many = ComponentError("it", "failed", list("abcdef"))
    assert str(many) == "it failed; at the prompts 'a', 'b', 'c', 'd' and 2 more"


def test_a_partial_has_the_path_of_its_function():
    assert dotted_path(functools.partial(dotted_path)) == dotted_path(dotted_path) == PATH
    assert dotted_path(ComponentError("a", "b")) == "flowbp.component_errors:ComponentError"
    assert is_ours(dotted_path) and not is_ours(print)


def test_what_a_component_raises_names_it_its_prompts_and_the_stage():
    with (
        pytest.raises(ComponentError) as caught,
        during("step 3 of the training"),
        calling("reward", dotted_path, ["a circle"]),
    ):
        raise KeyError("red")
    assert str(caught.value) == (
        f"the reward {PATH} raised KeyError: 'red'; during step 3 of the training, at the prompt "
        "'a circle'"
    )
    assert str(wrong("metric `m`", dotted_path, "is odd")) == f"the metric `m` ({PATH}) is odd"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), ComponentError("a", "b")])
def test_what_is_no_fault_of_a_component_passes(error):
    assert passes(error) and not passes(KeyError("a"))
    with pytest.raises(type(error)) as caught, calling("reward", dotted_path):
        raise error
    assert caught.value is error


def test_an_error_of_nobodys_code_is_nobodys():
    error = ValueError("nobody raised it")
    assert foreign_error(error) is None and foreign_frames(error) == []
    assert not is_foreign(sys._getframe().f_back)


def test_an_error_and_a_value_are_shown_in_a_few_words():
    assert raised(KeyError("red")) == "raised KeyError: 'red'"
    assert raised(SystemExit(1)) == "raised SystemExit: 1"
    assert shown(torch.zeros(2, 1)) == "shape (2, 1) of float32"
    assert (shown(None), shown([0.5])) == ("None", "the list [0.5]")
    assert shown([0.5] * 99) == "a list"


@pytest.mark.parametrize("kind", [RankEndedError, RanksDifferError])
def test_the_end_of_another_process_is_no_component_s_fault(kind):
    with pytest.raises(kind, match="rank 1"), during("the training"), calling("reward", print):
        raise kind("rank 1")

"""One metric after the other is loaded, its results written at once, and it is let go."""

from __future__ import annotations

import itertools
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbp.cli.evaluate.measurement import sharing_order
from flowbp.evaluate import main
from flowbp.rewards import Towers

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

HERE = "tests.cli.evaluate.metrics_of_ours"


@pytest.fixture
def loads(monkeypatch):
    """What was loaded, and how many models were alive after each."""
    found = []
    get = Towers.get

    def counted(self, place, *, load, **named):
        def loading():
            found.append(str(place).rsplit("/", 1)[-1])
            return load()

        model = get(self, place, load=loading, **named)
        alive.append(len(self))
        return model

    alive = []
    monkeypatch.setattr(Towers, "get", counted)
    return found, alive


def test_models_that_are_shared_stay_and_others_go(evaluation_yaml, models, tmp_path, loads):
    a, b = (shutil.copytree(models / "reward", tmp_path / name) for name in "ab")
    far = f"{{name: distance, embedding: {{name: clip, source: {a}}}}}"
    typed = [
        f"metrics.first={{name: clip, source: {a}}}",
        f"metrics.second={{name: clip, source: {b}}}",
        f"metrics.third={far}",
    ]
    assert main([evaluation_yaml, *typed, "prompts.count=2"]) == 0
    loaded, alive = loads
    assert sorted(loaded) == ["a", "b", "reward"] and max(alive) == 1
    # In the order of the configuration, whatever that of the loading was.
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(found["rows"][0]["values"]) == ["likeness", "first", "second", "third"]


def test_the_embedded_reward_shares_its_model_too(evaluation_yaml, loads):
    from flowbp.shapes.embedded import reward_folder

    far = f"{{name: distance, embedding: {{name: clip, source: {reward_folder()}}}}}"
    typed = ["metrics.ours.name=shapes", f"metrics.far={far}", "prompts.count=1"]
    assert main([evaluation_yaml, *typed]) == 0
    loaded, alive = loads
    assert len(loaded) == 2 and max(alive) == 1


def test_what_was_measured_before_a_failure_is_written(evaluation_yaml, tmp_path, capsys, loads):
    typed = [f"metrics.gone.name={HERE}:Unbuildable", f"metrics.far.name={HERE}:Distance"]
    assert main([evaluation_yaml, *typed]) == 1
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert all(list(row["values"]) == ["likeness"] for row in found["rows"])
    told = {failure["metric"]: failure["message"] for failure in found["failures"]}
    assert told == dict.fromkeys(["gone", "far"], "not measured yet; --resume continues")
    assert (tmp_path / "out" / "scores.csv").is_file()


def test_what_is_kept_is_not_loaded_again(evaluation_yaml, models, tmp_path, loads, capsys):
    far = f"{{name: distance, embedding: {{name: clip, source: {models}/reward}}}}"
    typed = [evaluation_yaml, f"metrics.far={far}", f"metrics.own.name={HERE}:Distance"]
    assert main(typed) == 0
    scores = (tmp_path / "out" / "scores.json").read_bytes()
    loaded = loads[0]
    assert loaded == ["reward"]
    assert main([*typed, "--resume"]) == 0
    assert loaded == ["reward"] and (tmp_path / "out" / "scores.json").read_bytes() == scores
    assert capsys.readouterr().out.count("all values are there") == 3
    # A picture more, and what was found of all pictures together holds no longer.
    assert main([*typed, "evaluation.seeds=[3, 4, 5]", "--resume"]) == 0
    told = capsys.readouterr()
    assert "all values are there" not in told.out and "measuring own: 18 pictures" in told.err
    found = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert all(len(row["values"]) == 3 for row in found["rows"])


def peak(order, towers):
    """The largest number of models that are alive in an order."""
    found = 0
    for place in range(len(order)):
        before, after = order[:place], order[place + 1 :]
        of = [frozenset().union(*(towers[label] for label in part)) for part in (before, after)]
        found = max(found, len(towers[order[place]] | (of[0] & of[1])))
    return found


@given(st.lists(st.frozensets(st.sampled_from("xyz"), max_size=2), max_size=5))
def test_the_order_is_complete_and_near_the_best(read):
    towers = {str(number): places for number, places in enumerate(read)}
    order = sharing_order(towers)
    assert sorted(order) == sorted(towers)
    best = min((peak(each, towers) for each in itertools.permutations(towers)), default=0)
    assert peak(order, towers) <= max(best + 1, 2)


def test_nothing_shared_is_nothing_moved():
    towers = {label: frozenset(label) for label in "cab"} | {"d": frozenset()}
    assert sharing_order(towers) == list("cabd")


def test_every_picture_is_embedded_once(evaluation_yaml, checkpoints):
    from .metrics_of_ours import EMBEDDED

    EMBEDDED.clear()
    embedding = f"embedding: {{name: '{HERE}:tones'}}"
    typed = [
        "models.base={}",
        f"models.mine.checkpoint={checkpoints['lora']}",
        f"metrics.far={{name: distance, {embedding}}}",
        f"metrics.spread={{name: diversity, {embedding}}}",
    ]
    assert main([evaluation_yaml, *typed]) == 0
    assert sum(EMBEDDED) == 2 * 12

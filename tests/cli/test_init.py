"""`flowbp init` writes what runs, for every model, method and reward, and over nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowbp.cli.init.starting_point import chosen, methods, models, rewards
from flowbp.config import ConfigurationError
from flowbp.core import Bridge, Hinge, Linear, Sparse
from flowbp.rewards import PickScore
from flowbp.run import main
from flowbp.settings import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def written(*words):
    """The settings of what is written for these words."""
    Path("container.yaml").unlink(missing_ok=True)
    assert main(["init", *words]) == 0
    return load(["container.yaml"]).settings


def test_without_words_it_is_the_configuration_of_the_clone():
    written()
    assert Path("container.yaml").read_text() == (ROOT / "container.yaml").read_text()
    assert [path.name for path in Path().iterdir()] == ["container.yaml"]


@pytest.mark.parametrize("method", methods())
def test_every_method_can_be_named(method):
    assert type(written(method).method).__name__.lower() == method.replace("_", "")


@pytest.mark.parametrize("reward", rewards())
def test_every_reward_can_be_named(reward):
    found = written(reward, "flux2_klein")
    assert found.reward.name == reward
    # The published loss is in the units of the published reward.
    assert found.loss == (Hinge(0.55) if reward == "hpsv2" else Linear())
    Path("container.yaml").unlink()
    embedded = written("shapes", reward)
    assert embedded.loss == (Hinge(0.69) if reward == "shapes" else Linear())


def test_every_model_can_be_named():
    families = {"shapes", "flux1", "flux2", "sd3", "qwen_image", "z_image"}
    assert {written(model, "clipscore").backbone.name for model in models()} == families


def test_a_model_whose_preset_has_a_method_takes_another():
    assert written("qwen_image").method == Bridge(active=5)
    assert written("qwen_image", "sparse", "pickscore").method == Sparse()
    assert "\nmethod: sparse\n" in Path("container.yaml").read_text()


def test_words_stand_in_any_order_and_over_the_presets():
    found = written("pickscore", "bridge", "sd35_medium")
    assert found == written("sd35_medium", "pickscore") == written("sd35_medium", "pickscore")
    assert found.method == Bridge(active=5, late_bias=4.0, rescale=0.0, alpha=0.5)
    assert found.reward.target == PickScore and found.sampling.steps == 25
    assert len(found.prompts) == 24 and len(found.evaluation.prompts.prompts()) == 8
    assert written("sparse").method == Sparse(active=4)


def test_what_is_there_is_never_changed(capsys):
    Path("prompts.txt").write_text("mine")
    written("sd35_medium")
    assert Path("prompts.txt").read_text() == "mine"
    assert "prompts.txt is there already, and stays as it is" in capsys.readouterr().out
    before = Path("container.yaml").read_text()
    assert main(["init"]) == 2
    told = capsys.readouterr().err
    assert "container.yaml is there already, and is not changed; move it" in told
    assert Path("container.yaml").read_text() == before
    # A link that leads nowhere is there, too.
    Path("container.yaml").unlink()
    Path("container.yaml").symlink_to("nowhere")
    assert main(["init"]) == 2
    assert not Path("nowhere").exists()


def test_all_that_is_wrong_with_the_words(capsys):
    assert main(["init", "brigde", "sd35_medium", "flux1_dev", "weighted", "sparse", "refl"]) == 2
    told = capsys.readouterr().err
    assert "'brigde' is no model, method or reward. Did you mean `bridge`? Models: `shapes`" in told
    assert all(f"`{name}`" in told for name in (*models(), *methods(), *rewards()))
    assert "hpsv3" not in rewards()
    assert "`weighted` is a reward that needs `parts` too; start with another" in told
    assert "`sd35_medium`, `flux1_dev` are models; name one of them" in told
    assert "`sparse`, `refl` are methods; name one of them" in told
    assert not list(Path().iterdir())


def test_a_method_without_a_preset_for_the_model(monkeypatch):
    Path("a.yaml").write_text("backbone: {name: sd3}")
    found = {"presets/a.yaml": Path("a.yaml"), "presets/a/sparse.yaml": Path("b.yaml")}
    monkeypatch.setattr("flowbp.cli.init.starting_point.presets", lambda: found)
    with pytest.raises(ConfigurationError, match=r"`bridge` has no preset for a; .* `sparse`"):
        chosen(["a"])

"""What a model was trained on is found in its run, and the report warns of what fell meanwhile."""

from __future__ import annotations

import shutil

import pytest

from flowbp.cli.evaluate.models import trained_on, unmeasured
from flowbp.cli.evaluate.preflight import load
from flowbp.config import ConfigurationError
from flowbp.evaluate import main
from flowbp.settings import identity, resolved
from flowbp.settings import load as load_run
from flowbp.training.checkpoint import write_manifest

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

HERE = "tests.cli.evaluate.metrics_of_ours"


@pytest.fixture
def settings(evaluation_yaml):
    return lambda *typed: load([evaluation_yaml, *typed]).settings


def test_a_checkpoint_in_its_run_is_known(settings, checkpoints, models):
    mine = f"models={{base: {{}}, mine: {{checkpoint: {checkpoints['full']}}}}}"
    assert trained_on(settings(mine)) == {"mine": ("likeness",)}
    nested = f"metrics.again={{name: reward, reward: {{name: clip, source: {models}/reward}}}}"
    larger = "metrics.likeness.logit_scale=false"
    assert trained_on(settings(mine, nested, larger)) == {"mine": ("likeness", "again")}
    other = f"metrics.likeness={{name: pickscore, source: {models}/reward}}"
    assert trained_on(settings(mine, other)) == {}
    assert unmeasured(settings(mine, other)) == {"mine": "clip"}
    assert unmeasured(settings(mine)) == {}


def run(folder, configuration):
    """The checkpoint of a run of which there is the configuration alone."""
    (folder / "run/checkpoints").mkdir(parents=True)
    (folder / "run/configuration.yaml").write_text(configuration)
    return folder / "run/checkpoints/final"


def run_settings(folder, reward):
    """The settings of a run on a reward."""
    typed = [
        f"run.folder={folder / 'run'}",
        f"reward={reward}",
        "backbone.name=shapes",
        "prompts.name=shapes",
        "method.name=sparse",
        "loss.name=linear",
        "sampling={steps: 4, guidance: 1, height: 64, width: 64}",
        "batching.samples=2",
    ]
    return load_run(typed).settings


def saved_by(run, checkpoint, folder):
    """A copy of a checkpoint as a run of these settings would have saved it."""
    place = shutil.copytree(checkpoint, folder / "saved")
    write_manifest(place, identity=identity(run), step=1)
    return place


def test_the_parts_of_a_sum_that_were_to_rise(settings, checkpoints, tmp_path, models):
    parts = {
        "a": f"{{reward: {{name: clip, source: {models}/reward, batch: 2}}, weight: 0.5}}",
        "b": f"{{reward: {{name: '{HERE}:reward'}}, weight: -1}}",
    }
    written = ", ".join(f"{label}: {part}" for label, part in parts.items())
    sum_of = f"{{name: weighted, parts: {{{written}}}, calibration: {{prompts: 64}}}}"
    of_sum = run_settings(tmp_path, sum_of)
    place = run(tmp_path, resolved(of_sum))
    place.symlink_to(saved_by(of_sum, checkpoints["full"], tmp_path))
    dark = f"metrics.dark={{name: reward, reward: {{name: '{HERE}:reward'}}}}"
    # By where it is said to be, not by what the link leads to.
    mine = f"models={{base: {{}}, mine: {{checkpoint: {place}}}}}"
    assert trained_on(settings(mine, dark)) == {"mine": ("likeness",)}


def test_it_can_be_told(settings, checkpoints):
    mine = f"models={{base: {{}}, mine: {{checkpoint: {checkpoints['full']}, trained_on: dark}}}}"
    dark = f"metrics.dark={{name: reward, reward: {{name: '{HERE}:reward'}}}}"
    assert trained_on(settings(mine, dark)) == {"mine": ("dark",)}


def test_mistakes_are_found_at_once(evaluation_yaml, checkpoints, tmp_path, capsys):
    mine = f"models.mine={{checkpoint: {checkpoints['full']}, trained_on: light}}"
    place = run(tmp_path, "reward: [1]\n")
    place.symlink_to(checkpoints["full"])
    assert main([evaluation_yaml, mine, f"models.odd.checkpoint={place}", "--check"]) == 2
    told = capsys.readouterr().err
    assert "models.mine.trained_on: is 'light', and the metrics are likeness; name one" in told
    assert "run/configuration.yaml, which says what it was trained on, cannot be read" in told


def test_a_configuration_that_was_changed_since_is_refused(settings, checkpoints, tmp_path):
    whole = shutil.copytree(checkpoints["full"].parents[1], tmp_path / "run")
    mine = f"models={{base: {{}}, mine: {{checkpoint: {whole}/checkpoints/final}}}}"
    path = whole / "configuration.yaml"
    text = path.read_text()
    # What training does not depend on may have been changed.
    path.write_text(text.replace("folder: ", "folder: elsewhere", 1))
    assert trained_on(settings(mine)) == {"mine": ("likeness",)}
    path.write_text(text.replace("name: clip", "name: pickscore"))
    with pytest.raises(ConfigurationError) as caught:
        settings(mine)
    (problem,) = caught.value.problems
    assert problem.path == "models.mine.checkpoint" and str(path) in problem.message
    assert "write `trained_on`" in problem.message
    said = mine.replace("final}", "final, trained_on: likeness}")
    assert trained_on(settings(said)) == {"mine": ("likeness",)}
    # What the configuration leads to counts as well, and is in a file of its own.
    path.write_text(text)
    (whole / "sources.json").unlink()
    with pytest.raises(ConfigurationError, match=r"sources\.json beside it.* restore both"):
        settings(mine)


def test_a_damaged_manifest_is_reported_once_and_not_as_the_configuration(
    settings, checkpoints, tmp_path
):
    whole = shutil.copytree(checkpoints["full"].parents[1], tmp_path / "run")
    (whole / "checkpoints/final/manifest.json").write_text("{")
    with pytest.raises(ConfigurationError) as caught:
        settings(f"models={{base: {{}}, mine: {{checkpoint: {whole}/checkpoints/final}}}}")
    (problem,) = caught.value.problems
    assert "which is damaged: its manifest.json" in problem.message


def test_the_report_marks_it_and_warns(evaluation_yaml, checkpoints, tmp_path):
    typed = [
        "prompts.count=12",
        "models.base={}",
        f"models.mine={{checkpoint: {checkpoints['full']}, trained_on: rising}}",
        f"metrics.rising={{name: '{HERE}:Rising'}}",
        f"metrics.falling={{name: '{HERE}:Rising', sign: -1}}",
    ]
    assert main([evaluation_yaml, *typed]) == 0
    page = (tmp_path / "out/report.html").read_text()
    assert "mine: rising.height, which was trained on, is better" in page
    assert "falling.height is down" in page and "trained on</small>" in page

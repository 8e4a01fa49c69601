"""What a model was trained on is found in its run, and the report warns of what fell meanwhile."""

from __future__ import annotations

import pytest

from flowbp.cli.evaluate.models import trained_on, unmeasured
from flowbp.cli.evaluate.preflight import load
from flowbp.evaluate import main
from flowbp.settings import load as load_run
from flowbp.settings import resolved

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


def resolved_run(folder, reward):
    """The configuration that a run on a reward writes."""
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
    return resolved(load_run(typed).settings)


def test_the_parts_of_a_sum_that_were_to_rise(settings, checkpoints, tmp_path, models):
    parts = {
        "a": f"{{reward: {{name: clip, source: {models}/reward, batch: 2}}, weight: 0.5}}",
        "b": f"{{reward: {{name: '{HERE}:reward'}}, weight: -1}}",
    }
    written = ", ".join(f"{label}: {part}" for label, part in parts.items())
    sum_of = f"{{name: weighted, parts: {{{written}}}, calibration: {{prompts: 64}}}}"
    place = run(tmp_path, resolved_run(tmp_path, sum_of))
    place.symlink_to(checkpoints["full"])
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

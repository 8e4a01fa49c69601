"""What a run and an evaluation write down of how their pictures were sampled."""

from __future__ import annotations

import json

import pytest

from flowbp.evaluate import main as evaluate
from flowbp.evaluation import read_png
from flowbp.run import main
from flowbp.settings import load

from ...adapters.families import FAMILIES

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.0]


def texts(path):
    return read_png(path.read_bytes())[1]


def told(found):
    """Steps, guidance and height; after a look at the sigmas."""
    assert json.loads(found["sigmas"]) == pytest.approx(SIGMAS, abs=1e-6)
    return [json.loads(found[name]) for name in ("steps", "guidance", "height")]


@pytest.fixture
def flux(yaml, tmp_path):
    """A short run of FLUX.1-dev on an even grid of shift 3, its embedded guidance left out."""
    FAMILIES["flux1 dev"].pipeline().save_pretrained(tmp_path / "flux")
    return [
        yaml,
        f"backbone={{name: flux1, source: {tmp_path / 'flux'}, text_length: 16}}",
        "sampling.grid={name: even, shift: 3}",
        "samples={every: 1, count: 2}",
        "evaluation={prompts: {name: shapes, count: 12}, noise_seed: 7}",
    ]


def test_pictures_and_configuration_hold_how_they_were_sampled(flux, tmp_path, capsys):
    assert main(flux) == 0
    assert "sigmas=[1.0, 0.9, 0.75, 0.5]" in capsys.readouterr().out
    run = tmp_path / "run"
    for path in (run / "samples" / "000002.png", run / "before_after.png"):
        found = texts(path)
        assert told(found) == [4, 1.0, 16]
        assert json.loads(found["embedded_guidance"]) == 3.5 and found["seed"] == "7"
        assert found["weights"] == found["compute"] == "float32"
        assert json.loads(found["prompts"])
    assert texts(run / "samples" / "000002.png")["step"] == "2"
    listed = (run / "samples" / "prompts.txt").read_text().splitlines()
    assert json.loads(texts(run / "samples" / "000001.png")["prompts"]) == listed

    written = run / "configuration.yaml"
    comment = written.read_text().split("# What the model and the machine")[1]
    assert "embedded_guidance: 3.5" in comment and "device: cpu" in comment
    assert "sigmas: [1.0, 0.9, 0.75, 0.5, 0.0]" in comment
    assert load([str(written)], resume=True).settings == load(flux, resume=True).settings


def test_what_the_start_of_an_adapter_decides_is_written(yaml, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    lora = "tuning={name: lora, rank: 2, alpha: 8, targets: [attn.to_q, attn.to_k]}"
    assert main([yaml, lora, f"run.folder={first}"]) == 0
    start = f"tuning={{name: lora, start: {first / 'checkpoints' / 'final'}}}"
    assert main([yaml, start, f"run.folder={second}"]) == 0
    for folder, scale in ((first, 4.0), (second, 1.0)):
        comment = (
            (folder / "configuration.yaml").read_text().split("# What the model and the machine")[1]
        )
        assert f"lora_rank: [2]\n#   lora_scale: [{scale}]\n" in comment
        assert "lora_layers: 6, attn.to_k, attn.to_q\n" in comment


def test_what_a_run_wrote_is_accepted_to_go_on(yaml, tmp_path, capsys):
    assert main([yaml, "training.steps=1"]) == 0
    written = str(tmp_path / "run" / "configuration.yaml")
    assert main([written, "training.steps=2", "--resume"]) == 0
    assert main([yaml, "training.steps=3", "--resume"]) == 0
    other = "sampling.grid={name: even}"
    assert main([yaml, other, "training.steps=4", "--resume"]) == 2
    assert 'sampling.grid.name: was "model" when the run began, and is now "even"' in (
        capsys.readouterr().err
    )


def test_pictures_of_an_evaluation_hold_how_they_were_sampled(tmp_path, models):
    typed = [
        f"evaluation={{folder: {tmp_path / 'out'}, device: cpu, seeds: [3]}}",
        f"backbone={{name: sd3, source: {models}/base, text_length: 4}}",
        "prompts={name: shapes, count: 2}",
        "sampling={steps: 4, height: 16, width: 16, guidance: 2, grid: {name: even, shift: 3}}",
        "embeddings.folder=null",
    ]
    assert evaluate(typed) == 0
    found = texts(tmp_path / "out/images/base/00000-3.png")
    assert told(found) == [4, 2.0, 16]
    assert found["seed"] == "3" and found["compute"] == "float32" and found["prompt"]
    # Whole as it is, it is not made again.
    assert evaluate([*typed, "--resume"]) == 0

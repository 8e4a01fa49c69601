"""The command from end to end, and what it says when something is wrong."""

from __future__ import annotations

import json
import signal
import warnings
from html.parser import HTMLParser

import attrs
import diffusers
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from flowbp.cli.console import quiet
from flowbp.cli.run.overview import drawing
from flowbp.evaluation import from_json
from flowbp.run import main
from flowbp.settings import load

from ...adapters.tiny import tiny_transformer

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"
LARGER = [
    "sampling.height=64",
    "sampling.width=64",
    "judge.name=shapes",
    "evaluation.prompts={name: shapes, count: 6}",
    "samples={every: 1, count: 4}",
    "observers.tensorboard=true",
]


class Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.found.append(tag)


def test_run_writes_every_artefact(yaml, tmp_path, capsys):
    assert main([yaml, *LARGER]) == 0
    run, told = tmp_path / "run", capsys.readouterr()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]
    comparison = from_json((run / "comparison.json").read_text())
    assert len(comparison.before.rows) == 6 and comparison.before.judged
    page = Elements()
    page.feed((run / "report.html").read_text())
    assert page.found.count("img") >= 12 and "table" in page.found and "svg" in page.found
    grids = sorted(path.name for path in (run / "samples").glob("*.png"))
    assert grids == ["000000.png", "000001.png", "000002.png"]
    assert Image.open(run / "samples" / grids[0]).format == "PNG"
    pictures = Image.open(run / "before_after.png")
    assert pictures.size == (6 * 130 + 2, 2 * 130 + 2)
    upper = pictures.crop((0, 0, pictures.width, 130))
    assert upper.tobytes() != pictures.crop((0, 130, pictures.width, 260)).tobytes()
    assert list((run / "tensorboard").iterdir())
    pipeline = diffusers.StableDiffusion3Pipeline.from_pretrained(
        run / "checkpoints" / "final", text_encoder_3=None, tokenizer_3=None
    )
    assert pipeline.transformer.config.num_layers == 3
    for piece in ("bridge (active 3", "overall", "report.html", "evaluate before", "|"):
        assert piece in told.out
    assert "calibrate" not in told.out, "a phase in which nothing was measured"
    assert "step 2/2" in told.err and "Traceback" not in told.err and "arning" not in told.err


def test_anchor_is_told_and_its_values_are_written(yaml, tmp_path, capsys):
    typed = [yaml, "anchor.strength=0.1", "sampling.guidance=2", "observers.tensorboard=true"]
    assert main([*typed, "evaluation.prompts={name: shapes, count: 2}"]) == 0
    run, told = tmp_path / "run", capsys.readouterr()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["anchor"] == 0 and rows[1]["anchor"] > 0
    assert all(row["velocity_calls"] == 8 + 6 + 3 for row in rows)
    assert "anchor      strength 0.1, towards the model before training; 6 of the" in told.out
    assert "with 14 velocity evaluations forward and 3 backward" in told.out
    assert "anchor 0  " in told.err and "Traceback" not in told.err
    assert "Distance to the reference" in (run / "report.html").read_text()


def test_saved_configuration_is_that_of_the_run(yaml, tmp_path):
    typed = [yaml, "method={name: lagrange, pair: {name: dirichlet, end: 1, gap: 1, start: 1}}"]
    settings = load(typed).settings
    assert main(typed) == 0
    again = load([str(tmp_path / "run" / "configuration.yaml"), f"run.folder={tmp_path / 'two'}"])
    assert attrs.evolve(again.settings, run=settings.run) == settings


def test_same_seed_gives_the_same_run(yaml, tmp_path):
    weights, rows = [], []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert main([yaml, f"run.folder={tmp_path / name}", f"run.seed={seed}"]) == 0
        weights.append(load_file(tmp_path / name / "checkpoints/final" / WEIGHTS))
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        rows.append([{**json.loads(line), "seconds": None} for line in lines])
    assert rows[0] == rows[1] != rows[2]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert any(not torch.equal(weights[0][key], weights[2][key]) for key in weights[0])


def test_check_tells_and_does_nothing(yaml, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a model was loaded")

    for kind in (
        *(diffusers.SD3Transformer2DModel, diffusers.AutoencoderKL),
        *(transformers.CLIPTextModelWithProjection, transformers.CLIPModel),
    ):
        monkeypatch.setattr(kind, "from_pretrained", refuse)
    trained = sum(parameter.numel() for parameter in tiny_transformer().parameters())
    before = sorted(tmp_path.rglob("*"))
    assert main([yaml, "--check"]) == 0
    assert sorted(tmp_path.rglob("*")) == before
    told = capsys.readouterr().out
    for piece in (
        f"{trained:,} parameters",
        "bridge (active 3",
        "◆",
        "4,348",
        "nothing was run",
    ):
        assert piece in told
    assert "4 velocity evaluations forward and 3 backward" in told


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes an importable module of a third party and returns its name."""

    def write(source: str) -> str:
        name = f"third_party_{len(list(tmp_path.glob('third_party_*')))}_{tmp_path.name}"
        (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(tmp_path)
        return name

    return write


REWARD = """
import attrs

@attrs.define
class Brightness:
    weight: float = 1.0
    broken_after: int = 1000
    calls: int = attrs.field(default=0, init=False)

    def __call__(self, images, prompts):
        self.calls += 1
        scores = self.weight * images.mean((1, 2, 3))
        return scores * float("nan") if self.calls > self.broken_after else scores
"""


def test_reward_of_a_third_party_by_dotted_path(yaml, tmp_path, module, capsys):
    name = module(REWARD)
    assert main([yaml, f"reward={{name: '{name}:Brightness', weight: 2.0}}"]) == 0
    assert "Brightness (weight 2.0)" in capsys.readouterr().out
    assert f"{name}:Brightness" in (tmp_path / "run" / "configuration.yaml").read_text()


# A try before the run has the reward called once.


def test_non_finite_reward_stops_with_the_last_good_state(yaml, tmp_path, module, capsys):
    reward = f"reward={{name: '{module(REWARD)}:Brightness', broken_after: 2}}"
    assert main([yaml, "checkpoints.every=1", reward]) == 1
    told = capsys.readouterr().err
    assert "step 2 was stopped" in told and "rewards" in told and "Traceback" not in told
    folder = tmp_path / "run" / "checkpoints"
    assert str(folder / "last-good-000001") in told
    good, saved = (
        load_file(folder / name / WEIGHTS) for name in ("last-good-000001", "step-000001")
    )
    assert all(torch.equal(good[key], saved[key]) for key in saved)


def test_first_evaluation_survives_a_run_that_stops(yaml, tmp_path, module):
    reward = f"reward={{name: '{module(REWARD)}:Brightness', broken_after: 2}}"
    assert main([yaml, "evaluation.prompts={name: shapes, count: 2}", reward]) == 1
    before = json.loads((tmp_path / "run" / "before.json").read_text())
    assert before["label"] == "before" and len(before["records"]) == 2
    assert not (tmp_path / "run" / "comparison.json").exists()


def test_reward_that_breaks_in_the_evaluation_stops_the_run(yaml, module, capsys):
    reward = f"reward={{name: '{module(REWARD)}:Brightness', broken_after: 1}}"
    assert main([yaml, "evaluation.prompts={name: shapes, count: 2}", reward]) == 1
    told = capsys.readouterr().err
    assert "Brightness must return finite scores" in told
    assert "during the evaluation before training" in told


def test_bug_of_a_third_party_is_not_hidden(yaml, module, capsys):
    name = module("def make():\n    raise KeyError('a bug')\n")
    assert main([yaml, f"reward={{name: '{name}:make'}}"]) == 2
    said = capsys.readouterr().err
    assert f"{name}:make" in said and "KeyError: 'a bug'" in said and f"{name}.py" in said
    with pytest.raises(Exception, match="a bug"):
        main([yaml, f"reward={{name: '{name}:make'}}", "--debug"])


INTERRUPTING = """
import os, signal

class Impatient:
    def __init__(self, folder, steps):
        self.steps, self.tried = steps, folder.name != "run"
    def row(self, metrics):
        if not self.tried:
            os.kill(os.getpid(), signal.SIGNAL)
    def pictures(self, step, images, prompts):
        pass
    def close(self):
        pass
"""


@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_interrupt_says_where_the_model_is(yaml, tmp_path, module, capsys, sent):
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert handlers == [signal.default_int_handler, signal.SIG_DFL]
    name = module(INTERRUPTING.replace("SIGNAL", sent))
    assert main([yaml, f"observers.others=[{{name: '{name}:Impatient'}}]"]) == 130
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    saved = tmp_path / "run" / "checkpoints" / "interrupted-000001"
    told = capsys.readouterr().err
    assert "interrupted" in told and str(saved) in told and "Traceback" not in told
    assert (saved / "model_index.json").exists()


def test_quiet_hides_the_libraries_and_nothing_else():
    loud = transformers.utils.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as caught, quiet():
        assert transformers.utils.logging.get_verbosity() > loud
        for module in ("transformers.models", "diffusers", "flowbp.training", "torch.nn"):
            warnings.warn_explicit("noise", UserWarning, "file.py", 1, module=module)
    assert [str(each.message) for each in caught] == ["noise", "noise"]
    assert transformers.utils.logging.get_verbosity() == loud


def test_every_method_can_be_drawn(yaml):
    for name in ("refl", "draft", "draft_lv", "drtune", "leap_align", "sparse", "lagrange"):
        typed = {"refl": "last: 2", "drtune": "active: 2"}.get(name, "")
        method = load([yaml, f"method={{name: {name}{', ' if typed else ''}{typed}}}"])
        surrogate = method.settings.method.draw(torch.linspace(1, 0, 5), torch.Generator())
        line = drawing(surrogate, 4)
        assert len(line.replace("|", "")) == 4 and ("●" in line or "◆" in line)


def test_the_python_that_a_run_of_the_embedded_model_ends_with_runs(tmp_path, capsys):
    typed = [
        f"run={{folder: {tmp_path / 'run'}, device: cpu, threads: 1}}",
        "training={steps: 1, averaging: null}",
        "batching.samples=1",
        "sampling={steps: 2, height: 32, width: 32}",
        "method={name: refl, last: 1}",
        "evaluation=null",
        "judge=null",
        "samples=null",
        "observers.tensorboard=false",
    ]
    assert main(["container.yaml", *typed]) == 0
    told = capsys.readouterr().out.split("in Python\n")[1].split("\n\n")[0]
    lines = "\n".join(line.removeprefix("  ") for line in told.splitlines())
    found: dict = {}
    exec(lines, found)
    assert [image.size for image in found["images"]] == [(32, 32)]
    # The embedded model has no T5: with any other length there would be zeros in its place.
    assert "max_sequence_length=0" in lines and "# No T5 is read" in lines

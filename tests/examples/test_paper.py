"""`python -m examples.paper`: 21 runs with the published settings, their evaluations, the page."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path

import pytest

from examples.paper import __main__ as command
from examples.paper.cost import Size, hours_of, overview
from examples.paper.execution import execute, start
from examples.paper.loading import load, published_files
from examples.paper.page import page
from examples.paper.published import MODELS, SCORES
from examples.paper.tasks import Training
from flowbp.cli.run.folder import CONFIGURATION
from flowbp.cli.signals import interruptible
from flowbp.config import ConfigurationError
from flowbp.settings import load as load_run
from flowbp.settings.folder import locked
from flowbp.training.division import Division, Needs

from ..adapters.families import FAMILIES
from ..evaluation.metrics.geneval.tiny import save as save_detector
from ..presets import COMBINATIONS, PUBLISHED, ROOT, SAMPLES, TINY

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

TRAINED, HELD_OUT = ("a circle", "a square", "two rings"), ("a star", "a red ring")


class Here:
    """Starts a command in this process, and has ended at once."""

    pid = os.getpid()

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def __call__(self, typed, log, environment, lock):
        _, flag, module, *arguments = typed
        assert flag == "-m"
        self.started.append([module, *arguments])
        with log.open("a") as to, redirect_stdout(to), redirect_stderr(to):
            self.code = importlib.import_module(module).main(arguments)
        return self

    def poll(self):
        return self.code

    def wait(self):
        return self.code

    def terminate(self):
        raise AssertionError("it has ended")


@pytest.fixture
def file(tmp_path, models, sources, monkeypatch):
    """The user's file, for tiny models of the three families."""
    # It collects all garbage of the tests each time.
    for module in ("measurement", "execution"):
        monkeypatch.setattr(f"flowbp.cli.evaluate.{module}.free_memory", lambda: None)
    (tmp_path / "train.txt").write_text("\n".join(TRAINED))
    (tmp_path / "held_out.txt").write_text("\n".join(HELD_OUT))
    reward = {"name": "clip", "source": str(models / "reward")}
    absent = ("image_reward", "hpsv3", "clipscore", "unified_reward")
    tree = {
        "folder": str(tmp_path / "paper"),
        "gpus": 1,
        "models": {
            model: {
                "source": str(sources[model]),
                "text_length": FAMILIES[TINY[model]].text_length,
            }
            for model in MODELS
        },
        "run": {
            "run": {"device": "cpu", "threads": 1, "compile": False},
            "reward": reward,
            "loss": {"name": "linear"},
            "prompts": {"name": "text", "path": str(tmp_path / "train.txt")},
            "embeddings": {"folder": None},
            "sampling": {"height": 16, "width": 16},
            "batching": {"samples": 2, "global": 2, "pull": 1},
            "training": {"steps": 1, "averaging": None},
            "observers": {"tensorboard": False},
        },
        "scores": {
            "prompts": {"name": "text", "path": str(tmp_path / "held_out.txt")},
            "metrics": {"hpsv2": reward, "pickscore": reward, **dict.fromkeys(absent)},
            "sampling": {"steps": 5},
        },
    }
    path = tmp_path / "paper.yaml"
    path.write_text(json.dumps(tree))
    return path


def changed(path: Path, **sections: object) -> Path:
    """The file with other sections, laid over those that are there."""
    tree = json.loads(path.read_text())
    for name, value in sections.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        tree[name] = {**tree[name], **value} if both else value
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("model, method", COMBINATIONS)
def test_the_settings_are_the_published_ones(model, method):
    mine = ["prompts={name: shapes}", "run.folder=runs/none"]
    run = load_run([*published_files(model, method), *mine]).settings
    place = list(MODELS).index(model)
    assert run.method == PUBLISHED[method][place]
    assert type(run.tuning).__name__ == "Full"
    policy = run.backbone.arguments["policy"]
    assert (str(policy.weights), str(policy.compute)) == ("torch.float32", "torch.bfloat16")
    assert run.backbone.arguments["text_length"] == 512
    sampling = run.sampling
    assert (sampling.steps, sampling.height, sampling.width) == (25, 512, 512)
    assert sampling.guidance == (3.5, 1.0, 4.0)[place]
    assert run.backbone.arguments.get("embedded_guidance") == (None, 4.0, None)[place]
    assert sampling.detach_negative == ((model, method) != ("sd35_medium", "leap_align"))
    last = run.sampling.grid.known(25)
    assert (None if last is None else round(float(last[-2]), 4)) == (0.1111, None, None)[place]
    samples, portions = SAMPLES[model].get(method, SAMPLES[model][None])
    assert run.batching.samples == samples
    assert run.batching.total(8) == 8 * samples * portions
    optimizer = run.optimizer
    assert (optimizer.learning_rate, optimizer.betas) == (1e-5, (0.9, 0.999))
    assert (optimizer.weight_decay, type(run.schedule).__name__) == (1e-4, "Constant")
    training = run.training
    assert (training.steps, training.clip, training.sample_clip) == (300, 1.0, None)
    assert (training.averaging.decay, training.averaging.warmup) == (0.995, False)
    assert (run.reward.name, run.loss.target, run.anchor) == ("hpsv2", 0.55, None)


def test_from_runs_to_the_page(file):
    paper, here = load(file, methods=["bridge"]), Here()
    assert "left: 3 runs and 6 evaluations; 0.0 hours of 0 runs" in overview(paper)
    assert execute(paper, start=here) == []
    # The bases come first, so that a metric that fails does so before the training.
    began = [each[0] for each in here.started]
    assert began == 3 * ["flowbp.evaluate"] + 3 * ["flowbp.run"] + 3 * ["flowbp.evaluate"]
    folder = paper.settings.folder
    for training in paper.trainings:
        # Nothing but the model is kept.
        assert [each.name for each in (training.folder / "checkpoints").iterdir()] == ["final"]
        assert not (training.final / "training").exists()
    for row in paper.rows:
        assert row.scores().models == (row.label,)
    text = page(paper)
    for model in MODELS:
        section = text.split(f"## {MODELS[model]}\n")[1].split("\n## ")[0]
        assert "| base | " in section and "| Bridge | " in section
        assert "change from base" in section
        for known in SCORES[model].values():
            assert all(f"({value})" in section for value in known.values())
    assert "of FLUX.1-dev: `training.steps` is 1 instead of 300." in text
    assert "of FLUX.1-dev: `scores.sampling.steps` is 5 instead of 25." in text
    assert "published, of a method not recorded here | – (0.4134) |" in text
    # Given again, nothing is done again.
    assert execute(load(file, methods=["bridge"]), start=here) == []
    assert len(here.started) == 9
    assert "left: 0 runs and 0 evaluations" in overview(paper)
    assert text == page(paper)
    assert command.main([str(file), "--page", "--model", "flux1_dev"]) == 0
    written = (folder / "paper-flux1_dev.md").read_text()
    assert "## FLUX.1-dev" in written and "## SD3.5 Medium" not in written
    assert "2 prompts, 1 picture of each." in written
    # Nothing that was changed since is taken for done: the command refuses it, or measures again.
    tree = json.loads(file.read_text())
    tree["run"]["optimizer"] = {"learning_rate": 1e-3}
    file.write_text(json.dumps(tree))
    paper = load(file, models=["flux1_dev"], methods=["bridge"])
    assert [task.done for task in paper.tasks] == [True, False, False]
    failed = execute(paper, start=Written())
    assert [each.split(":")[0] for each in failed] == [
        "flux1_dev/bridge",
        "flux1_dev/scores/bridge",
    ]
    # Nor does the page print it as if it were of what is set now.
    text = page(paper)
    why = "measured under other settings: `optimizer.learning_rate` of its run was 1e-05."
    assert f"- Bridge, {why}\n" in text and "- base," not in text
    assert re.search(r"\| base \| 0\.\d{4} \(0.3016\) \| \d+\.\d\d \|", text)
    assert "| Bridge | – | – |" in text
    tree["scores"]["metrics"]["pickscore"] |= {"logit_scale": True}
    file.write_text(json.dumps(tree))
    paper = load(file, models=["flux1_dev"], methods=["bridge"])
    assert not any(task.done for task in paper.tasks)
    # The other metric's values hold.
    text = page(paper)
    assert re.search(r"\| base \| 0\.\d{4} \(0.3016\) \| – \|", text)
    assert "- base, measured under other settings: `scores.metrics.pickscore.logit_scale`" in text
    assert len(execute(paper, start=here)) == 2
    assert [task.done for task in paper.tasks] == [True, False, False]
    # As where it is stopped between its settings and its scores.
    base = paper.rows[0]
    os.utime(base.folder / CONFIGURATION)
    assert not base.done and base.scores() is None
    log = (folder / "logs" / "flux1_dev-bridge.log").read_text()
    assert "optimizer.learning_rate" in log.splitlines()[-1]


KINDS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def geneval(tmp_path: Path, models: Path) -> dict[str, object]:
    """A prompt of each task, and a tiny detector."""
    save_detector(tmp_path / "detector")
    apple = {"class": "apple", "count": 1, "color": "red"}
    bench = {"class": "bench", "count": 1, "color": "blue", "position": ["left of", 0]}
    tasks = [{"tag": kind, "include": [apple, bench], "prompt": f"{kind} apple"} for kind in KINDS]
    tasks[2] |= {"include": [apple], "exclude": [{"class": "apple", "count": 2}]}
    metadata = tmp_path / "evaluation_metadata.jsonl"
    metadata.write_text("\n".join(map(json.dumps, tasks)))
    sources = {"source": str(tmp_path / "detector"), "clip": str(models / "reward")}
    return {
        "evaluation": {"seeds": [0, 1]},
        "prompts": {"metadata": str(metadata)},
        "metrics": {"geneval": {"metadata": str(metadata), **sources}},
    }


def test_the_page_lists_a_change_of_one_method_with_its_name(file):
    tree = json.loads(file.read_text())
    tree["run"]["batching"] = {"samples": 8, "global": 64, "pull": 1}
    tree["scores"]["backbone"] = {"text_length": 7}
    file.write_text(json.dumps(tree))
    text = page(load(file, models=["sd35_medium"], methods=["bridge", "draft_lv"]))
    mine = "- Yours, of SD3.5 Medium"
    assert f"{mine} with DRaFT-LV: `batching.global` is 64 instead of 32." in text
    assert f"{mine}: `training.steps` is 1 instead of 300." in text
    assert f"{mine}: `scores.backbone.text_length` is 7 instead of" in text
    assert "`batching.global` is 64 instead of 64" not in text and "with Bridge" not in text


class Failing(Here):
    """A run of Sparse has more active steps than there are."""

    def __call__(self, typed, log, environment, lock):
        extra = ["method.active=99"] if any(each.endswith("sparse") for each in typed) else []
        return super().__call__([*typed, *extra], log, environment, lock)


def test_a_failure_stops_nothing_else(file, tmp_path, models, monkeypatch, capsys):
    for name, side in (("_LONGEST", 96), ("_SHORTEST", 50)):
        monkeypatch.setattr(f"flowbp.evaluation.metrics.geneval.detector.{name}", side)
    changed(file, geneval=geneval(tmp_path, models))
    wanted = dict(models=["sd35_medium"], methods=["sparse", "lagrange"], tables=["geneval"])
    paper = load(file, **wanted)
    run, row = execute(paper, start=Failing())
    assert run.startswith("sd35_medium/sparse: exit code 2, see ")
    assert row == "sd35_medium/geneval/sparse: not evaluated, as its run is not finished"
    told = capsys.readouterr().out
    assert "sd35_medium/sparse: failed with exit code 2; the end of its log:" in told
    assert "method.active" in told or "`active`" in told
    text = page(paper)
    assert "geneval.overall (HF detector)" in text
    (mine,) = [line for line in text.splitlines() if line.startswith("| Lagrange |")]
    assert "%" in mine and "–" not in mine
    (none,) = [line for line in text.splitlines() if line.startswith("| Sparse |")]
    assert none == f"| Sparse |{' – |' * (none.count('|') - 2)}"
    # The command says so at the end, and by its exit code.
    monkeypatch.setattr("examples.paper.execution.execute", partial(execute, start=Failing()))
    options = ["--model", "sd35_medium", "--method", "sparse", "--table", "geneval"]
    assert command.main([str(file), *options]) == 1
    assert capsys.readouterr().err.splitlines()[-3:] == ["not done:", f"  {run}", f"  {row}"]


OF_TORCHRUN = """\
W1130 14:58:49.005000 21840 torch/distributed/elastic/rendezvous/api.py:10] a warning at the start
Traceback (most recent call last):
  File "mine.py", line 1, in <module>
ValueError: the run's own
W1130 14:58:49.005000 21840 torch/distributed/elastic/multiprocessing/api.py:1028] Sending SIGTERM
the run's last line
Traceback (most recent call last):
  File "torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
flowbp.run FAILED
------------------------------------------------------------
Root Cause (first observed failure):
============================================================
"""


class Written(Here):
    """A process that has failed under torchrun."""

    def __call__(self, typed, log, environment, lock):
        log.write_text(OF_TORCHRUN)
        self.code = 1
        return self


def test_a_failure_shows_its_own_lines_without_those_of_torchrun(file, capsys):
    changed(file, scores=None)
    execute(load(file, models=["sd35_medium"], methods=["refl"]), start=Written())
    shown = capsys.readouterr().out.split("the end of its log:\n")[1].splitlines()
    assert [line.strip() for line in shown] == [
        "Traceback (most recent call last):",
        'File "mine.py", line 1, in <module>',
        "ValueError: the run's own",
        "the run's last line",
    ]


NPROC = ["--nproc-per-node", "2"]


def waited_for(done: Callable[[], bool], process: subprocess.Popen) -> None:
    end = time.monotonic() + 600
    while not done():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.02)


def test_a_run_that_was_killed_fails_and_the_same_command_continues(file, tmp_path, capsys):
    """In two processes under torchrun, and then in one."""
    tree = json.loads(file.read_text())
    tree["scores"], tree["gpus"], tree["run"]["checkpoints"] = None, 2, {"every": 3}
    tree["run"]["batching"]["samples"] = 1
    tree["run"]["training"]["steps"] = 15
    file.write_text(json.dumps(tree))
    folder = tmp_path / "paper" / "sd35_medium" / "refl"

    def killed(typed, log, environment, lock):
        assert typed[1:6] == ["-m", "torch.distributed.run", "--standalone", *NPROC]
        more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        process = start(typed, log, environment | more, lock)
        waited_for(lambda: any((folder / "checkpoints").glob("step-*")), process)
        # It names the process that has it.
        os.kill(int((folder / ".lock").read_text().split()[1]), signal.SIGKILL)
        return process

    wanted = dict(models=["sd35_medium"], methods=["refl"])
    (failed,) = execute(load(file, **wanted), start=killed)
    assert failed.startswith("sd35_medium/refl: exit code 1, see ")
    # The run's own last lines, without what torchrun adds to them.
    told = capsys.readouterr().out
    assert "step 2/15" in told and "Root Cause" not in told
    here, paper = Here(), load(changed(file, gpus=1), **wanted)
    assert execute(paper, start=here) == [] and paper.trainings[0].done
    assert here.started[0][-1] == "--resume"
    log = (tmp_path / "paper" / "logs" / "sd35_medium-refl.log").read_text()
    assert "resuming after step" in log


ENDING = """
import signal, sys, time
def end(*_):
    print("saved", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
print("begun", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP], ids=lambda each: each.name)
def test_a_signal_ends_what_was_started_before_it_is_raised(file, tmp_path, number):
    log = tmp_path / "paper" / "logs" / "sd35_medium-scores-base.log"

    def begun(_, place, environment, lock):
        process = start([sys.executable, "-c", ENDING], place, environment, lock)
        waited_for(lambda: "begun" in place.read_text(), process)
        signal.raise_signal(number)
        return process

    paper = load(file, models=["sd35_medium"], methods=["bridge"])
    # Whoever started these tests by nohup has had SIGHUP ignored, which the command respects.
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        with pytest.raises(KeyboardInterrupt), interruptible():
            execute(paper, start=begun)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert log.read_text() == "begun\nsaved\n"


class Lost:
    """A process that is left to itself, as where this one is killed."""

    def __init__(self, process):
        self.process, self.pid = process, process.pid

    def poll(self):
        raise KeyboardInterrupt

    def terminate(self):
        pass

    def wait(self):
        return 0


def test_nothing_is_begun_beside_what_a_killed_command_left(file):
    lost, here = [], Here()

    def left(_, place, environment, lock):
        lost.append(start(["sleep", "600"], place, environment, lock))
        return Lost(lost[0])

    paper = load(file, models=["sd35_medium"], methods=["bridge"], tables=["scores"])
    with pytest.raises(KeyboardInterrupt):
        execute(paper, start=left)
    try:
        with pytest.raises(ConfigurationError, match=f"process {lost[0].pid}, which it started; "):
            execute(paper, start=here)
    finally:
        lost[0].kill()
        lost[0].wait()
    # Nor beside a run that someone else has begun.
    (run,) = paper.trainings
    run.folder.mkdir(parents=True)
    with locked(run.folder), pytest.raises(ConfigurationError, match="bridge is in use by"):
        execute(paper, start=here)
    assert here.started == []


def test_all_mistakes_are_reported_before_anything_is_loaded(file, tmp_path, capsys):
    tree = json.loads(file.read_text())
    tree["gpus"] = 3
    tree["models"]["flux1_dev"] = {"source": str(tmp_path / "nowhere")}
    tree["models"]["flux2_klein"]["text_lenght"] = 512
    tree["scores"]["prompts"]["path"] = str(tmp_path / "absent.txt")
    tree["geneval"] = {"metrics": {"geneval": {"metadata": "absent.jsonl"}}}
    tree["geneval"]["evaluation"] = {"on_failure": "stop"}
    tree["run"]["method"] = {"name": "refl"}
    file.write_text(json.dumps(tree))
    assert command.main([str(file), "--check"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    for part in (
        "run: must not have `method`, which is another one each time",
        "geneval: must not have `evaluation.on_failure`, which is `report` here",
        "models.flux1_dev",
        "nowhere",
        "models.flux2_klein.text_lenght: is an unknown key. Did you mean `text_length`?",
        "scores.prompts.path: must be a file of prompts",
        "geneval.prompts.metadata: is missing",
    ):
        assert part in told, part
    assert not (tmp_path / "paper").exists()


def test_gpus_must_divide_the_batch(file, capsys):
    one = ["--check", "--model", "sd35_medium"]
    assert command.main([str(changed(file, gpus=3)), *one]) == 2
    assert "gpus: is 3, and of sd35_medium/refl `global` must be" in capsys.readouterr().err
    assert command.main([str(changed(file, gpus=1)), *one, "--table", "geneval"]) == 2
    assert "geneval: is asked for, and the file has no such section" in capsys.readouterr().err


def test_hours_are_those_of_the_measured_steps(monkeypatch):
    """SD3.5 Medium on eight GPUs: 300 steps of 3.87 s under Bridge; nothing of a FLUX model."""

    def of(model: str, method: str, gpus: int = 8) -> float | None:
        mine = ["prompts={name: shapes}", "run.folder=runs/none"]
        settings = load_run([*published_files(model, method), *mine]).settings
        trained = {"sd35_medium": 2_243_171_520, "flux1_dev": 11_901_408_320}.get(model, 0)
        needs = Needs(weights=0, gradients=0, optimizer=0, average=0, largest=0)
        training = Training(model, method, settings, (), gpus)
        return hours_of(training, Size(trained, needs, Division()))

    bridge = of("sd35_medium", "bridge")
    assert bridge == pytest.approx(300 * 3.868 / 3600, rel=1e-3)
    assert of("sd35_medium", "bridge", 1) == pytest.approx(8 * bridge)
    assert of("sd35_medium", "lagrange") == pytest.approx(bridge * 3.31 / 3.54, rel=0.01)
    # Half as many samples.
    assert of("sd35_medium", "draft_lv") == pytest.approx(bridge * 3.64 / 3.54 / 2, rel=0.01)
    assert of("flux1_dev", "bridge") is None and of("flux2_klein", "bridge") is None

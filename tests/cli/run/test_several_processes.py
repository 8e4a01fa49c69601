"""The command in several processes: one prints, writes and saves, however it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from flowbp.cli.run.other_ranks import meet
from flowbp.settings import load
from flowbp.settings.run_identity import shared
from flowbp.training import Ranks, RanksDifferError
from flowbp.training.checkpoint import TENSORS

from ...training.processes import torchrun

SHORT = [
    "container.yaml",
    "run.threads=1",
    "sampling.steps=4",
    "method.active=2",
    "observers.tensorboard=false",
]
EVALUATED = [
    "evaluation.prompts.count=5",
    "evaluation.batch=2",
    "evaluation.every=2",
    "evaluation.metrics.far={name: pixel_distance}",
    "samples.every=2",
    "samples.count=2",
]
ALONE = ["evaluation=null", "judge=null", "samples=null"]
USERS = '''
import os, signal, time
from pathlib import Path

class Brightness:
    """Fails, or waits, on the second process in its third call."""
    def __init__(self, act, folder):
        self.act, self.folder, self.calls = act, Path(folder), 0

    def __call__(self, images, prompts):
        self.calls += 1
        if os.environ.get("RANK") == "1" and self.calls == 3:
            if self.act == "fail":
                raise ValueError("too dark for me")
            if self.act == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.act.startswith("later"):
                while not (self.folder / "asleep").exists():
                    time.sleep(0.01)
                time.sleep(0.5)
                if self.act == "later kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise ValueError("too dark for me")
            (self.folder / "waiting").touch()
            time.sleep(60)
        # The first tries its reward once before the run, so that this is in the same step.
        if self.act.startswith("later") and self.calls == 4:
            (self.folder / "asleep").touch()
            time.sleep(60)
        return images.mean((1, 2, 3))
'''


PEAK = """
import os
import torch

# Each has its turns of the three batches of an evaluation.
RANK, SIZE = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
TURNS = len(range(3)[RANK::SIZE])

class Peak:
    # Highest after step 2; the first has a trial before the run.
    def __init__(self):
        self.calls = -1 if RANK == 0 else 0

    def __call__(self, images, prompts):
        peak = self.calls // TURNS == 1
        self.calls += 1
        return torch.full((len(images),), 0.9 if peak else 0.1)
"""

DARK = """
import os

class Dark:
    # A judge that fails, or cannot be built, on the second process.
    def __init__(self, when):
        self.when, self.second = when, os.environ.get("RANK") == "1"
        if self.second and when == "built":
            raise ValueError("no such judge here")

    def __call__(self, images, prompts):
        if self.second:
            raise ValueError("too dark to judge")
        return images.new_ones(len(images))
"""


def typed(folder: Path, *overrides: str, also: list[str] = EVALUATED) -> list[str]:
    return [*SHORT, *also, f"run.folder={folder}/run", *overrides]


def rows(folder: Path) -> list[dict]:
    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def evaluations(folder: Path) -> list[dict]:
    lines = (folder / "run" / "evaluations.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def agree(found: list[dict], expected: list[dict], tolerance: float = 2e-3) -> None:
    """Rows are alike but for rounding at float32, which Adam amplifies, differently by processor.

    That they are the same at float64 is held by tests/training.
    """
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            wanted = pytest.approx(value, rel=tolerance, abs=1e-7) if value is not None else None
            assert mine[name] == wanted, name


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())


def test_torchrun_runs_what_one_process_runs(tmp_path: Path) -> None:
    short = ("evaluation.prompts.count=2", "samples=null", "batching.samples=2", "training.steps=2")
    arguments = typed(tmp_path / "two", *short, also=[])
    code, printed, errors = torchrun("flowbp.run", arguments)
    assert code == 0, errors
    assert printed.count("  backbone ") == 1
    told = " ".join(printed.split())
    assert "processes 2, each with the whole model, each with 2 of a step's 4 samples: 1" in told
    assert "each step 4 samples" in told
    assert errors.count("step 2/2") == 1
    assert (tmp_path / "two" / "run" / "report.html").exists()
    assert [row["step"] for row in rows(tmp_path / "two")] == [1, 2]


def test_a_run_of_two_is_that_of_one(together, tmp_path: Path) -> None:
    found = {}
    for size, samples in ((1, 4), (2, 2)):
        place = tmp_path / str(size)
        overrides = (f"batching.samples={samples}", "training.steps=3", "checkpoints.every=2")
        together.start(size, "flowbp", typed=typed(place, *overrides))
        ended = together.finish()
        assert ended.codes == [0] * size, "\n".join(ended.told)
        # The second says nothing at all.
        assert ended.told[1:] == [""] * (size - 1)
        found[size] = rows(place), ended.told[0], sorted(p.name for p in (place / "run").iterdir())
    agree(found[2][0], found[1][0])
    assert found[2][2] == found[1][2]
    assert found[2][1].count("step 3/3") == 1
    agree(*(evaluations(tmp_path / size) for size in ("2", "1")))
    # The pictures of a batch are the same on whichever process.
    one, two = ((tmp_path / size / "run" / "before.safetensors").read_bytes() for size in "12")
    assert one == two


def test_it_goes_on_bit_for_bit(together, tmp_path: Path) -> None:
    short = ("batching.samples=2", "schedule.name=constant")
    for place, steps in (("whole", 4), ("parts", 2)):
        arguments = typed(tmp_path / place, *short, f"training.steps={steps}")
        together.start(2, "flowbp", typed=arguments)
        assert together.finish().codes == [0, 0]
    arguments = typed(tmp_path / "parts", *short, "training.steps=4", "--resume")
    together.start(2, "flowbp", typed=arguments)
    ended = together.finish()
    assert ended.codes == [0, 0], "\n".join(ended.told)
    assert "resuming after step 2 of 4" in ended.told[0]
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def users(folder: Path, act: str) -> list[str]:
    """The arguments of a run whose reward does something on the second process."""
    name = f"users_{folder.name.replace('-', '_')}"
    (folder / f"{name}.py").write_text(USERS)
    # Where the command looks for what dotted paths name.
    reward = f"{{name: '{name}:Brightness', act: {act}, folder: {folder}}}"
    overrides = ("batching.samples=2", "training.steps=6")
    return typed(folder, f"reward={reward}", *overrides, also=ALONE)


def test_both_evaluate_the_best_model(together, tmp_path: Path) -> None:
    (tmp_path / "users_peak.py").write_text(PEAK)
    metric = "{name: reward, reward: {name: 'users_peak:Peak'}}"
    ending = (
        f"evaluation.metrics.peak={metric}",
        "early_stop={metric: peak, patience: 2}",
        "optimizer.learning_rate=1e-3",
        "training.steps=8",
    )
    scores = []
    for size in (1, 2):
        place = tmp_path / str(size)
        sizes = ("batching.samples=2", "batching.global=4")
        arguments = typed(place, *ending, *sizes)
        together.start(size, "flowbp", typed=arguments, path=[str(tmp_path)])
        ended = together.finish()
        assert ended.codes == [0] * size, "\n".join(ended.told)
        assert "is that of step 2" in " ".join(ended.told[0].split())
        comparison = json.loads((place / "run" / "comparison.json").read_text())
        scores.append([row["reward"] for row in comparison["after"]["records"]])
    assert scores[1] == pytest.approx(scores[0], rel=1e-3)


@pytest.mark.parametrize("when", ["built", "called"])
def test_a_judge_of_the_second_that_fails_is_told_by_it(together, tmp_path, when: str) -> None:
    (tmp_path / "users_dark.py").write_text(DARK)
    judge = f"judge={{name: 'users_dark:Dark', when: {when}}}"
    arguments = typed(tmp_path, judge, "batching.samples=2")
    together.start(2, "flowbp", typed=arguments, path=[str(tmp_path)])
    ended = together.finish()
    assert ended.codes == ([1, 2] if when == "built" else [1, 1]), ended.told
    said = " ".join(ended.told[1].split())
    if when == "built":
        assert said.startswith("rank 1: ") and "judge: " in said and "no such judge here" in said
    else:
        assert said.startswith("rank 1: the judge users_dark:Dark raised ValueError: too dark")
        assert "during the evaluation before training, at the prompts" in said
    assert ended.told[0].splitlines()[-1].startswith("rank 1 failed; its own message says why")


def test_a_failure_of_the_second_is_told_by_it_and_saved_by_the_first(together, tmp_path) -> None:
    together.start(2, "flowbp", typed=users(tmp_path, "fail"), path=[str(tmp_path)])
    ended = together.finish()
    assert ended.codes == [1, 1], ended.told
    assert ended.told[1].startswith("rank 1: ") and "too dark for me" in ended.told[1]
    last = ended.told[0].splitlines()[-2:]
    assert last[0].startswith("rank 1 failed; its own message says why")
    assert "saved in" in last[1] and "stopped-00000" in last[1]
    assert last[1].endswith(", from which --resume goes on")
    (saved,) = checkpoints(tmp_path)
    assert saved.startswith("stopped-")


@pytest.mark.parametrize("act", ["fail", "kill"])
def test_a_failure_is_none_of_the_user_s_under_torchrun(tmp_path, act: str) -> None:
    """torchrun ends the others by a signal, while the first is in a long call of Python."""
    arguments = users(tmp_path, f"later {act}")
    began = time.monotonic()
    code, _, errors = torchrun("flowbp.run", arguments, tmp_path)
    assert code == 1 and time.monotonic() - began < 60, errors
    said = " ".join(errors.split())
    assert "interrupted" not in said
    if act == "fail":
        assert "too dark for me" in said and "rank 1 failed; its own message says why" in said
    else:
        assert "ended without a message: rank 1 was killed" in said
    (saved,) = checkpoints(tmp_path)
    assert saved.startswith("stopped-")


def test_an_interrupt_is_told_and_saved_once(together, tmp_path) -> None:
    processes = together.start(2, "flowbp", typed=users(tmp_path, "wait"), path=[str(tmp_path)])
    end = time.monotonic() + 30
    while not (tmp_path / "waiting").exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    for process in processes:
        os.kill(process, signal.SIGTERM)
    ended = together.finish()
    assert ended.codes == [130, 130]
    assert ended.told[1] == ""
    assert ended.told[0].splitlines()[-1].startswith("interrupted; the parameters after step ")
    (saved,) = checkpoints(tmp_path)
    assert saved.startswith("interrupted-")


def test_a_killed_process_ends_the_run(together, tmp_path) -> None:
    together.start(2, "flowbp", typed=users(tmp_path, "kill"), path=[str(tmp_path)])
    ended = together.finish()
    assert ended.codes == [1, -signal.SIGKILL]
    assert "another process of the run ended without a message" in ended.told[0]
    (saved,) = checkpoints(tmp_path)
    assert saved.startswith("stopped-")


def test_one_device_for_two_is_refused_by_one(together, tmp_path: Path) -> None:
    together.start(2, "flowbp", typed=typed(tmp_path, "run.device=cuda:0"))
    ended = together.finish()
    assert ended.codes == [2, 2] and ended.told[1] == ""
    assert "run.device: is 'cuda:0'" in ended.told[0]
    assert not (tmp_path / "run").exists()


def test_a_check_says_what_all_would_do(together, tmp_path: Path) -> None:
    for batch, said in ((["batching.global=24"], "4 portions"), ([], "1 portion")):
        arguments = typed(tmp_path, "batching.samples=3", *batch, "--check")
        together.start(2, "flowbp", typed=arguments)
        ended = together.finish()
        assert ended.codes == [0, 0] and ended.told[1] == ""
        told = " ".join(ended.told[0].split())
        total = 24 if batch else 6
        assert f"each step {total} samples" in told
        assert f"{total // 2} of a step's {total} samples: {said} of batching.samples 3" in told
        assert "checked; nothing was run" in told


def test_a_batch_that_two_cannot_divide_is_refused_by_one(together, tmp_path: Path) -> None:
    arguments = typed(tmp_path, "batching.samples=3", "batching.global=16")
    together.start(2, "flowbp", typed=arguments)
    ended = together.finish()
    assert ended.codes == [2, 2] and ended.told[1] == ""
    told = " ".join(ended.told[0].split())
    assert "batching.global: must be a multiple of 6, as `samples` is 3 on each of 2" in told
    assert "got 16; the nearest is 12 or 18" in told


def test_a_run_goes_on_in_another_number_of_processes(together, tmp_path: Path) -> None:
    shared = ("batching.samples=2", "batching.global=4", "schedule.name=constant")
    found = {}
    for place, parts in (("whole", [(1, 3)]), ("parts", [(2, 2), (1, 3)])):
        for number, (size, steps) in enumerate(parts):
            more = ["--resume"] if number else []
            overrides = (*shared, f"training.steps={steps}", *more)
            together.start(size, "flowbp", typed=typed(tmp_path / place, *overrides, also=ALONE))
            ended = together.finish()
            assert ended.codes == [0] * size, "\n".join(ended.told)
        found[place] = rows(tmp_path / place)
    agree(found["parts"], found["whole"])


def test_processes_without_a_place_to_meet_are_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    from flowbp.run import main

    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["container.yaml"]) == 2
    assert "RANK must be an integer of at least 0, and is not set" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert main(["container.yaml"]) == 2
    assert "do not know where to meet" in capsys.readouterr().err


FAMILY = ["sampling.guidance=2", "batching.decode=1", "training.steps=3", "optimizer.eps=1e-3"]
TUNINGS = {
    "full": ["training.sample_clip=1", "sampling.detach_negative=false"],
    "lora": ["tuning={name: lora, rank: 2}", "anchor={strength: 0.1}", "run.compile=false"],
    "checkpointing": ["backbone.gradient_checkpointing=true", "batching.pull=1"],
    "copies": ["method={name: draft_lv, noised: 2}", "training.averaging={decay: 0.5}"],
}


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_tiny_family_is_trained_as_by_one(together, yaml, tmp_path: Path, tuning: str) -> None:
    from safetensors.torch import load_file

    found, parameters = [], []
    for size, samples in ((1, 4), (2, 2)):
        place = tmp_path / str(size)
        sizes = (f"run.folder={place}/run", f"batching.samples={samples}")
        together.start(size, "flowbp", typed=[yaml, *FAMILY, *TUNINGS[tuning], *sizes])
        ended = together.finish()
        assert ended.codes == [0] * size, "\n".join(ended.told)
        found.append(rows(place))
        state = load_file(place / "run" / "checkpoints" / "final" / "training" / TENSORS)
        parameters.append({n: t for n, t in state.items() if n.startswith("state.parameters.")})
    agree(found[1], found[0])
    assert parameters[0].keys() == parameters[1].keys() and parameters[0]
    for name, expected in parameters[0].items():
        torch.testing.assert_close(parameters[1][name], expected, rtol=1e-5, atol=1e-6)


def test_scales_are_measured_once_and_shared(together, yaml, models, tmp_path: Path) -> None:
    part = f"{{reward: {{name: clip, source: {models}/reward}}}}"
    reward = f"reward={{name: weighted, parts: {{one: {part}}}, calibration: {{prompts: 5}}}}"
    found = []
    for size, samples in ((1, 4), (2, 2)):
        place = tmp_path / str(size)
        sizes = (f"run.folder={place}/run", f"batching.samples={samples}")
        together.start(size, "flowbp", typed=[yaml, reward, *sizes])
        ended = together.finish()
        assert ended.codes == [0] * size, "\n".join(ended.told)
        assert ended.told[0].count("measured on 5 pictures") == 1
        found.append(rows(place))
    assert "parts.one.normalised" in found[0][0]
    agree(found[1], found[0])


class Other(Ranks):
    """Two processes, of which the second has another value at one place."""

    size = 2

    def __init__(self, key: str, value: str) -> None:
        self.other = {key: value}

    def exchange(self, value):
        checkpoint, own = value
        assert self.other.keys() <= own.keys()
        return [value, (checkpoint, own | self.other)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("optimizer.learning_rate", "0.5"),
        ("training.steps", "7"),
        ("evaluation", '"another"'),
        ("early_stop", '"another"'),
        ("samples", '"another"'),
        ("embeddings.folder", '"another"'),
        ("run.device", '"cuda"'),
        ("checkpoints.every", "7"),
        ("batching.pull", "7"),
        ("distributed.shard", "7"),
        ("a device of the type", "cuda"),
        ("torch", "2.11"),
        ("flowbp", "0.0"),
    ],
)
def test_other_settings_are_refused_by_their_key(yaml, key: str, value: str) -> None:
    settings, device = load([yaml]).settings, torch.device("cpu")
    run = SimpleNamespace(settings=settings, ranks=Other(key, value), device=device)
    with pytest.raises(RanksDifferError, match=f"rank 1 has {re.escape(key)} {value}, and rank 0"):
        meet(run, None)


def test_where_the_first_writes_need_not_be_alike(yaml) -> None:
    found = shared(load([yaml]).settings)
    assert not any(key.startswith(("run.folder", "observers")) for key in found)

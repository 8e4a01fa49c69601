"""A run that goes on from a checkpoint equals one that never stopped, bit for bit."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import torch

import flowbp
from flowbp.files import PARTIAL
from flowbp.training import (
    AdamW,
    Averaging,
    CheckpointError,
    Checkpoints,
    Constant,
    CosineDecay,
    JsonLines,
    OptimizerClass,
    PromptList,
    SavePolicy,
    is_averaged,
    load_trained,
    load_unaveraged,
    newest_checkpoint,
)
from flowbp.training.checkpoint import read_manifest, saved_checkpoints, write_manifest
from flowbp.training.packing import pack, unpack

from .fakes import PROMPTS, FakeBackbone, Network, Recorder, colour_reward, make_step, make_trainer

STEPS = 6


@attrs.frozen
class Recipe:
    """Any optimizer of torch."""

    make: Callable[..., torch.optim.Optimizer]
    learning_rate: float = 1e-2

    def build(self, parameters):
        return self.make(list(parameters), lr=self.learning_rate)


def momentum(parameters, lr):
    return torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True)


def amsgrad(parameters, lr):
    return torch.optim.Adam(parameters, lr=lr, amsgrad=True)


OPTIMIZERS = {
    "adamw": AdamW(1e-2),
    "momentum": Recipe(momentum),
    "amsgrad": Recipe(amsgrad),
    "nadam": Recipe(torch.optim.NAdam),
    "adafactor": Recipe(torch.optim.Adafactor),
}


def train(folder: Path, *, stop: Callable = lambda step: None, resume=None, **changes):
    """Train a fresh model; returns its parameters and the lines of its figures."""
    backbone = changes.pop("backbone", None) or FakeBackbone()
    step = make_step(backbone=backbone, **changes.pop("parts", {}))
    parts = {
        "steps": STEPS,
        "schedule": CosineDecay(warmup=2),
        "observers": [JsonLines(folder / "metrics.jsonl"), Recorder(act=stop)],
        "checkpoints": Checkpoints(folder / "checkpoints"),
    }
    make_trainer(step, **{**parts, **changes}).run(resume=resume)
    return backbone.state(), (folder / "metrics.jsonl").read_bytes()


def interrupt_at(number: int) -> Callable[[int], None]:
    def act(step: int) -> None:
        if step == number:
            raise KeyboardInterrupt

    return act


def same(one, other) -> bool:
    (state, lines), (other_state, other_lines) = one, other
    equal = all(torch.equal(state[name], other_state[name]) for name in state)
    return equal and lines == other_lines


def newest(folder: Path) -> Path:
    return newest_checkpoint(folder / "checkpoints", "").place


class Wide(Network):
    """A network with a matrix of 8192 numbers, of which an 8-bit optimizer quantises the moments.

    One matrix is zero at first, as one of an adapter is.
    """

    def __init__(self) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(3)
        wide = torch.randn(1024, 8, generator=source, dtype=torch.float64)
        self.wide, self.zero = torch.nn.Parameter(0.3 * wide), torch.nn.Parameter(0 * wide[:8])

    def forward(self, latents, code, sigma):
        hidden = latents.flatten(1) @ self.inner.T + code @ self.prompt.T + sigma * self.bias
        hidden = hidden + torch.tanh(hidden @ self.wide.T).unflatten(1, (8, 128)).mean(2)
        return (torch.tanh(hidden + hidden @ self.zero) @ self.outer.T).reshape(latents.shape)


LIBRARIES = {
    "adamw_8bit": ("torchao.optim:AdamW8bit", {"lr": 1e-2}),
    "prodigy": ("prodigyopt:Prodigy", {"d0": 1e-2, "weight_decay": 0.1}),
    "schedule_free": ("schedulefree:AdamWScheduleFree", {"lr": 1e-2, "warmup_steps": 2}),
    "rprop": ("torch.optim:Rprop", {}),
}


@pytest.mark.parametrize(("path", "arguments"), LIBRARIES.values(), ids=LIBRARIES)
def test_classes_of_libraries_are_resumed_exactly(tmp_path, path, arguments):
    module, _, name = path.partition(":")
    found = pytest.importorskip(module, reason="the extra `optimizers` is not installed")
    recipe = OptimizerClass(getattr(found, name), arguments)
    changes = {"optimizer": recipe, "schedule": Constant()}

    def wide() -> FakeBackbone:
        backbone = FakeBackbone()
        backbone.module = Wide()
        return backbone

    whole = train(tmp_path / "whole", backbone=wide(), **changes)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", backbone=wide(), stop=interrupt_at(3), **changes)
    place = newest(tmp_path / "run")
    assert same(train(tmp_path / "run", backbone=wide(), resume=place, **changes), whole)


@pytest.mark.parametrize("averaging", [None, Averaging(0.9, warmup=True)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_every_stop_is_resumed_exactly(tmp_path, optimizer, averaging):
    changes = {"optimizer": optimizer, "averaging": averaging}
    whole = train(tmp_path / "whole", **changes)
    for stop in (1, 4):
        folder = tmp_path / str(stop)
        with pytest.raises(KeyboardInterrupt):
            train(folder, stop=interrupt_at(stop), **changes)
        assert newest(folder).name == f"interrupted-{stop:06}"
        assert same(train(folder, resume=newest(folder), **changes), whole)


def test_stop_in_the_middle_of_a_step_forgets_what_it_drew(tmp_path):
    whole, calls = train(tmp_path / "whole"), iter(range(100))

    def impatient(images, prompts):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return colour_reward(images, prompts)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", parts={"reward": impatient})
    place = newest(tmp_path / "run")
    assert place.name == "interrupted-000003"
    assert same(train(tmp_path / "run", resume=place), whole)


def test_randomness_of_others_is_resumed_too(tmp_path):
    def shaken(images, prompts):
        return colour_reward(images + 0.1 * torch.rand(images.shape), prompts)

    changes = {"parts": {"reward": shaken}}
    torch.manual_seed(3)
    whole = train(tmp_path / "whole", **changes)
    torch.manual_seed(4)
    ambient = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run", stop=interrupt_at(2), **changes)
    assert same(train(tmp_path / "run", resume=newest(tmp_path / "run"), **changes), whole)
    assert torch.equal(torch.get_rng_state(), ambient)


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=interrupt_at(2))
    names = {path.name for path in (newest(tmp_path) / "training").iterdir()}
    assert names == {"state.json", "tensors.safetensors"}

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)
    train(tmp_path, resume=newest(tmp_path))


def test_state_that_only_pickle_could_save_is_refused(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self):
            super().step()
            self.state[self.param_groups[0]["params"][0]]["when"] = object()

    with pytest.raises(TypeError, match=r"`state\.optimizer\.state\.0\.when` .* got object; use"):
        train(tmp_path, optimizer=Recipe(Odd))


def test_other_prompts_or_another_model_are_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=interrupt_at(2))
    place = newest(tmp_path)
    for texts in (PROMPTS[:-1], ("pink", *PROMPTS[1:])):
        with pytest.raises(CheckpointError, match="`prompts` gives other texts than before"):
            train(tmp_path, resume=place, prompts=PromptList(texts))
    other = FakeBackbone()
    other.module.bias = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    with pytest.raises(CheckpointError, match=r"of another model: 1 parameters .* `bias`"):
        train(tmp_path, resume=place, backbone=other)


def test_damaged_state_is_told(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=interrupt_at(2))
    place = newest(tmp_path)
    tensors = place / "training" / "tensors.safetensors"
    content = tensors.read_bytes()
    for broken in (content[:-1], b"\xff" * len(content)):
        tensors.write_bytes(broken)
        with pytest.raises(CheckpointError, match=f"{place} is damaged"):
            train(tmp_path, resume=place)


def test_float32_moments_of_coarse_weights_are_kept(tmp_path):
    class Fine(torch.optim.SGD):
        def step(self):
            for parameter in self.param_groups[0]["params"]:
                sum_ = self.state[parameter].setdefault("sum", torch.zeros(parameter.shape))
                sum_ += parameter.grad.float() / 3
                parameter.data.add_(sum_.to(parameter.dtype), alpha=-0.1)

    def coarse():
        backbone = FakeBackbone()
        backbone.module.bias.data = backbone.module.bias.data.bfloat16().to(torch.bfloat16)
        return backbone

    changes = {"optimizer": Recipe(Fine)}
    with pytest.warns(UserWarning, match="rounded away"):
        whole = train(tmp_path / "whole", backbone=coarse(), **changes)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "run", stop=interrupt_at(3), backbone=coarse(), **changes)
        place = newest(tmp_path / "run")
        assert same(train(tmp_path / "run", resume=place, backbone=coarse(), **changes), whole)


def test_stop_in_the_middle_of_an_update_is_not_resumed(tmp_path):
    class Failing(torch.optim.SGD):
        def step(self):
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        train(tmp_path, optimizer=Recipe(Failing))
    assert (tmp_path / "checkpoints" / "stopped-000000" / "weights.pt").exists()
    assert saved_checkpoints(tmp_path / "checkpoints", "") == ()


def full_disk(monkeypatch, at: int) -> None:
    import safetensors.torch

    save, calls = safetensors.torch.save_file, iter(range(100))

    def refuse(tensors, path):
        if next(calls) >= at:
            Path(path).write_bytes(b"a part")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(tensors, path)

    monkeypatch.setattr(safetensors.torch, "save_file", refuse)


def test_full_disk_keeps_the_former_checkpoints(tmp_path, monkeypatch):
    whole = train(tmp_path / "whole")
    run = tmp_path / "run"
    checkpoints = Checkpoints(run / "checkpoints", SavePolicy(every=2, keep=1))
    with monkeypatch.context() as patched:
        full_disk(patched, at=1)
        with pytest.raises(CheckpointError, match="the disk is full") as caught:
            train(run, checkpoints=checkpoints)
    assert caught.value.errno == errno.ENOSPC
    assert "step 4 could not be saved" in caught.value.__notes__[0]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000002"]
    assert same(train(run, resume=newest(run), checkpoints=checkpoints), whole)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, [*(f"step-{step:06}" for step in range(1, 6)), "final"]),
        ({"keep": 1, "best": None}, ["step-000005", "final"]),
        ({"keep": 1}, ["step-000002", "step-000005", "final"]),
        ({"keep": 2, "best": None}, ["step-000004", "step-000005", "final"]),
        ({"keep": 1, "best": "reward"}, ["step-000002", "step-000005", "final"]),
        ({"keep": 1, "best": "loss"}, ["step-000004", "step-000005", "final"]),
    ],
)
def test_what_stays_on_the_disk(tmp_path, options, names):
    rewards = iter([0.0, 5.0, 1.0, 5.0, 2.0, 3.0])

    def scripted(images, prompts):
        value = next(rewards)
        return images.mean((1, 2, 3)) * 0 + value

    class Falling:
        """A loss that is least in step 4, whatever the reward."""

        calls = 0

        def __call__(self, rewards):
            Falling.calls += 1
            return rewards * 0 + abs(Falling.calls - 4)

    folder = Checkpoints(tmp_path / "checkpoints", SavePolicy(every=1, **options))
    parts = {"reward": scripted}
    if options.get("best") == "loss":
        parts["shape"] = Falling()
    train(tmp_path, parts=parts, checkpoints=folder)
    found = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert found == set(names)


def test_a_kill_before_the_pruning_is_made_up_for(tmp_path):
    train(tmp_path, checkpoints=Checkpoints(tmp_path / "checkpoints", SavePolicy(every=2)))
    keeping = Checkpoints(tmp_path / "checkpoints", SavePolicy(every=2, keep=1, best=None))
    train(tmp_path, checkpoints=keeping, resume=tmp_path / "checkpoints" / "final")
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["final", "step-000004"]


def test_a_save_reads_no_content_of_other_checkpoints(tmp_path, monkeypatch):
    read = []

    def noted(folder, names, *, digests=flowbp.training.checkpoint.digests):
        read.extend((Path(folder).name, name) for name in names)
        return digests(folder, names)

    monkeypatch.setattr("flowbp.training.checkpoint.digests", noted)
    checkpoints = Checkpoints(tmp_path / "checkpoints", SavePolicy(every=1, keep=2, best="reward"))
    train(tmp_path, checkpoints=checkpoints)
    # Each reads back what it has just written, for its own manifest.
    assert {place.removesuffix(PARTIAL) for place, _ in read} == {
        *(f".step-{step:06}" for step in range(1, STEPS)),
        ".final",
    }
    assert all(place.endswith(PARTIAL) for place, _ in read)


def test_retention_leaves_everything_else_alone(tmp_path):
    strange = tmp_path / "checkpoints" / "step-999999" / "thesis.tex"
    strange.parent.mkdir(parents=True)
    strange.write_text("years of work")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=interrupt_at(1))
    place = tmp_path / "checkpoints" / "interrupted-000001"
    policy = SavePolicy(every=2, keep=1, best=None)
    checkpoints = Checkpoints(tmp_path / "checkpoints", policy)
    train(tmp_path, resume=place, checkpoints=checkpoints)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["final", "step-000004", "step-999999"]
    assert strange.read_text() == "years of work"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every": 2, "keep": 0}, "`keep` must be an integer >= 1, got 0"),
        ({"every": 2, "keep": 1, "best": "beauty"}, "`best` must be reward or loss or none"),
        ({"keep": 2}, "`keep` is 2 while `every` is none"),
        ({"every": 2, "best": "loss"}, "`best` is 'loss' while `keep` is none"),
    ],
)
def test_options_that_do_nothing_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Checkpoints("a", SavePolicy(**options))


def test_an_interrupt_in_the_first_step_can_be_resumed(tmp_path):
    checkpoints = Checkpoints(
        tmp_path / "run/checkpoints", SavePolicy(every=2, keep=1, best="reward")
    )
    whole = train(tmp_path / "whole", checkpoints=attrs.evolve(checkpoints, folder=tmp_path / "w"))

    def impatient(images, prompts):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(tmp_path / "run", parts={"reward": impatient}, checkpoints=checkpoints)
    place = tmp_path / "run/checkpoints/interrupted-000000"
    assert caught.value.__notes__ == [f"the parameters after step 0 are saved in {place}"]
    assert same(train(tmp_path / "run", resume=place, checkpoints=checkpoints), whole)


def test_what_an_interrupt_left_may_be_the_best_of_a_run(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop=interrupt_at(2))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.of_step(2) == "interrupted-000002"
    # Where there is none, the name that it should have is told, and refused by whoever reads it.
    assert checkpoints.of_step(3) == "best-000003"


def test_a_prune_that_fails_is_no_failed_save(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints", SavePolicy(every=1, keep=1, best=None))

    def refuse(folder):
        raise PermissionError(f"{folder} is held")

    with monkeypatch.context() as patched:
        patched.setattr("flowbp.training.retention.remove_checkpoint", refuse)
        with (
            pytest.raises(KeyboardInterrupt) as caught,
            pytest.warns(UserWarning, match="the next save tries again"),
        ):
            train(tmp_path, stop=interrupt_at(3), checkpoints=checkpoints)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {f"step-{step:06}" for step in (1, 2, 3)}
    assert "are saved in" in caught.value.__notes__[0]
    train(tmp_path, resume=newest(tmp_path), checkpoints=checkpoints)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-000005", "final"}


def rewritten(place: Path, edit: Callable[[dict], object]) -> None:
    """Change `state.json` as someone would who also makes the manifest anew."""
    path = place / "training/state.json"
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))
    manifest = read_manifest(place)
    (place / "manifest.json").unlink()
    write_manifest(place, identity=manifest.identity, step=manifest.step)


def packed(tree: dict, *names: object) -> dict:
    """A mapping somewhere in what `pack` made: by key to its pair."""
    value = tree["state"]
    for name in names:
        value = dict((key, item) for key, item in value["mapping"])[name]
    return {pair[0]: pair for pair in value["mapping"]}


def rename(pair: list, key: object) -> None:
    pair[0] = key


EDITS = {
    "no rows": lambda tree: tree.pop("rows"),
    "no frozen": lambda tree: tree.pop("frozen"),
    "a row less": lambda tree: tree["rows"].pop(),
    "rows that begin late": lambda tree: tree["rows"][0].update(step=2),
    "a figure as text": lambda tree: tree["rows"][0].update(loss="much"),
    "an evaluation of the future": lambda tree: tree["evaluations"].append(
        {"step": 99, "means": {"reward": 1.0}, "each": {}, "signs": {}}
    ),
    "portions of nothing": lambda tree: tree.update(portions={"typed": {}, "now": {}}),
    "a state that is a list": lambda tree: tree.update(state=[1]),
    "no tensor of that name": lambda tree: packed(tree, "parameters")["bias"][1].update(tensor="x"),
    "another moment": lambda tree: rename(
        packed(tree, "optimizer", "state", 0)["exp_avg"], "exp_aug"
    ),
    "a moment of another shape": lambda tree: packed(tree, "optimizer", "state", 0)["exp_avg"][
        1
    ].update(tensor="state.optimizer.state.2.exp_avg"),
    "a moment that is a number": lambda tree: packed(tree, "optimizer", "state", 0)[
        "exp_avg"
    ].__setitem__(1, 0.5),
    "a parameter too many": lambda tree: rename(packed(tree, "optimizer", "state")[3], 4),
    "no groups": lambda tree: rename(packed(tree, "optimizer")["param_groups"], "groups"),
    "no average of one": lambda tree: rename(packed(tree, "average", "shadow")["bias"], "bies"),
    "fewer than no updates": lambda tree: packed(tree, "average")["updates"].__setitem__(1, -1),
    "no average": lambda tree: packed(tree)["average"].__setitem__(1, None),
    "a generator too few": lambda tree: rename(
        packed(tree, "mark", "streams")["surrogate"], "surrogates"
    ),
    "a generator of weights": lambda tree: packed(tree, "mark", "streams")["surrogate"][1].update(
        tensor="state.parameters.bias"
    ),
    "no generator of torch": lambda tree: rename(packed(tree, "mark", "torch")["cpu"], "cpv"),
    "prompts from nowhere": lambda tree: packed(tree, "mark", "prompts")["taken"].__setitem__(
        1, None
    ),
}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted")
    with pytest.raises(KeyboardInterrupt):
        train(folder, stop=interrupt_at(2), averaging=Averaging(0.5))
    return folder


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_state_that_does_not_fit_changes_and_saves_nothing(tmp_path, interrupted, edit):
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    place, backbone = newest(run), FakeBackbone()
    rewritten(place, edit)
    before = backbone.state()
    files = sorted(run.rglob("*"))
    with pytest.raises(CheckpointError) as caught:
        train(run, resume=place, backbone=backbone, averaging=Averaging(0.5))
    assert str(place) in str(caught.value) and len(str(caught.value)) < 1000
    assert all(torch.equal(before[name], each) for name, each in backbone.state().items())
    assert sorted(run.rglob("*")) == files


@pytest.mark.parametrize("take", ["resume", "average", "unaveraged", "trained"])
def test_a_flipped_bit_anywhere_is_refused(tmp_path, interrupted, take):
    run = tmp_path / "run"
    shutil.copytree(interrupted, run)
    place, drawn = newest(run), random.Random(0)
    take_it = {
        "resume": lambda: newest_checkpoint(run / "checkpoints", ""),
        "average": lambda: is_averaged(place),
        "unaveraged": lambda: load_unaveraged(FakeBackbone().trainable(), place),
        "trained": lambda: load_trained(FakeBackbone().trainable(), place),
    }[take]
    take_it()
    # What the model alone is read by does not look at the model's own files.
    names = ["manifest.json", "training/state.json"]
    names += ["training/tensors.safetensors"] * (take != "average")
    names += ["weights.pt"] * (take == "resume")
    for name in names:
        path = place / name
        whole = path.read_bytes()
        for _ in range(25):
            content = bytearray(whole)
            content[drawn.randrange(len(whole))] ^= 1 << drawn.randrange(8)
            path.write_bytes(content)
            with pytest.raises(CheckpointError):
                take_it()
        path.write_bytes(whole)
    take_it()


@pytest.mark.parametrize("other", ["step-000002", "step-000004"])
def test_a_manifest_of_an_older_step_does_not_hide_the_newest_checkpoint(tmp_path, other):
    run = tmp_path / "run"
    train(run, checkpoints=Checkpoints(run / "checkpoints", SavePolicy(every=2)))
    newest_, name = run / "checkpoints/final", "manifest.json"
    assert newest(run) == newest_
    shutil.copyfile(run / "checkpoints" / other / name, newest_ / name)
    with pytest.raises(CheckpointError, match="final cannot be resumed"):
        newest_checkpoint(run / "checkpoints", "")


def test_nested_values_are_packed_without_pickling():
    tensors = {}
    packed = pack({0: (torch.zeros(2), 0.5), "a": [None]}, "state", tensors)
    assert list(tensors) == ["state.0.0"]
    again = unpack(json.loads(json.dumps(packed)), tensors)
    assert type(again[0]) is tuple and torch.equal(again[0][0], torch.zeros(2))
    assert again[0][1] == 0.5 and again["a"] == [None]
    with pytest.raises(ValueError, match=r"state\.0\.0"):
        unpack(packed, {})
    with pytest.raises(TypeError, match="`state` must be made of"):
        pack(object(), "state", {})

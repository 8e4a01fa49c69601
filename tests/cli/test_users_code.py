"""Code of a user that is wrong, of every kind and at every stage: one sentence and its own frames.

Each run is tiny and in this process; the user's code is a module of its own in a temporary folder.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from flowbp.evaluate import main as evaluate_main
from flowbp.run import main
from flowbp.training.checkpoint import newest_checkpoint

from ..tiny_run import save_models, write_configuration

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore")

MODULE = '''
import attrs
import torch
from flowbp.adapters import SD3Backbone
from flowbp.core import Sparse
from flowbp.training import AdamW

CALLS = []


def broken(kind):
    """What goes wrong, at the place that is tried."""
    if kind == "KeyError":
        return {{}}["absent"]
    if kind == "AssertionError":
        assert False, "not so"
    if kind == "SystemExit":
        raise SystemExit(3)
    if kind == "OSError":
        raise OSError(28, "No space left on device")
    return torch.ones(2, 3) @ torch.ones(2, 3)


def counted(after, kind):
    """Sound for the first calls."""
    CALLS.append(kind)
    if len(CALLS) > after:
        broken(kind)


def redness(images, prompts):
    return images[:, 0].mean((1, 2))


def same_for_all(images, prompts):
    return redness(images, prompts) * 0 + 1


class Late:
    """A reward, judge or metric that is sound for some calls."""

    def __init__(self, after: int, kind: str, verdict: bool = False):
        self.after, self.kind, self.verdict = after, kind, verdict

    def __call__(self, images, prompts):
        counted(self.after, self.kind)
        scores = redness(images, prompts)
        return (scores > 0.5).float() if self.verdict else scores


def none(images, prompts):
    return None


def detached(images, prompts):
    return redness(images, prompts).detach()


def item(images, prompts):
    return torch.tensor([image[0].mean().item() for image in images])


def as_list(images, prompts):
    return redness(images, prompts).tolist()


def nan(images, prompts):
    return redness(images, prompts) * float("nan")


def infinite(images, prompts):
    return redness(images, prompts) / 0


def wrong_shape(images, prompts):
    return redness(images, prompts)[:, None]


def half(images, prompts):
    return redness(images, prompts).half()


def integers(images, prompts):
    return (redness(images, prompts) * 9).long()


def no_pictures(images, prompts):
    return torch.ones(len(prompts), requires_grad=True) * 1


def of_others(images, prompts):
    """Sound: a score may depend on the other pictures."""
    scores = redness(images, prompts)
    return scores - scores.mean() + 0.5


class NeedsMore:
    def __init__(self):
        broken("KeyError")

    def __call__(self, images, prompts):
        return redness(images, prompts)


class Observer:
    def __init__(self, where: str, kind: str):
        self.where, self.kind = where, kind

    def _at(self, where):
        if where == self.where:
            broken(self.kind)

    def row(self, metrics):
        self._at("row")

    def pictures(self, step, images, prompts):
        self._at("pictures")

    def begin(self, rows):
        self._at("begin")

    def close(self):
        self._at("close")


class Unclosed:
    def row(self, metrics): ...
    def pictures(self, step, images, prompts): ...


class OddRow(Observer):
    def __init__(self):
        pass

    def row(self):
        pass


@attrs.frozen
class Optimizer(AdamW):
    kind: str = "KeyError"

    def build(self, parameters):
        optimizer = super().build(parameters)
        step = optimizer.step

        def failing():
            counted(2, self.kind)
            return step()

        optimizer.step = failing
        return optimizer


@attrs.frozen
class NoOptimizer(AdamW):
    def build(self, parameters):
        return None


@attrs.frozen
class Method(Sparse):
    kind: str = "KeyError"

    def draw(self, sigmas, generator):
        if self.kind != "None":
            counted(3, self.kind)
            return super().draw(sigmas, generator)
        CALLS.append(self.kind)
        return None if len(CALLS) > 3 else super().draw(sigmas, generator)


class Backbone:
    """The library's, spoilt at one place."""

    def __init__(self, source: str, where: str, kind: str, *, device):
        self._inner = SD3Backbone.from_pretrained(source, device=device, text_length=4)
        self.module, self.device = self._inner.module, self._inner.device
        self.where, self.kind = where, kind

    def _at(self, where, value):
        if where != self.where:
            return value
        return None if self.kind == "None" else broken(self.kind)

    def encode(self, prompts):
        return self._at("encode", self._inner.encode(prompts))

    def noise(self, count, *, height, width, generator):
        noise = self._inner.noise(count, height=height, width=width, generator=generator)
        return self._at("noise", noise)

    def sigmas(self, steps, *, height, width):
        return self._at("sigmas", self._inner.sigmas(steps, height=height, width=width))

    def velocity(self, conditioning):
        field = self._inner.velocity(conditioning)
        if self.where == "backward":
            return lambda latents, sigma: spoilt(field(latents, sigma))
        return lambda latents, sigma: self._at("velocity", field(latents, sigma))

    def decode(self, latents):
        return self._at("decode", self._inner.decode(latents))

    def trainable(self):
        return self._inner.trainable()

    def save(self, folder):
        if self.where == "wrong save":
            return
        if self.where == "late save":
            counted(1, self.kind)
        self._at("save", None)
        torch.save(dict(self.module.state_dict()), folder / "weights.pt")

    def load(self, folder):
        if self.where == "wrong load":
            with torch.no_grad():
                next(iter(self.trainable().values())).add_(1)
            return
        self._at("load", None)
        self.module.load_state_dict(torch.load(folder / "weights.pt"))


def spoilt(value):
    """Changes in place what the backward pass needs."""
    root = value.exp()
    again = root * root
    with torch.no_grad():
        root.add_(1)
    return again


class Unloadable(Backbone):
    load = None


def made_by_a_function(source, *, device):
    return Unloadable(source, "none", "none", device=device)


def made_to_fail(source, *, device):
    return Backbone(source, "velocity", "KeyError", device=device)


class Prompts:
    def __init__(self): ...
    def stream(self, generator): ...


@attrs.frozen
class ShortPrompts:
    def stream(self, generator):
        yield "a circle"


@attrs.frozen
class NumberPrompts:
    def stream(self, generator):
        while True:
            yield 7


import os
system = os.system
'''


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return save_models(tmp_path_factory.mktemp("models"))


_numbers = itertools.count()


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The name of a fresh copy of the module."""
    name = f"users_code_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("{{}}", "{}"))
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.fixture
def yaml(tmp_path, models):
    return str(write_configuration(tmp_path, models))


EVALUATED = "evaluation={prompts: {name: shapes, count: 6}, batch: 2}"
INSIDE = "evaluation={prompts: {name: shapes, count: 6}, batch: 2, every: 1, count: 2, metrics: %s}"
SAMPLES = "samples={every: 1, count: 2}"


def refused(capsys, code, typed, *pieces, own=True):
    """Run, and expect a sentence with these pieces, and frames of the user's own alone."""
    assert main(typed) == code
    told = capsys.readouterr().err
    for piece in pieces:
        assert piece in told, told
    lines = told.splitlines()
    files = [line for line in lines if line.lstrip().startswith('File "')]
    assert "Traceback" not in told and "flowbp/" not in "".join(files), told
    assert bool(files) == own, told
    return told


WRONG_SCORES = {
    "none": "got None",
    "detached": "without a graph",
    "item": "without a graph",
    "as_list": "got the list",
    "nan": "finite scores, got [nan, nan]",
    "infinite": "finite scores, got [inf, inf]",
    "wrong_shape": "shape (2,), got shape (2, 1)",
    "half": "float32, got torch.float16",
    "integers": "without a graph",
    "no_pictures": "do not depend on any",
}


@pytest.mark.parametrize("name", WRONG_SCORES)
def test_a_reward_that_returns_wrongly_is_refused_before_the_run_and_by_check(
    yaml, mine, tmp_path, capsys, name
):
    typed = [yaml, f"reward={{name: '{mine}:{name}'}}"]
    pieces = f"the reward {mine}:{name} must ", WRONG_SCORES[name], "at the prompts '"
    if name == "no_pictures":
        pieces = (*pieces[:1], *pieces[2:])
    refused(capsys, 2, [*typed, "--check"], *pieces, own=False)
    refused(capsys, 1, typed, *pieces, "before the run", own=False)
    # The same command can be given again.
    assert not (tmp_path / "run" / "configuration.yaml").exists()


def test_a_score_may_depend_on_the_others(yaml, mine):
    assert main([yaml, f"reward={{name: '{mine}:of_others'}}"]) == 0


KINDS = {
    "KeyError": "raised KeyError: 'absent'",
    "AssertionError": "raised AssertionError: not so",
    "SystemExit": "raised SystemExit: 3",
    "OSError": "raised OSError: [Errno 28] No space left on device",
    "RuntimeError": "raised RuntimeError: mat1 and mat2",
}
# The try before the run is a call, and so is each step, evaluation and batch of one.
STAGES = {
    "a try": (0, [], "during the rehearsal of the reward before the run"),
    "before": (1, [EVALUATED], "during the evaluation before training"),
    "a step": (1, [], "during step 1 of the training"),
    "the next": (2, [], "during step 2 of the training"),
    "inside": (1, [INSIDE % "{}"], "during the evaluation before training"),
    "after": (1 + 3 + 2, [EVALUATED], "during the evaluation after training"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_reward_that_raises_is_named_at_every_stage(yaml, mine, tmp_path, capsys, stage, kind):
    if kind not in ("KeyError", "SystemExit") and stage not in ("a step", "after"):
        pytest.skip("two kinds of error stand for all at the other stages")
    after, more, said = STAGES[stage]
    reward = f"reward={{name: '{mine}:Late', after: {after}, kind: {kind}}}"
    told = refused(
        capsys, 1, [yaml, reward, *more], f"the reward {mine}:Late {KINDS[kind]}", said, "in broken"
    )
    (sentence,) = [line for line in told.splitlines() if line.startswith("the reward ")]
    assert sentence.count("at the prompt") == 1
    saved = {"a step": "stopped-000000", "the next": "stopped-000001", "after": "final"}.get(stage)
    if saved:
        place = tmp_path / "run" / "checkpoints" / saved
        assert str(place) in told and place.is_dir()


OTHERS = {
    "judge": [EVALUATED, "judge=@"],
    "metric `own`": [INSIDE % "{own: @}"],
    "reward's part `own`": ["reward={name: weighted, parts: {own: {reward: @, mean: 0, std: 1}}}"],
}


@pytest.mark.parametrize("kind", OTHERS)
def test_judges_metrics_and_parts_that_raise_are_named(yaml, mine, capsys, kind):
    verdict = str(kind == "judge").lower()
    own = f"{{name: '{mine}:Late', after: 1, kind: KeyError, verdict: {verdict}}}"
    typed = [yaml, *(each.replace("@", own) for each in OTHERS[kind])]
    refused(capsys, 1, typed, f"the {kind} ", f"{mine}:Late", "raised KeyError: 'absent'", "during")


def test_a_plain_function_works_wherever_a_rewards_name_does(yaml, mine, models, tmp_path, capsys):
    own = f"{{name: '{mine}:redness'}}"
    typed = [
        yaml,
        f"reward={{name: weighted, parts: {{red: {{reward: {own}, mean: 0, std: 1}}}}}}",
        INSIDE % f"{{red: {own}}}",
        f"judge={{name: threshold, reward: {own}, at_least: 0.5}}",
        "early_stop={metric: red, patience: 1}",
    ]
    assert main([*typed, "--check"]) == 0
    assert main(typed) == 0
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text()
    assert '"red": ' in lines
    typed = [
        f"evaluation={{folder: {tmp_path / 'eval'}, device: cpu}}",
        f"backbone={{name: sd3, source: {models}/base, text_length: 4}}",
        "prompts={name: shapes, count: 3}",
        "sampling={steps: 2, height: 16, width: 16}",
        "embeddings.folder=null",
        f"metrics={{red: {own}, again: {{name: reward, reward: {own}}}}}",
    ]
    assert evaluate_main([*typed, "--check"]) == 0
    assert evaluate_main(typed) == 0
    assert '"red": ' in (tmp_path / "eval" / "scores.json").read_text()


@pytest.mark.parametrize("where", ["begin", "row", "pictures", "close"])
@pytest.mark.parametrize("kind", ["KeyError", "OSError"])
def test_an_observer_that_raises_is_named_and_the_model_is_saved(
    yaml, mine, tmp_path, capsys, where, kind
):
    observer = f"{{name: '{mine}:Observer', where: {where}, kind: {kind}}}"
    typed = [yaml, f"observers={{tensorboard: false, others: [{observer}]}}", EVALUATED, SAMPLES]
    told = refused(capsys, 1, typed, f"the observer {mine}:Observer {KINDS[kind]}", "during")
    assert f"saved in {tmp_path / 'run' / 'checkpoints'}" in told
    assert any((tmp_path / "run" / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("name", "said"), [("Unclosed", "`close()`"), ("OddRow", "`row` that does not take (metrics)")]
)
def test_an_observer_without_the_methods_is_refused_by_check(yaml, mine, capsys, name, said):
    typed = [yaml, f"observers.others=[{{name: '{mine}:{name}'}}]", "--check"]
    refused(capsys, 2, typed, "observers.others[0].name", f"'{mine}:{name}'", said, own=False)


@pytest.mark.parametrize(
    "where", ["encode", "noise", "sigmas", "velocity", "decode", "save", "load"]
)
@pytest.mark.parametrize("kind", ["None", "KeyError", "SystemExit"])
def test_a_backbone_that_fails_is_named(yaml, mine, models, capsys, where, kind):
    if kind == "None" and where in ("save", "load"):
        pytest.skip("these return nothing")
    keys = f"source: {models}/base, where: {where}, kind: '{kind}'"
    typed = [yaml, f"backbone={{name: '{mine}:Backbone', {keys}}}"]
    said = (
        ("Backbone must return from", "got None") if kind == "None" else (f"{mine}:", KINDS[kind])
    )
    assert main(typed) in (1, 2)
    told = capsys.readouterr().err
    assert all(each in told for each in said) and "Traceback" not in told, told
    assert where in told


@pytest.mark.parametrize(
    ("where", "said"), [("wrong save", "wrote none"), ("wrong load", "after `load` of what `save`")]
)
def test_a_save_that_is_wrong_costs_no_step(yaml, mine, models, tmp_path, capsys, where, said):
    keys = f"source: {models}/base, where: {where}, kind: none"
    typed = [yaml, f"backbone={{name: '{mine}:Backbone', {keys}}}"]
    refused(capsys, 1, typed, f"the backbone {mine}:Backbone", said, own=False)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not [path for path in (tmp_path / "run").iterdir() if path.is_dir()]


def test_a_save_that_fails_after_training_does_not_cost_what_was_trained(
    yaml, mine, models, tmp_path, capsys
):
    keys = f"source: {models}/base, where: late save, kind: KeyError"
    backbone = f"backbone={{name: '{mine}:Backbone', {keys}}}"
    told = refused(capsys, 1, [yaml, backbone], "Backbone.save raised KeyError", "saving the model")
    place = tmp_path / "run" / "checkpoints" / "stopped-000002"
    assert f"saved in {place}" in told
    found = newest_checkpoint(Path(place.parent), _identity(place))
    assert found is not None and found.place == place


def _identity(place):
    import json

    return json.loads((place / "manifest.json").read_text())["identity"]


def test_a_backward_pass_that_fails_is_named(yaml, mine, models, capsys):
    keys = f"source: {models}/base, where: backward, kind: none"
    typed = [yaml, f"backbone={{name: '{mine}:Backbone', {keys}}}"]
    said = (f"the backward pass of the backbone {mine}:Backbone raised RuntimeError", "step 1")
    refused(capsys, 1, typed, *said, own=False)


@pytest.mark.parametrize(
    ("key", "name", "said", "own"),
    [
        ("optimizer", "Optimizer", (".build", KINDS["KeyError"], "step 2"), True),
        ("optimizer", "NoOptimizer", (" must build a torch",), False),
        ("prompts", "ShortPrompts", (" must give prompts without end",), False),
        ("prompts", "NumberPrompts", (" must give texts, got the int 7",), False),
    ],
)
def test_other_parts_are_named(yaml, mine, capsys, key, name, said, own):
    path = f"{mine}:{name}"
    refused(capsys, 1, [yaml, f"{key}={{name: '{path}'}}"], path + said[0], *said[1:], own=own)


def test_a_method_that_fails_in_the_middle_is_named(yaml, mine, capsys):
    typed = [yaml, f"method={{name: '{mine}:Method', active: 2}}"]
    named = f"the method {mine}:Method raised "
    refused(capsys, 1, typed, named, KINDS["KeyError"], "of the training")


def test_a_method_that_draws_nothing_in_the_middle_is_named(yaml, mine, capsys):
    typed = [yaml, f"method={{name: '{mine}:Method', active: 2, kind: 'None'}}"]
    said = "Method.draw must return a flowbp.Surrogate, got None"
    refused(capsys, 1, typed, f"the method {mine}:Method raised ", said, own=False)


def test_what_cannot_be_built_or_imported_is_named_with_its_line(yaml, mine, tmp_path, capsys):
    typed = [yaml, f"reward={{name: '{mine}:NeedsMore'}}"]
    refused(capsys, 2, typed, f"{mine}:NeedsMore.__init__ raised KeyError", "in broken")
    (tmp_path / f"{mine}_exits.py").write_text("import sys\nsys.exit(4)\n")
    typed = [yaml, f"reward={{name: '{mine}_exits:Reward'}}"]
    refused(capsys, 2, typed, "reward.name", "SystemExit: 4", "line 2, in <module>")
    (tmp_path / f"{mine}_torn.py").write_text("def torn(:\n")
    typed = [yaml, f"reward={{name: '{mine}_torn:Reward'}}"]
    refused(capsys, 2, typed, "reward.name", "SyntaxError", f'{mine}_torn.py", line 1')


@pytest.mark.parametrize(
    ("key", "name", "said"),
    [
        ("reward", "os:system", "of Python itself"),
        ("reward", "shutil:rmtree", "of Python itself"),
        ("reward", "os.path:sep", "is a str"),
        ("reward", "{mine}:system", "of Python itself"),
        ("reward", "{mine}:attrs", "is a module"),
        ("reward", "{mine}:Unclosed", "cannot be called"),
        ("judge", "{mine}:Unclosed", "cannot be called"),
        ("backbone", "{mine}:Unclosed", "has no `encode(prompts)`"),
        ("method", "{mine}:redness", "has no `draw(sigmas, generator)`"),
        ("optimizer", "{mine}:redness", "has no"),
        ("prompts", "{mine}:redness", "has no `stream(generator)`"),
        ("schedule", "{mine}:redness", "has no"),
    ],
)
def test_what_is_plainly_none_is_refused_before_it_is_called(yaml, mine, capsys, key, name, said):
    named = name.format(mine=mine)
    typed = [yaml, f"{key}={{name: '{named}', command: touch}}".replace(", command: touch", "")]
    refused(capsys, 2, [*typed, EVALUATED, "--check"], f"{key}", f"'{named}'", said, own=False)


@pytest.mark.parametrize(
    ("backbone", "said"),
    [
        ("Unloadable, where: none, kind: none", "which has no `load(folder)`"),
        # Nothing says what a function makes before it is called.
        ("made_by_a_function", "which has no `load(folder)`"),
        ("made_to_fail", "raised KeyError: 'absent'"),
    ],
)
def test_a_check_of_an_evaluation_refuses_a_backbone_that_would_fail(
    models, mine, tmp_path, capsys, backbone, said
):
    target, _, keys = backbone.partition(",")
    typed = [
        f"evaluation={{folder: {tmp_path / 'eval'}, device: cpu}}",
        f"backbone={{name: '{mine}:{target}', source: {models}/base, {keys}}}",
        f"models={{base: {{}}, trained: {{checkpoint: {models}/base}}}}",
        "prompts={name: shapes, count: 2}",
        "sampling={steps: 2, height: 16, width: 16}",
    ]
    assert evaluate_main([*typed, "--check"]) == 2
    assert said in capsys.readouterr().err

"""What models and metrics are made of: their content decides, not where or when it was written."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from flowbp import files
from flowbp.cli.evaluate.fingerprint import DIGESTS, Digests, differences, fingerprint
from flowbp.cli.evaluate.resume import identity
from flowbp.cli.evaluate.settings import ModelSection
from flowbp.config import Component
from flowbp.evaluate import main

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

CODE = """
import torch
calls = 0

def bright(images, prompts):
    global calls
    calls += 1
    if {fails} and calls > 1:
        raise RuntimeError("no more")
    return {{"bright": {scale} * images.mean((1, 2, 3))}}
"""


def values(folder: Path, column: str) -> list[float]:
    rows = json.loads((folder / "scores.json").read_text())["rows"]
    return [row["values"][column] for row in rows]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes the code of a metric, which the next evaluation reads anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(**given) -> str:
        (tmp_path / "metric_that_changes.py").write_text(CODE.format(**given))
        sys.modules.pop("metric_that_changes", None)
        return "metrics.mine.name=metric_that_changes:bright"

    yield write
    sys.modules.pop("metric_that_changes", None)


def test_figures_of_other_code_do_not_hold(evaluation_yaml, tmp_path, written, capsys):
    out = tmp_path / "out"
    assert main([evaluation_yaml, written(scale=1, fails=True), "evaluation.batch=3"]) == 1
    lines = (out / "figures" / "mine" / "base.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 3
    typed = [evaluation_yaml, written(scale=100, fails=False), "evaluation.batch=3"]
    capsys.readouterr()
    assert main([*typed, "--resume"]) == 0
    assert "mine: code metric_that_changes.py ." in capsys.readouterr().out
    assert all(value > 1 for value in values(out, "mine.bright"))
    # The same code once more: nothing is judged again.
    written(scale=100, fails=False)
    assert main([*typed, "--resume"]) == 0
    assert capsys.readouterr().out.count("all values are there") == 2


def test_figures_of_other_weights_do_not_hold(evaluation_yaml, models, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    place = shutil.copytree(models / "reward", tmp_path / "reward")
    typed = [evaluation_yaml, f"metrics.likeness.source={place}"]
    assert main(typed) == 0
    before = values(tmp_path / "out", "likeness")
    weights = load_file(place / "model.safetensors")
    weights["text_projection.weight"].neg_()
    save_file(weights, place / "model.safetensors", {"format": "pt"})
    capsys.readouterr()
    assert main([*typed, "--resume"]) == 0
    assert "likeness: source model.safetensors changed" in capsys.readouterr().out
    assert values(tmp_path / "out", "likeness") == pytest.approx([-each for each in before])


def test_pictures_of_another_base_are_refused(evaluation_yaml, models, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    place = shutil.copytree(models / "base", tmp_path / "base")
    typed = [evaluation_yaml, f"backbone.source={place}"]
    assert main(typed) == 0
    (path,) = (place / "transformer").glob("*.safetensors")
    weights = load_file(path)
    next(iter(weights.values())).add_(1)
    save_file(weights, path, {"format": "pt"})
    more = "evaluation.seeds=[3, 4, 5]"
    for check in ([], ["--check"]):
        capsys.readouterr()
        assert main([*typed, more, "--resume", *check]) == 2
        told = capsys.readouterr().err
        assert "backbone: is not the model that the pictures were made with" in told
        assert f"source transformer/{path.name} changed" in told
    shutil.rmtree(place)
    shutil.copytree(models / "base", place)
    assert main([*typed, more, "--resume"]) == 0


def test_a_restored_checkpoint_is_the_same(evaluation_yaml, checkpoints, tmp_path, capsys):
    place = shutil.copytree(checkpoints["lora"], tmp_path / "lora")
    typed = [evaluation_yaml, f"models.b.checkpoint={place}"]
    assert main(typed) == 0
    for path in place.rglob("*"):
        os.utime(path, (1, 1))
    assert main([*typed, "--resume"]) == 0
    elsewhere = shutil.copytree(checkpoints["lora"], tmp_path / "elsewhere")
    moved = [evaluation_yaml, f"models.b.checkpoint={elsewhere}"]
    assert main([*moved, "--resume"]) == 0


def test_a_checkpoint_is_its_model_and_not_its_state_of_training(checkpoints, tmp_path):
    place = shutil.copytree(checkpoints["lora"], tmp_path / "lora")
    averaged, trained = (ModelSection(checkpoint=place, averaged=each) for each in (True, False))
    before = identity(averaged, Digests(tmp_path))
    of_training = [
        name for name in identity(trained, Digests(tmp_path))["checkpoint"] if "training/" in name
    ]
    assert of_training == ["training/tensors.safetensors"]
    shutil.rmtree(place / "training")
    assert identity(averaged, Digests(tmp_path)) == before and before["checkpoint"]


def test_reading_much_is_told_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("flowbp.cli.evaluate.fingerprint._MUCH", 2**20)
    (tmp_path / "large").write_bytes(bytes(3 * 2**20))
    digests = Digests(tmp_path)
    digests.of(tmp_path / "large")
    assert f"GiB in {tmp_path / 'large'}, to recognise the files" in capsys.readouterr().out
    digests.of(tmp_path / "large")
    assert not capsys.readouterr().out


def test_a_commit_that_is_not_known_is_no_difference():
    kept = {"source": "abc", "code": {".": "1"}}
    assert list(differences(kept, {"source": None, "code": {".": "1"}})) == []
    assert list(differences(kept, {"source": "abd", "code": {".": "1"}})) == ["source"]
    assert list(differences(kept, {"source": "abc"})) == ["code"]


def test_a_large_file_is_read_once(tmp_path, monkeypatch):
    folder, out = tmp_path / "model", tmp_path / "out"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "note").write_text("downloaded today")
    (folder / "large").write_bytes(bytes(2**20))
    (folder / "small").write_bytes(b"small")
    first = Digests(out)
    found = first.of(folder)
    assert set(found) == {"large", "small"}
    first.keep()
    digest, opened = files.digests, []

    def counted(folder, names):
        opened.extend(names)
        return digest(folder, names)

    monkeypatch.setattr(files, "digests", counted)
    assert Digests(out).of(folder) == found
    assert opened == ["small"]
    (folder / "large").write_bytes(b"1" + bytes(2**20 - 1))
    os.utime(folder / "large", (1, 1))
    assert Digests(out).of(folder)["large"] != found["large"]


def test_what_is_remembered_may_be_damaged(tmp_path):
    (tmp_path / DIGESTS).write_text('{"a": 3')
    assert Digests(tmp_path).of(Path(__file__)).keys() == {"."}


def test_a_hub_id_is_known_by_its_commit(tmp_path, monkeypatch):
    from flowbp.evaluation.metrics import clip_embedding
    from flowbp.settings.metric_factories import distance_metric

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    reference = tmp_path / "models--owner--name" / "refs" / "main"
    reference.parent.mkdir(parents=True)
    reference.write_text("abc")
    embedding = Component("clip", clip_embedding, {"source": "owner/name"})
    metric = Component("distance", distance_metric, {"embedding": embedding})
    found = fingerprint(metric, Digests(tmp_path))
    assert found["embedding.source"] == found["model owner/name"] == "abc"
    # Where the argument is null, of the model that is then taken.
    default = Component("distance", distance_metric)
    assert list(fingerprint(default, Digests(tmp_path)).items())[1:] == [
        ("model openai/clip-vit-large-patch14", None)
    ]


def test_a_hub_id_at_a_revision_is_known_by_the_commit_of_that(tmp_path, monkeypatch):
    from flowbp.adapters import SD3Backbone

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    references = tmp_path / "models--owner--name" / "refs"
    references.mkdir(parents=True)
    for name, commit in {"main": "abc", "v1": "def"}.items():
        (references / name).write_text(commit)
    given = {"source": "owner/name", "revision": "v1"}
    model = Component("sd3", SD3Backbone.from_pretrained, given)
    assert fingerprint(model, Digests(tmp_path))["source"] == "def"


def test_the_code_of_what_is_in_an_argument_counts(tmp_path):
    from flowbp.settings.metric_factories import reward_metric

    from .metrics_of_ours import reward

    inner = Component("tests.cli.evaluate.metrics_of_ours:reward", reward, ready=True)
    found = fingerprint(Component("reward", reward_metric, {"reward": inner}), Digests(tmp_path))
    assert "cli/evaluate/metrics_of_ours.py" in found["code tests"]


def test_code_that_a_metric_imports_counts(tmp_path, monkeypatch):
    texts = {
        "mp_of_ours/__init__.py": "",
        "mp_of_ours/metric.py": "from mp_of_ours.helper import SCALE\nimport beside_it\nM = print",
        "mp_of_ours/helper.py": "SCALE = 1",
        "beside_it.py": "def later():\n    from second_beside import x",
        "second_beside/__init__.py": "x = 1",
        "not_imported.py": "",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    target = importlib.import_module("mp_of_ours.metric").M
    metric = Component("mp_of_ours.metric:M", target, ready=True)
    before = fingerprint(metric, Digests(tmp_path))
    for name in texts:
        (tmp_path / name).write_text(texts[name] + "\n# changed")
        now = fingerprint(metric, Digests(tmp_path))
        package, _, within = name.partition("/")
        expected = [] if name == "not_imported.py" else [f"code {package} {within or '.'}"]
        assert list(differences(before, now)) == expected
        (tmp_path / name).write_text(texts[name])


def test_only_a_default_that_is_read_from_is_a_place(tmp_path, monkeypatch):
    def build(label="some", kind="some", folder: str | os.PathLike[str] = "some", weights="some"):
        raise AssertionError

    build.needs = lambda weights: ()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_text("1")
    found = fingerprint(Component("mine", build), Digests(tmp_path))
    assert {"folder", "weights"} == found.keys() & {"label", "kind", "folder", "weights"}
    found = fingerprint(Component("mine", build, {"kind": "some"}), Digests(tmp_path))
    assert found.keys() & {"label", "kind"} == {"kind"}


def test_figures_of_another_flowbp_do_not_hold(tmp_path, monkeypatch):
    from flowbp.evaluation.metrics import clip_embedding

    clip = Component("clip", clip_embedding, {"source": "owner/name"})
    before = fingerprint(clip, Digests(tmp_path))
    monkeypatch.setattr("flowbp.cli.evaluate.fingerprint.own_code", lambda: "another")
    assert list(differences(before, fingerprint(clip, Digests(tmp_path)))) == ["code flowbp"]

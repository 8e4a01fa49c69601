"""The cache within a run: the same run with and without, and nothing encoded once it has begun."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch
from safetensors.torch import load_file

from flowbp.adapters import CutPromptWarning, SD3Backbone
from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.run.built_run import build_run
from flowbp.cli.run.execution import execute
from flowbp.cli.run.phases import run_prompts
from flowbp.run import main
from flowbp.settings import RunContainer, load
from flowbp.training import Ranks

pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

WEIGHTS = "checkpoints/final/transformer/diffusion_pytorch_model.safetensors"
WHOLE = [
    "sampling.guidance=2",
    "sampling.negative_prompt=dull",
    "evaluation.prompts={name: shapes, count: 3}",
    "samples={every: 1, count: 2}",
]


def test_a_run_is_the_same_with_and_without_the_cache(yaml, tmp_path):
    cache = tmp_path / "cache"
    for name, folder in (("memory", "null"), ("cold", cache), ("warm", cache)):
        typed = [f"run.folder={tmp_path / name}", f"embeddings.folder={folder}"]
        assert main([yaml, *WHOLE, *typed]) == 0
    kept = len(list(cache.rglob("*.safetensors")))
    assert kept == 3 + 4 + 1, "evaluation, two steps of two, and the negative prompt"
    weights = [load_file(tmp_path / name / WEIGHTS) for name in ("memory", "cold", "warm")]
    for key, expected in weights[0].items():
        assert torch.equal(weights[1][key], expected) and torch.equal(weights[2][key], expected)


def test_nothing_is_encoded_once_the_run_has_begun(yaml, tmp_path, monkeypatch):
    parts = RunContainer(settings=load([yaml, *WHOLE]).settings)
    encode_prompts(parts.model(), run_prompts(build_run(parts)))
    prompts = run_prompts(build_run(parts))
    assert len(prompts) == len(set(prompts)) == 8 and "dull" in prompts
    encoder = weakref.ref(parts.backbone().text.clip.encoder)
    assert encoder() is not None, "asking for it brought it back"
    parts.model().release()
    gc.collect()
    assert encoder() is None

    def refuse(*_):
        raise AssertionError("a prompt was encoded")

    monkeypatch.setattr(SD3Backbone, "encode", refuse)
    assert execute(parts) is not None
    assert parts.backbone().text.clip.held._module is None


def test_the_negative_prompt_is_left_out_where_nothing_is_guided(yaml):
    parts = RunContainer(settings=load([yaml]).settings)
    assert "" not in run_prompts(build_run(parts))
    evaluation = "evaluation={prompts: {name: shapes, count: 2}, guidance: 3}"
    parts = RunContainer(settings=load([yaml, evaluation]).settings)
    assert "" in run_prompts(build_run(parts))


def test_cut_prompts_are_told_once_with_their_number(yaml, tmp_path):
    prompts = tmp_path / "prompts.csv"
    rows = [
        "id,caption",
        "1,red",
        "2,a caption that is cut",
        "3,another one that is",
        "2,blue",
        "4,",
    ]
    prompts.write_text("\n".join(rows))
    source = f"prompts={{name: text, path: {prompts}, column: caption}}"
    with pytest.warns(CutPromptWarning) as told:
        assert main([yaml, source, "batching.samples=4"]) == 0
    cut = [str(each.message) for each in told if each.category is CutPromptWarning]
    assert len(cut) == 1
    assert cut[0].startswith("2 of the 4 prompts are longer than what the text encoders read")
    # Without T5: a longer `text_length` would change nothing.
    assert "use_t5=true" in cut[0] and "text_length" not in cut[0]
    listed = tmp_path / "run" / "cut_prompts.jsonl"
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert {row["prompt"] for row in rows} == {"a caption that is cut", "another one that is"}
    assert all(row["tokens"] > row["read"] == 12 for row in rows)
    assert all(repr(row["prompt"]) in cut[0] for row in rows) and str(listed) in cut[0]


def test_check_tells_what_was_left_out_and_where_embeddings_lie(yaml, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("red\n\nblue\nred\n")
    text = f"{{name: text, path: {prompts}}}"
    assert main([yaml, f"prompts={text}", f"evaluation.prompts={text}", "--check"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("lines left out: 1 blank (2); 1 duplicate (4)") == 2
    assert "2 of them" in told and "run-embeddings, shared by all runs, prompts encoded one" in told
    assert not (tmp_path / "run-embeddings").exists()


def test_wrong_columns_are_told_with_their_place(yaml, tmp_path, capsys):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("id,caption\n1,red\n")
    assert main([yaml, f"prompts={{name: text, path: {prompts}, column: captoin}}"]) == 2
    told = capsys.readouterr().err
    assert "prompts.column: must be a column of prompts.csv, got 'captoin'" in told
    assert "Did you mean 'caption'? There are: 'id', 'caption'" in told


class SecondOfTwo(Ranks):
    """What has no other to talk to, and needs none to be told of its prompts."""

    rank, size = 1, 2


def test_processes_that_train_together_encode_the_prompts_of_all(yaml):
    settings = load([yaml]).settings
    alone, one = (
        RunContainer(settings=settings, **ranks) for ranks in ({}, {"ranks": SecondOfTwo()})
    )
    drawn = [dict.fromkeys(run_prompts(build_run(parts))) for parts in (alone, one)]
    # Two steps of two samples, or of four.
    assert len(drawn[0]) == 4 and len(drawn[1]) == 8
    assert list(drawn[1])[:4] == list(drawn[0])


@pytest.mark.filterwarnings("ignore:a cached embedding is damaged")
@pytest.mark.parametrize("damage", ["truncated", "missing"])
def test_a_lost_entry_brings_the_encoders_back_for_as_long_as_it_takes(
    yaml, tmp_path, monkeypatch, damage
):
    parts = RunContainer(settings=load([yaml]).settings)
    parts.step()
    encode_prompts(parts.model(), run_prompts(build_run(parts)))
    held = parts.tuned().text_encoders.towers["text_encoder"].held
    assert held.offloaded
    for entry in (tmp_path / "run-embeddings").rglob("*.safetensors"):
        if damage == "truncated":
            entry.write_bytes(entry.read_bytes()[:-3])
        else:
            entry.unlink()
    there, encode = [], SD3Backbone.encode

    def watched(self, prompts):
        found = encode(self, prompts)
        there.append(not held.offloaded)
        return found

    monkeypatch.setattr(SD3Backbone, "encode", watched)
    parts.trainer().run()
    assert there and all(there)
    assert held.offloaded and held._module is None

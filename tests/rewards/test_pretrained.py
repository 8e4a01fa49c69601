"""What is given to a published reward by mistake, and what is said of it."""

from __future__ import annotations

import shutil

import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import save_file

from flowbp.rewards import AestheticScore, CLIPScore, HPSv2, PickScore
from flowbp.rewards.pretrained import reading, tokenizer_place
from flowbp.source_files import resolve

from .open_clip_oracle import TINY, random_weights
from .published_rewards import NAMES, build, hpsv2, published, save_head, save_hps

REWARDS = (HPSv2, PickScore, CLIPScore, AestheticScore)


@pytest.fixture
def reach_nothing(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("transformers.CLIPTokenizer.from_pretrained", refuse)
    monkeypatch.setattr("transformers.CLIPModel.from_pretrained", refuse)


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize("name", ["none", "weights/none.pt", "a/b/c"])
def test_a_path_that_is_not_there(tmp_path, monkeypatch, kind, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"`source` must be a .*'{name}'; there is no such path"):
        kind(source=name)


@pytest.mark.parametrize("kind", [PickScore, CLIPScore])
def test_a_file_in_place_of_a_folder(tmp_path, kind):
    path = save_hps(tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(ValueError, match=r"must be a folder \(CLIPModel.*that is a file"):
        kind(source=path)


def test_a_folder_in_place_of_a_file(folder):
    with pytest.raises(ValueError, match=r"`source` must be a file \(the head.*that is a folder"):
        AestheticScore(source=folder, clip=folder)


def test_a_published_file_that_was_cut_off(tmp_path):
    path = tmp_path / "HPS_v2.1_compressed.pt"
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"has 2 bytes and .* has 1972490005: it was cut off"):
        HPSv2(source=path)
    path.write_bytes(b"garbage")
    with pytest.raises(ValueError, match=r"has 7 bytes and .*: it is another file; copy or down"):
        HPSv2(source=path)


def test_another_file_of_the_same_size(folder, tmp_path):
    path = save_hps(tmp_path / "hps.pt")
    known = published(path)
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"has sha256 .* has {known.sha256}; .*verify=false"):
        hpsv2(path, folder, published=known)
    assert hpsv2(save_hps(tmp_path / "other.pt"), folder, published=known, verify=False)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_in_other_keys(folder, model, tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    (torch.save if suffix == ".pt" else save_file)(weights, path)
    message = r"does not hold a CLIP model.*lacks token_embedding\.weight.*it holds .*logit_scale"
    with pytest.raises(ValueError, match=message):
        hpsv2(path, folder)


def test_weights_of_another_size(folder, tmp_path):
    weights = random_weights(TINY) | {"visual.proj": torch.zeros(24, 13)}
    with pytest.raises(ValueError, match=r"visual\.proj has shape \(24, 13\) in place of \(24, 12"):
        hpsv2(save_hps(tmp_path / "hps.pt", weights), folder)


def test_a_head_for_another_model(folder, tmp_path):
    path = save_head(tmp_path / "head.pth", 768)
    message = r"for embeddings of 8 numbers: its layers\.0\.weight has shape \(1024, 768\)"
    with pytest.raises(ValueError, match=message):
        AestheticScore(source=path, clip=folder)


def test_the_tokenizer_that_the_file_lacks_cannot_be_had(tmp_path, reach_nothing):
    path = save_hps(tmp_path / "hps.pt")
    message = (
        r"`tokenizer` 'openai/clip-vit-large-patch14' could not be read: .*and give their folder"
    )
    with pytest.raises(FileNotFoundError, match=message):
        hpsv2(path, None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (
            HPSv2,
            r"`source` 'xswu/HPSv2' .* could not be read, its HPS_v2\.1_compressed\.pt: .*`hf "
            r"download xswu/HPSv2 HPS_v2\.1_compressed\.pt`.*and give the file's path",
        ),
        (PickScore, "`source` 'yuvalkirstain/PickScore_v1' could not be read"),
        (CLIPScore, "`source` 'openai/clip-vit-large-patch14' could not be read"),
        (AestheticScore, "`source` 'openai/clip-vit-large-patch14' could not be read"),
    ],
)
def test_what_a_hub_that_is_out_of_reach_lacks_is_named(kind, name, reach_nothing):
    with pytest.raises(FileNotFoundError, match=name):
        kind()


def test_a_tokenizer_that_is_none(tmp_path):
    path = save_hps(tmp_path / "hps.pt")
    with pytest.raises(FileNotFoundError, match=r"`tokenizer` .* holds neither tokenizer\.json"):
        hpsv2(path, tmp_path)


def test_a_tokenizer_of_another_vocabulary(folder, tmp_path):
    from transformers import CLIPTokenizer

    CLIPTokenizer().save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match="where the model has 80 and reads at 79"):
        hpsv2(save_hps(tmp_path / "hps.pt"), tmp_path / "words")
    with pytest.raises(ValueError, match="name the tokenizer of this very model"):
        PickScore(source=folder, tokenizer=tmp_path / "words")


def test_a_folders_own_tokenizer_wins_over_the_published_one(folder, tmp_path):
    place = dict(own=False, published="owner/words")
    assert tokenizer_place(None, folder, **place) == folder
    assert tokenizer_place("mine", folder, **place) == "mine"
    assert tokenizer_place(None, "owner/name", **place) == "owner/words"
    assert tokenizer_place(None, "owner/name", **(place | {"own": True})) == "owner/name"
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("*token*"))
    (bare / "vocab.json").unlink(missing_ok=True)
    assert tokenizer_place(None, bare, **place) == "owner/words"
    assert PickScore(source=bare, tokenizer=folder).clip.logit_scale


@pytest.mark.parametrize("name", NAMES)
def test_a_senseless_portion(folder, tmp_path, name):
    with pytest.raises(ValueError, match="`batch` must be an integer >= 1, got 0"):
        build(name, folder, tmp_path, batch=0)


def test_the_published_file_comes_from_the_hub(folder, tmp_path, monkeypatch):
    path = save_hps(tmp_path / "hps.pt")
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda *names: asked.append(names) or str(path)
    )
    reward = HPSv2(tokenizer=folder, published=published(path), architecture=TINY)
    assert asked == [("xswu/HPSv2", "hps.pt")]
    assert reward(torch.rand(1, 3, 16, 16), ["red"]).shape == (1,)


@pytest.mark.parametrize(
    ("error", "cure"),
    [
        (
            errors.LocalEntryNotFoundError("no connection"),
            r"it is not in the cache .*run `hf download o/n f\.pt`.*resolve/main/f\.pt elsewhere",
        ),
        (
            errors.EntryNotFoundError("no such file"),
            r"o/n does not have it \(no such file\); check",
        ),
        (errors.GatedRepoError.__new__(errors.GatedRepoError), "it is gated; accept its licence"),
        (OSError("no space left"), "no space left; try"),
    ],
)
def test_what_the_hub_does_not_give_is_reported_with_the_cure(monkeypatch, error, cure):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(FileNotFoundError, match=rf"`source` 'o/n' .*read, its f\.pt: .*{cure}"):
        resolve("o/n", "f.pt")


@pytest.mark.parametrize(
    ("cause", "cure"),
    [
        (errors.GatedRepoError.__new__(errors.GatedRepoError), "it is gated; accept its licence"),
        (errors.LocalEntryNotFoundError("no"), r"`hf download o/n` where there is a network"),
    ],
)
def test_what_a_loader_says_in_its_own_words_is_reported_by_its_cause(cause, cure):
    reported = rf"`clip` 'o/n' could not be read: .*{cure}"
    with pytest.raises(FileNotFoundError, match=reported), reading("clip", "o/n"):
        raise OSError("We couldn't connect to the hub to load this file") from cause

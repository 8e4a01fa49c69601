"""The cache in front of a backbone: the same bits from anywhere, and encoders that leave memory."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from safetensors.torch import load_file

from flowbp.adapters import Backbone, Conditioning, CutPromptWarning, SD3Backbone
from flowbp.prompts import CachedBackbone, EmbeddingsError, MemoryStore, cached
from flowbp.prompts import cached_backbone as caching_module
from flowbp.testing import check_backbone

from ..adapters.tiny import CLIP_LENGTH, tiny_pipeline
from ..training.fakes import FakeBackbone

PROMPTS = [f"a {colour} {shape}" for colour in ("red", "blue", "grey") for shape in ("box", "ray")]

pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


def same(one, other):
    names = one.tensors.keys() | other.tensors.keys()
    return all(torch.equal(one.tensors[name], other.tensors[name]) for name in names)


def counting(backbone, monkeypatch):
    """The prompts of every call of a backbone class's `encode`."""
    calls, encode = [], type(backbone).encode

    def counted(self, prompts):
        calls.append(list(prompts))
        return encode(self, prompts)

    monkeypatch.setattr(type(backbone), "encode", counted)
    return calls


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_embeddings_are_the_same_bits_from_anywhere(backbone, tmp_path, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        expected = cached(backbone, None).encode(PROMPTS)
        warm = cached(backbone, tmp_path)
        # Some of them are on disk already, in other company and order.
        warm.fill(list(reversed(PROMPTS[1:4])))
        for model in (warm, warm, cached(backbone, tmp_path)):
            assert same(model.encode(PROMPTS), expected)
        for prompt, place in zip(PROMPTS, range(6), strict=True):
            one = expected[place : place + 1]
            assert same(cached(backbone, None).encode([prompt]), one)
            assert same(backbone.encode([prompt]), one)
    finally:
        torch.set_num_threads(before)


def test_each_prompt_is_encoded_once_in_full_batches(backbone, tmp_path, monkeypatch):
    calls, reported = counting(backbone, monkeypatch), []
    model = cached(backbone, tmp_path, batch=4)
    assert model.absent(PROMPTS * 2) == PROMPTS
    model.fill(PROMPTS, lambda done, total: reported.append((done, total)))
    assert calls == [PROMPTS[:4], PROMPTS[4:] + PROMPTS[-1:] * 2]
    assert reported == [(4, 6), (6, 6)]
    other = cached(backbone, tmp_path, batch=4)
    assert other.absent(PROMPTS) == [] and len(other.encode(PROMPTS * 2)) == 12
    assert len(calls) == 2


def test_a_damaged_entry_is_computed_again(backbone, tmp_path):
    model = cached(backbone, tmp_path)
    expected = model.encode(PROMPTS)
    path = model.store.path(PROMPTS[2])
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert model.absent(PROMPTS) == [PROMPTS[2]]
    model.fill([PROMPTS[2]])
    assert model.absent(PROMPTS) == [] and same(model.encode(PROMPTS), expected)


def test_identity_is_that_of_what_is_computed(saved, tmp_path):
    def folder(path, **options):
        backbone = SD3Backbone.from_pretrained(path, **{"text_length": 16, **options})
        return cached(backbone, tmp_path / "cache").store.path("a").parents[1]

    here = folder(saved)
    moved = tmp_path / "moved"
    SD3Backbone.from_pretrained(saved).save(moved)
    assert folder(moved) == here
    used = SD3Backbone.from_pretrained(saved, text_length=16)
    used.encode(PROMPTS)
    assert cached(used, tmp_path / "cache").store.path("a").parents[1] == here
    changed = tmp_path / "changed"
    tiny_pipeline(t5=True, seed=1).save_pretrained(changed)
    half = SD3Backbone.from_pretrained(saved).policy.__class__(torch.bfloat16, torch.bfloat16)
    others = [
        folder(changed),
        folder(saved, text_length=8),
        folder(saved, use_t5=False),
        folder(saved, frozen_policy=half),
    ]
    assert len({here, *others}) == 5


def test_identity_sees_the_tokenizer(saved, tmp_path, backbone):
    before = cached(backbone, tmp_path).store.path("a")
    backbone.text.clip.tokenizer.add_tokens(["zzz"])
    assert cached(backbone, tmp_path).store.path("a") != before


def test_released_encoders_leave_memory_and_come_back(backbone, tmp_path):
    model = cached(backbone, tmp_path)
    model.fill(PROMPTS)
    towers = (backbone.text.clip, backbone.text.clip_2, backbone.text.t5)
    watched = [weakref.ref(tower.encoder) for tower in towers]
    expected = model.encode(PROMPTS)
    unseen = model.backbone.encode(["unseen"])
    model.release()
    gc.collect()
    assert [watch() for watch in watched] == [None] * 3
    assert same(model.encode(PROMPTS), expected)
    assert same(model.encode(["unseen"]), unseen)
    assert not any(p.requires_grad for p in backbone.text.t5.encoder.parameters())


def test_saving_needs_released_encoders_only_for_itself(backbone, tmp_path, saved):
    model = cached(backbone, None)
    model.release()
    model.save(tmp_path / "saved")
    gc.collect()
    assert backbone.text.t5.held._module is None
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        written, source = (
            load_file(f / part / "model.safetensors") for f in (tmp_path / "saved", saved)
        )
        assert written.keys() == source.keys()
        assert all(torch.equal(written[name], source[name]) for name in source)


def test_encoders_of_a_callers_pipeline_stay_with_the_caller(tmp_path):
    pipeline = tiny_pipeline(t5=True)
    model = cached(SD3Backbone.from_pipeline(pipeline, text_length=16), tmp_path)
    expected = model.encode(PROMPTS)
    model.release()
    assert same(model.encode(PROMPTS), expected) and len(model.encode(["unseen"])) == 1
    model.save(tmp_path / "saved")
    assert (tmp_path / "saved" / "text_encoder_3" / "model.safetensors").is_file()


def test_cut_prompts_are_counted_and_not_reported_one_by_one(pipelines_t5, recwarn):
    long, short = "a many many many many many red box", "a red box"
    with_t5, without = (cached(backbone, None) for backbone in pipelines_t5)
    (cut,) = with_t5.cut([long, short, long, ""])
    assert cut.prompt == long and cut.tokens > cut.read == 16
    (cut,) = without.cut([long, short])
    assert cut.prompt == long and cut.tokens > cut.read == CLIP_LENGTH and without.cut([]) == ()
    assert "backbone.text_length, up to 512" in with_t5.cure_of_cut
    assert "text_length" not in without.cure_of_cut and "use_t5=true" in without.cure_of_cut
    for model in (with_t5, without):
        model.fill([long, short])
    assert not [each for each in recwarn if issubclass(each.category, CutPromptWarning)]


@pytest.fixture
def pipelines_t5():
    return [
        SD3Backbone.from_pipeline(tiny_pipeline(t5=t5), text_length=16 if t5 else 0)
        for t5 in (True, False)
    ]


def test_a_backbone_that_tells_nothing_is_kept_in_memory(tmp_path):
    backbone = FakeBackbone()
    with pytest.warns(UserWarning, match=r"FakeBackbone has no `text_encoders`.*folder=null"):
        model = cached(backbone, tmp_path / "cache")
    model.fill(["red", "blue"])
    model.release()
    assert model.cut(["red"]) == () and isinstance(model.store, MemoryStore)
    model.encode(["blue", "red", "blue"])
    assert len(backbone.encoded) == 2 and not (tmp_path / "cache").exists()


def test_all_else_is_the_backbones_own(backbone):
    model = cached(backbone, None)
    assert isinstance(model, Backbone) and model.policy is backbone.policy
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = model.nothing_of_the_kind
    check_backbone(model, ["red", "blue"], height=16, width=16, difference_tolerance=0.1)


def test_a_store_without_room_is_refused_before_it_is_full(backbone, tmp_path, monkeypatch):
    model = cached(backbone, tmp_path, batch=2)
    monkeypatch.setattr(caching_module.FolderStore, "room", lambda self: 10_000)
    prompts = [f"{number}" for number in range(40)]
    with pytest.raises(EmbeddingsError, match=r"38 more prompts take .* are free in .*embeddings"):
        model.fill(prompts)
    assert len(model.absent(prompts)) == 38


@pytest.mark.parametrize("prompts", ["red", []])
def test_prompts_must_be_a_sequence(backbone, prompts):
    with pytest.raises(ValueError, match=r"`prompts` must be a sequence.*write \[prompt\]"):
        cached(backbone, None).encode(prompts)


def test_the_memory_store_keeps_no_whole_batches(backbone):
    model = CachedBackbone(backbone, MemoryStore(), 4)
    model.fill(PROMPTS)
    for tensor in next(model.store.read_all(PROMPTS[:1])).values():
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_rows_belong_to_their_prompts():
    backbone = FakeBackbone()
    model = CachedBackbone(backbone, MemoryStore(), 2)
    drawn = ["red", "blue", "green", "red", "blue"]
    assert isinstance(model.encode(drawn), Conditioning)
    assert same(model.encode(drawn), backbone.encode(drawn))

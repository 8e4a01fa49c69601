"""Every family's embeddings are kept, and its encoders released: a new one is an entry."""

from __future__ import annotations

import gc
import weakref

import attrs
import pytest
import torch
from safetensors.torch import load_file

from flowbp.adapters import WithTextEncoders
from flowbp.prompts import cached
from flowbp.prompts.embedding_store import encoders_digest

from ..adapters.families import FAMILIES

PROMPTS = ["a red box", "a blue ray", ""]

pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """Loads the named family anew, from a folder that it was saved to once."""
    folders = {}

    def load(name, **options):
        family = FAMILIES[name]
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("pipeline")
            family.pipeline().save_pretrained(folders[name])
        options = {"text_length": family.text_length, **family.options, **options}
        return folders[name], family.kind.from_pretrained(folders[name], **options)

    return load


@pytest.mark.parametrize("name", FAMILIES)
def test_encoders_leave_memory_and_what_they_gave_stays(loaded, name, tmp_path):
    source, backbone = loaded(name)
    assert isinstance(backbone, WithTextEncoders)
    model = cached(backbone, tmp_path / "cache", batch=2)
    expected = cached(backbone, None, batch=2).encode(PROMPTS).tensors
    unseen = cached(backbone, None, batch=2).encode(["unseen"]).tensors
    model.fill(PROMPTS)
    watched = {
        part: weakref.ref(tower.encoder) for part, tower in backbone.text_encoders.towers.items()
    }
    model.release()
    gc.collect()
    assert [watch() for watch in watched.values()] == [None] * len(watched)
    for key, tensor in model.encode(PROMPTS).tensors.items():
        assert torch.equal(tensor, expected[key])
    before = torch.get_rng_state()
    model.save(tmp_path / "saved")
    # A checkpoint must not draw from what training draws from.
    assert torch.equal(torch.get_rng_state(), before)
    for part, tower in backbone.text_encoders.towers.items():
        assert tower.held._module is None
        (one, two) = (
            load_file(f / part / "model.safetensors") for f in (tmp_path / "saved", source)
        )
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in two)
    for key, tensor in model.encode(["unseen"]).tensors.items():
        assert torch.equal(tensor, unseen[key])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_identity_is_of_the_encoders_and_how_they_are_read(loaded, name):
    once, again = (encoders_digest(loaded(name)[1].text_encoders, 8) for _ in range(2))
    shorter = loaded(name, text_length=FAMILIES[name].text_length - 1)[1]
    assert once == again != encoders_digest(shorter.text_encoders, 8)


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_saved_does_not_tell_whether_prompts_were_encoded(loaded, name, tmp_path):
    _, backbone = loaded(name)
    for tower in backbone.text_encoders.towers.values():
        tower.tokenizer.backend_tokenizer.enable_truncation(7)
        tower.tokenizer.backend_tokenizer.enable_padding(length=9)
    backbone.save(tmp_path / "before")
    backbone.encode(PROMPTS)
    backbone.text_encoders.cut(PROMPTS)
    backbone.save(tmp_path / "after")
    before, after = (
        {p.relative_to(tmp_path / folder): p.read_bytes() for p in (tmp_path / folder).rglob("*.*")}
        for folder in ("before", "after")
    )
    assert before and before == after


def test_families_do_not_share_entries(loaded):
    encoders = loaded("flux1 dev")[1].text_encoders
    assert encoders_digest(encoders, 8) != encoders_digest(
        attrs.evolve(encoders, family="flux2"), 8
    )

"""What the library's own backbones have besides the protocol of all."""

from __future__ import annotations

import pytest

from flowbp.adapters import (
    Adaptable,
    Loadable,
    WithCheckpointing,
    WithCopyForSaving,
    WithFrozenParts,
    WithGuidanceAdvice,
    WithLoading,
    WithPlainSampling,
    WithReference,
    WithTextEncoders,
    checkpointing_of,
    reference_of,
)
from flowbp.adapters.capabilities import copy_for_saving_of, frozen_parts_of
from flowbp.prompts import CachedBackbone, MemoryStore
from flowbp.shapes.embedded import embedded_backbone

CAPABILITIES = [
    Adaptable,
    Loadable,
    WithCheckpointing,
    WithFrozenParts,
    WithGuidanceAdvice,
    WithLoading,
    WithPlainSampling,
    WithReference,
    WithCopyForSaving,
    WithTextEncoders,
]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_librarys_own_have_all_of_them(capability):
    assert isinstance(embedded_backbone(), capability)


def test_a_backbone_without_them_is_asked_in_vain():
    assert checkpointing_of(object()) is None
    with pytest.raises(ValueError, match=r"`anchor` needs .* and object has none"):
        reference_of(object())


def test_they_are_seen_through_what_wraps_a_backbone():
    wrapped = CachedBackbone(embedded_backbone(), MemoryStore())
    assert copy_for_saving_of(wrapped) is not None and "vae" in frozen_parts_of(wrapped)


def test_a_class_with_a_save_of_its_own_is_not_written_by_what_it_inherits():
    class Base:
        frozen_parts = ("vae",)

        def save(self, folder):
            pass

        def save_trained(self, folder):
            pass

        def copy_for_saving(self):
            return self.save_trained

    class Own(Base):
        def save(self, folder):
            (folder / "more").touch()

    class Both(Own):
        save_trained, copy_for_saving = Base.save_trained, Base.copy_for_saving

    assert copy_for_saving_of(Own()) is None and frozen_parts_of(Own()) == ()
    for whole in (Base(), Both()):
        assert copy_for_saving_of(whole) is not None and frozen_parts_of(whole) == ("vae",)
    assert copy_for_saving_of(object()) is None and frozen_parts_of(object()) == ()

"""What the library's own backbones have besides the protocol of all."""

from __future__ import annotations

import pytest

from flowbp.adapters import (
    Adaptable,
    Loadable,
    WithCheckpointing,
    WithGuidanceAdvice,
    WithLoading,
    WithPlainSampling,
    WithReference,
    WithTextEncoders,
    checkpointing_of,
    reference_of,
)
from flowbp.shapes.embedded import embedded_backbone

CAPABILITIES = [
    Adaptable,
    Loadable,
    WithCheckpointing,
    WithGuidanceAdvice,
    WithLoading,
    WithPlainSampling,
    WithReference,
    WithTextEncoders,
]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_the_librarys_own_have_all_of_them(capability):
    assert isinstance(embedded_backbone(), capability)


def test_a_backbone_without_them_is_asked_in_vain():
    assert checkpointing_of(object()) is None
    with pytest.raises(ValueError, match=r"`anchor` needs .* and object has none"):
        reference_of(object())

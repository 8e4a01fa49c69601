"""What a copy of a model writes, in another thread, is what the model itself would have written."""

from __future__ import annotations

import shutil
import threading
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from flowbp.adapters import compile_blocks

from .adapted import TUNED, trained
from .families import FAMILIES


def content(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def change(backbone) -> None:
    with torch.no_grad():
        for parameter in backbone.trainable().values():
            parameter.add_(1)


def saved_in_turn(backbone, folder: Path) -> list[dict[str, bytes]]:
    """What `save`, the frozen parts with `save_trained`, and those with a copy have written."""
    whole, live, copied = (folder / name for name in ("whole", "live", "copied"))
    backbone.save(whole)
    for place in (live, copied):
        place.mkdir()
        for path in (whole / part for part in backbone.frozen_parts):
            if not path.exists():
                # A component that the model does without.
                continue
            (shutil.copytree if path.is_dir() else shutil.copy)(path, place / path.name)
    backbone.save_trained(live)
    write = backbone.copy_for_saving()
    change(backbone)
    thread = threading.Thread(target=write, args=[copied])
    thread.start()
    thread.join()
    return [content(place) for place in (whole, live, copied)]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_whole_model(name, tmp_path):
    backbone = FAMILIES[name].backbone(deepcopy(FAMILIES[name].pipeline()))
    assert "transformer" not in backbone.frozen_parts
    whole, live, copied = saved_in_turn(backbone, tmp_path)
    assert whole == live == copied


@pytest.mark.parametrize("name", TUNED)
def test_an_adapter_which_has_no_frozen_parts(name, tmp_path):
    backbone = trained(TUNED[name])
    assert list(backbone.frozen_parts) == []
    whole, live, copied = saved_in_turn(backbone, tmp_path)
    assert whole == live == copied


def test_a_compiled_model_with_checkpointing(tmp_path):
    family = FAMILIES["sd3"]
    backbone = family.backbone(deepcopy(family.pipeline()), gradient_checkpointing=True)
    compile_blocks(backbone.module, backend="eager")
    whole, live, copied = saved_in_turn(backbone, tmp_path)
    assert whole == live == copied


class Watching:
    """An observer of a network that holds what cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def see(self, *_: object) -> None:
        """Be a hook."""


def test_a_model_that_an_observer_has_hooks_in(tmp_path):
    family = FAMILIES["sd3"]
    backbone, watching = family.backbone(deepcopy(family.pipeline())), Watching()
    block = next(backbone.module.children())
    block.register_forward_pre_hook(watching.see)
    block.register_forward_hook(watching.see)
    block.register_full_backward_pre_hook(watching.see)
    block.register_full_backward_hook(watching.see)
    whole, live, copied = saved_in_turn(backbone, tmp_path)
    assert whole == live == copied
    assert block._forward_hooks and block._backward_hooks

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import torch
from safetensors.torch import save_file

import flowbp
from flowbp.training import CheckpointError, Checkpoints, SavePolicy
from flowbp.training.checkpoint import (
    PARTIAL,
    REPLACED,
    model_damage,
    newest_checkpoint,
    remove_checkpoint,
    save_checkpoint,
    saved_checkpoints,
)


@attrs.define
class Model:
    """Two files, one in a folder; `error` is raised between them."""

    content: str
    error: BaseException | None = None

    def save(self, folder: Path) -> None:
        (folder / "index").write_text(self.content)
        if self.error is not None:
            raise self.error
        (folder / "unet").mkdir()
        (folder / "unet" / "weights").write_text(self.content)


def holds(folder: Path, content: str) -> bool:
    files = (folder / "index", folder / "unet" / "weights")
    return all(file.read_text() == content for file in files)


def test_new_checkpoint(tmp_path: Path) -> None:
    saved = save_checkpoint(Model("one").save, tmp_path / "a" / "b" / "final")
    assert saved == tmp_path / "a" / "b" / "final"
    assert holds(saved, "one")
    assert [path.name for path in saved.parent.iterdir()] == ["final"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_are_readable_by_whom_the_umask_says(tmp_path, umask, mode):
    def write(folder: Path) -> None:
        (folder / "unet").mkdir()
        save_file({"weight": torch.zeros(1)}, folder / "unet" / "weights.safetensors")

    before = os.umask(umask)
    try:
        saved = save_checkpoint(write, tmp_path / "final")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()}
    assert modes == {"manifest.json": mode, "weights.safetensors": mode}


def test_replacing(tmp_path: Path) -> None:
    for content in ("one", "two"):
        save_checkpoint(Model(content).save, tmp_path / "final")
    assert holds(tmp_path / "final", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("error", [RuntimeError("half"), KeyboardInterrupt()])
def test_failure_half_way_keeps_the_old_one(tmp_path: Path, error: BaseException) -> None:
    save_checkpoint(Model("one").save, tmp_path / "final")
    with pytest.raises(type(error)):
        save_checkpoint(Model("two", error).save, tmp_path / "final")
    assert holds(tmp_path / "final", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_full_disk_is_said_clearly(tmp_path: Path, error: BaseException) -> None:
    save_checkpoint(Model("one").save, tmp_path / "final")
    with pytest.raises(CheckpointError, match="disk is full: `final` was not written") as caught:
        save_checkpoint(Model("two", error).save, tmp_path / "final")
    assert caught.value.errno == errno.ENOSPC
    assert f"MiB are free in {tmp_path}" in str(caught.value)
    assert holds(tmp_path / "final", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("failing", ["aside", "into place"])
def test_failing_rename_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    save_checkpoint(Model("one").save, tmp_path / "final")
    rename, start = Path.rename, "final" if failing == "aside" else f".final{PARTIAL}"

    def refuse(path: Path, target: Path) -> Path:
        if path.name == start:
            raise OSError(errno.EIO, "no rename")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(CheckpointError, match="`final` was not written") as caught:
        save_checkpoint(Model("two").save, tmp_path / "final")
    assert caught.value.errno == errno.EIO
    assert holds(tmp_path / "final", "one")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


KILLED = """
import os, pathlib, signal, sys
from flowbp.training.checkpoint import save_checkpoint

class Model:
    def save(self, folder):
        (folder / "index").write_text("two")
        if sys.argv[2] == "writing":
            os.kill(os.getpid(), signal.SIGKILL)
        (folder / "unet").mkdir()
        (folder / "unet" / "weights").write_text("two")

rename = pathlib.Path.rename
def stop_before(path, target):
    if sys.argv[2] == "renaming" and path.name.endswith("partial"):
        os.kill(os.getpid(), signal.SIGKILL)
    rename(path, target)
pathlib.Path.rename = stop_before
save_checkpoint(Model().save, pathlib.Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_killed_process_loses_nothing(tmp_path: Path, moment: str) -> None:
    save_checkpoint(Model("one").save, tmp_path / "final")
    package = str(Path(flowbp.__file__).parents[1])
    process = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "final"), moment],
        env={**os.environ, "PYTHONPATH": package},
        check=False,
    )
    assert process.returncode == -signal.SIGKILL
    assert (tmp_path / f".final{PARTIAL}").is_dir()
    old = tmp_path / ("final" if moment == "writing" else f".final{REPLACED}")
    assert holds(old, "one")
    save_checkpoint(Model("three").save, tmp_path / "other")
    assert holds(tmp_path / "final", "one")
    assert holds(tmp_path / "other", "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "other"]


def test_old_one_that_was_not_removed_goes_at_the_next_save(tmp_path: Path) -> None:
    for name in ("final", f".final{REPLACED}"):
        (tmp_path / name).mkdir()
        Model(name).save(tmp_path / name)
    save_checkpoint(Model("two").save, tmp_path / "final")
    assert holds(tmp_path / "final", "two")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "thesis.tex").write_text("years of work")
    with pytest.raises(CheckpointError, match=r"holds what no checkpoint .*thesis.tex"):
        save_checkpoint(Model("one").save, tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]
    assert (tmp_path / "final" / "thesis.tex").exists()


def test_file_in_the_way_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "final").write_text("a file")
    with pytest.raises(CheckpointError, match="`folder` must be a folder or free, got the file"):
        save_checkpoint(Model("one").save, tmp_path / "final")
    assert (tmp_path / "final").read_text() == "a file"


@pytest.mark.parametrize("ending", [PARTIAL, REPLACED])
def test_link_at_a_name_of_ours_is_refused(tmp_path: Path, ending: str) -> None:
    (tmp_path / "precious").mkdir()
    Model("one").save(tmp_path / "precious")
    parent = tmp_path / "checkpoints"
    parent.mkdir()
    (parent / f".final{ending}").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError, match=rf"\.final{ending} is a link"):
        save_checkpoint(Model("two").save, parent / "final")
    assert holds(tmp_path / "precious", "one") and not (parent / "final").exists()


def test_link_is_neither_replaced_nor_removed_with_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    Model("one").save(tmp_path / "precious")
    link = tmp_path / "checkpoints" / "final"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "precious")
    with pytest.raises(CheckpointError, match=f"got the link {link}"):
        save_checkpoint(Model("two").save, link)
    assert [path.name for path in link.parent.iterdir()] == ["final"]
    remove_checkpoint(link)
    assert not link.is_symlink() and holds(tmp_path / "precious", "one")


def test_names_of_a_run() -> None:
    every = Checkpoints("a", SavePolicy(every=2))
    assert [every.name(step, 4) for step in range(1, 5)] == [None, "step-000002", None, "final"]
    assert [Checkpoints("a").name(step, 3) for step in (1, 2, 3)] == [None, None, "final"]


def test_illegal_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="`every` must be an integer >= 1, got 0"):
        Checkpoints("a", SavePolicy(every=0))


def test_where_nothing_is_there_is_nothing_to_find(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert saved_checkpoints(missing, "mine") == () and model_damage(missing) is None
    assert newest_checkpoint(missing, "mine") is None

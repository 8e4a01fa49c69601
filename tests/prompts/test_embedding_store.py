"""Entries on disk: whole or absent, whoever writes and whatever happens to them."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from flowbp.prompts import EmbeddingsError, FolderStore
from flowbp.prompts import embedding_store as stores_module
from flowbp.prompts.embedding_store import digest

from .store_processes import SPACE, TOGETHER, row, same


def files(folder):
    return [path for path in Path(folder).rglob("*") if path.is_file()]


def test_what_is_written_is_read_to_the_bit(tmp_path):
    store = FolderStore(tmp_path / "new", "a" * 64)
    assert store.read("red") is None and not (tmp_path / "new").exists()
    for prompt in ("red", "", "röt\n", "r" * 5000):
        store.write(prompt, row(prompt))
        assert same(FolderStore(tmp_path / "new", "a" * 64).read(prompt), row(prompt))
    assert FolderStore(tmp_path / "new", "b" * 64).read("red") is None
    assert len(files(tmp_path)) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:5],
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content + b"\0",
        lambda content: b"\xff" * len(content),
    ],
    ids=["empty", "header cut", "a byte short", "half", "a byte long", "overwritten"],
)
def test_a_damaged_entry_is_absent_and_reported_once(tmp_path, damage):
    store = FolderStore(tmp_path, "a" * 64)
    for prompt in ("red", "blue"):
        store.write(prompt, row(prompt))
        path = store.path(prompt)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="a cached embedding is damaged and is computed") as found:
        assert store.read("red") is None and store.read("blue") is None
    assert len(found) == 1
    store.write("red", row("red"))
    assert same(store.read("red"), row("red"))


@pytest.mark.filterwarnings("ignore:a cached embedding is damaged")
def test_no_flipped_bit_goes_unnoticed(tmp_path):
    store, wanted = FolderStore(tmp_path, "a" * 64), row("red", size=10)
    store.write("red", wanted)
    path = store.path("red")
    content = path.read_bytes()
    for place in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        found = store.read("red")
        # A bit of the blanks that align the header may be flipped into other white space.
        assert found is None or same(found, wanted), place


def test_a_name_in_the_header_is_covered(tmp_path):
    store = FolderStore(tmp_path, "a" * 64)
    store.write("red", row("red"))
    path = store.path("red")
    path.write_bytes(path.read_bytes().replace(b'"tokens"', b'"tokenz"'))
    with pytest.warns(UserWarning, match="damaged"):
        assert store.read("red") is None


def run_processes(what, folder):
    program = Path(__file__).with_name("store_processes.py")
    done = subprocess.run(
        [sys.executable, str(program), what, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def test_two_processes_fill_one_folder_at_once(tmp_path):
    run_processes("together", tmp_path)
    store = FolderStore(tmp_path, SPACE)
    assert all(same(store.read(prompt), row(prompt)) for prompt in TOGETHER)
    assert len(files(tmp_path)) == 30


def test_a_killed_writer_leaves_whole_entries(tmp_path):
    run_processes("killed", tmp_path)


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path):
    store = FolderStore(tmp_path, "a" * 64)
    store.write("red", row("red"))
    partial = store.path("red").parents[1] / ".partial"
    old, new = (f"{place}{'0' * 63}-{'0' * 32}" for place in "01")
    for name, age in ((old, 90_000), (new, 60)):
        (partial / name).touch()
        os.utime(partial / name, (time.time() - age,) * 2)
    FolderStore(tmp_path, "a" * 64)
    assert [path.name for path in partial.iterdir()] == [new]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(
        EmbeddingsError, match=r"could not be written to .*another embeddings.folder"
    ):
        FolderStore(tmp_path / "file" / "folder", "a" * 64).write("red", row("red"))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(stores_module.os, "replace", full)
    with pytest.raises(EmbeddingsError, match="No space left") as refused:
        FolderStore(tmp_path, "a" * 64).write("red", row("red"))
    assert refused.value.errno == errno.ENOSPC
    assert [path.name for path in files(tmp_path)] == ["file"]


def test_only_what_a_writer_left_is_cleaned_away(tmp_path):
    other, place = tmp_path / "other", tmp_path / "cache" / ("a" * 32)
    other.mkdir(), place.mkdir(parents=True)
    (other / "thesis.tex").write_text("years of work")
    os.utime(other / "thesis.tex", (0, 0))
    (place / ".partial").symlink_to(other)
    FolderStore(tmp_path / "cache", "a" * 64)
    assert (other / "thesis.tex").exists()


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_at_an_entry_s_place_is_named(tmp_path, make):
    store = FolderStore(tmp_path, "a" * 64)
    place = store.path("red")
    place.parent.mkdir(parents=True)
    make(place)
    with pytest.raises(EmbeddingsError, match=place.name):
        store.read("red")


def test_the_shape_counts_in_a_digest():
    assert digest({"a": torch.zeros(2)}) != digest({"a": torch.zeros(1, 2)})

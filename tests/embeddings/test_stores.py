"""Entries on disk: whole or absent, whoever writes and whatever happens to them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from flowbp.embeddings import EmbeddingsError, FolderStore
from flowbp.embeddings import stores as stores_module


def row(prompt, size=50_000):
    """An embedding that its prompt decides."""
    source = torch.Generator().manual_seed(sum(prompt.encode()))
    tokens = torch.randn(size, 2, generator=source)
    return {"tokens": tokens.bfloat16(), "pooled": tokens[0].double(), "n": torch.tensor(7)}


def same(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


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
def test_a_damaged_entry_is_absent_and_told_once(tmp_path, damage):
    store = FolderStore(tmp_path, "a" * 64)
    for prompt in ("red", "blue"):
        store.write(prompt, row(prompt))
        path = store.path(prompt)
        path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="a cached embedding is damaged and is computed") as told:
        assert store.read("red") is None and store.read("blue") is None
    assert len(told) == 1
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


def fill(folder, prompts, barrier):
    store = FolderStore(folder, "a" * 64)
    barrier.wait()
    for prompt in prompts:
        if store.read(prompt) is None:
            store.write(prompt, row(prompt))
        assert same(store.read(prompt), row(prompt))


def test_two_processes_fill_one_folder_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    barrier, prompts = context.Barrier(2), [f"prompt {i}" for i in range(30)]
    workers = [
        context.Process(target=fill, args=(tmp_path, prompts, barrier), daemon=True)
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    store = FolderStore(tmp_path, "a" * 64)
    assert all(same(store.read(prompt), row(prompt)) for prompt in prompts)
    assert len(files(tmp_path)) == 30


def write_for_ever(folder):
    store = FolderStore(folder, "a" * 64)
    while True:
        for i in range(10):
            store.write(f"prompt {i}", row(f"prompt {i}"))


@pytest.mark.filterwarnings("error")
def test_a_killed_writer_leaves_whole_entries(tmp_path):
    context = multiprocessing.get_context("fork")
    for trial in range(10):
        writer = context.Process(target=write_for_ever, args=(tmp_path,), daemon=True)
        writer.start()
        while not any(tmp_path.rglob("*.safetensors")):
            time.sleep(0.001)
        time.sleep(0.003 * trial)
        os.kill(writer.pid, signal.SIGKILL)
        writer.join(60)
        store = FolderStore(tmp_path, "a" * 64)
        for i in range(10):
            found = store.read(f"prompt {i}")
            assert found is None or same(found, row(f"prompt {i}"))


def test_what_a_killed_writer_left_is_removed_a_day_later(tmp_path):
    store = FolderStore(tmp_path, "a" * 64)
    store.write("red", row("red"))
    partial = store.path("red").parents[1] / ".partial"
    for name, age in (("old", 90_000), ("new", 60)):
        (partial / name).touch()
        os.utime(partial / name, (time.time() - age,) * 2)
    FolderStore(tmp_path, "a" * 64)
    assert [path.name for path in partial.iterdir()] == ["new"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path, monkeypatch):
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

"""What all checkpoints have alike is linked, or copied, as long as nobody has changed it."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil

import pytest

from flowbp.training.frozen_files import FrozenFiles

PARTS = ("index.json", "vae")
FILES = {"index.json": "index", "vae/config.json": "{}", "vae/weights": "many bytes"}
DIGESTS = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()}


@pytest.fixture
def written(tmp_path):
    """A folder with these files and one of another part, and what is remembered of it."""
    folder = tmp_path / "first"
    for name, text in {**FILES, "transformer/weights": "trained"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    frozen = FrozenFiles()
    assert not frozen.are_there()
    frozen.remember(folder, PARTS, DIGESTS)
    return frozen, folder


def content(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text() for path in paths}


def test_they_are_linked_with_their_digests_and_outlive_the_first(written, tmp_path):
    frozen, first = written
    second = tmp_path / "second"
    second.mkdir()
    assert frozen.are_there() and frozen.put_into(second) == DIGESTS
    assert all((second / name).samefile(first / name) for name in FILES)
    shutil.rmtree(first)
    assert content(second) == FILES
    assert not frozen.are_there()
    frozen.remember(second, PARTS, DIGESTS)
    assert frozen.are_there()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK])
def test_without_links_they_are_copied_and_to_be_read_again(written, tmp_path, monkeypatch, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    frozen, first = written
    second = tmp_path / "second"
    second.mkdir()
    assert frozen.put_into(second) == {}
    assert content(second) == FILES
    assert not any((second / name).samefile(first / name) for name in FILES)


def test_what_somebody_has_changed_or_removed_is_not_taken(written):
    frozen, first = written
    path = first / "vae" / "weights"
    before = path.stat()
    path.write_text("other bytes"[: before.st_size])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert not frozen.are_there()
    frozen.remember(first, PARTS)
    assert frozen.are_there()
    path.unlink()
    assert not frozen.are_there()


def test_what_a_link_leads_to_is_not_taken(written, tmp_path):
    frozen, first = written
    (first / "vae" / "config.json").unlink()
    (first / "vae" / "config.json").symlink_to(tmp_path)
    frozen.remember(first, PARTS)
    assert not frozen.are_there()

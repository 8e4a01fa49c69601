"""What lies at the name of a file that is written is never written through."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from flowbp.files import (
    PARTIAL,
    SavingError,
    digests,
    open_to_append,
    read_regular,
    saving,
    write_atomically,
)
from flowbp.settings import LOCK, REHEARSAL, occupied
from flowbp.settings.folder import fault_of_folder, locked

PRECIOUS = "years of work\n"


def lay(place: Path, kind: str, precious: Path) -> None:
    """Put something of that kind at a place, a link to what is precious or else."""
    precious.write_text(PRECIOUS)
    make = {
        "link": lambda: place.symlink_to(precious),
        "dangling link": lambda: place.symlink_to(precious.with_name("absent")),
        "second name": lambda: place.hardlink_to(precious),
        "pipe": lambda: os.mkfifo(place),
        "folder": place.mkdir,
    }
    make[kind]()


KINDS = ["link", "dangling link", "pipe", "folder"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_partial_name_that_is_taken_is_refused(tmp_path, kind):
    partial, precious = tmp_path / f".figures.json{PARTIAL}", tmp_path / "precious"
    lay(partial, kind, precious)
    with pytest.raises(FileExistsError, match=partial.name):
        write_atomically(tmp_path / "figures.json", "{}")
    assert precious.read_text() == PRECIOUS and not (tmp_path / "absent").exists()
    assert os.path.lexists(partial) and not (tmp_path / "figures.json").exists()


def test_a_partial_file_of_a_killed_process_is_replaced(tmp_path):
    precious = tmp_path / "precious"
    lay(tmp_path / f".figures.json{PARTIAL}", "second name", precious)
    write_atomically(tmp_path / "figures.json", "{}")
    assert (tmp_path / "figures.json").read_text() == "{}"
    assert precious.read_text() == PRECIOUS


def test_a_link_that_a_file_takes_the_place_of_leads_to_what_it_did(tmp_path):
    precious = tmp_path / "precious"
    lay(tmp_path / "figures.json", "link", precious)
    write_atomically(tmp_path / "figures.json", "{}")
    assert precious.read_text() == PRECIOUS and not (tmp_path / "figures.json").is_symlink()


@pytest.mark.parametrize("kind", [*KINDS, "second name"])
def test_lines_are_added_to_a_plain_file_only(tmp_path, kind):
    lines, precious = tmp_path / "lines.jsonl", tmp_path / "precious"
    lay(lines, kind, precious)
    with pytest.raises(FileExistsError, match=str(lines)):
        open_to_append(lines)
    assert precious.read_text() == PRECIOUS and not (tmp_path / "absent").exists()


@pytest.mark.parametrize("kind", [*KINDS, "second name"])
def test_a_lock_is_a_plain_file(tmp_path, kind):
    folder, precious = tmp_path / "run", tmp_path / "precious"
    folder.mkdir()
    lay(folder / LOCK, kind, precious)
    with pytest.raises(FileExistsError, match=LOCK), locked(folder):
        pass
    assert precious.read_text() == PRECIOUS and not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", [LOCK, f".configuration.yaml{PARTIAL}"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_with_anything_but_a_plain_rest_is_not_new(tmp_path, name, kind):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).touch()
    assert not occupied(folder)
    (folder / LOCK).unlink()
    lay(folder / name, kind, tmp_path / "precious")
    assert occupied(folder)


def test_a_run_killed_in_its_rehearsal_leaves_a_new_folder(tmp_path):
    rehearsal = tmp_path / "run" / REHEARSAL
    (rehearsal / "transformer").mkdir(parents=True)
    (tmp_path / "run" / LOCK).touch()
    assert not occupied(tmp_path / "run")
    rehearsal.rename(tmp_path / "elsewhere")
    rehearsal.symlink_to(tmp_path / "elsewhere")
    assert occupied(tmp_path / "run")


@pytest.mark.parametrize("kind", ["dangling link", "pipe", "link"])
def test_a_folder_cannot_be_made_below_what_is_none(tmp_path, kind):
    lay(tmp_path / "runs", kind, tmp_path / "precious")
    ((path, message),) = fault_of_folder("run", tmp_path / "runs" / "a", taken="", resume=False)
    assert path == ("run", "folder")
    assert (
        str(tmp_path / "runs" / "a") in message and f"{tmp_path / 'runs'} is no folder" in message
    )


def test_what_is_read_is_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe"):
        read_regular(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("pipe", "device"):
        with pytest.raises(OSError, match="is a pipe or a device"):
            digests(tmp_path, [name])
    for read in (read_regular, lambda folder: digests(folder.parent, [folder.name])):
        with pytest.raises(IsADirectoryError, match=str(tmp_path)):
            read(tmp_path)


def test_lines_are_added_to_what_is_there(tmp_path):
    for number in (1, 2):
        with open_to_append(tmp_path / "new" / "lines") as stream:
            stream.write(f"{number};")
    assert (tmp_path / "new" / "lines").read_text() == "1;2;"


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    write_atomically(tmp_path / "large", "123456")
    assert read_regular(tmp_path / "large", 6) == b"123456"
    with pytest.raises(ValueError, match="has 6 bytes, and at most 5"):
        read_regular(tmp_path / "large", 5)


def test_a_refusing_disk_is_named_with_the_cure():
    message = r"the disk is read-only: `b` was not written, a is there; mount it"
    with pytest.raises(SavingError, match=message), saving(Path("a/b"), "a is there"):
        raise OSError(errno.EROFS, "no")
    with pytest.raises(SavingError, match="ulimit"), saving(Path("a/b"), "a is there"):
        raise RuntimeError("I/O error: File too large (os error 27)")

"""One file of a hub repository: each reason that it cannot be read is reported with its cure."""

from __future__ import annotations

import hashlib

import huggingface_hub
import pytest
from huggingface_hub import errors

from flowbp.hub import ALL_FILES, cached_file
from flowbp.source_files import PublishedFile, ask_hub, find, resolve

ID, NAME = "owner/model", "transformer/config.json"


def refused(kind):
    """An error of the hub without the response that some versions want of it."""
    return kind.__new__(kind)


REASONS = {
    "out of reach": (
        errors.LocalEntryNotFoundError("no"),
        "could not be reached; run `hf download owner/model`",
    ),
    "gated": (refused(errors.GatedRepoError), "it is gated; accept its licence on"),
    "unknown": (
        refused(errors.RepositoryNotFoundError),
        "has no owner/model, or it is private; check the id",
    ),
    "no such file": (
        errors.EntryNotFoundError("no"),
        "owner/model does not have it",
    ),
    "anything else": (OSError("disk is full"), "disk is full; try `hf download owner/model`"),
}


@pytest.mark.parametrize("raised, message", REASONS.values(), ids=REASONS)
def test_why_a_file_cannot_be_had(raised, message, monkeypatch):
    def download(*_):
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError) as caught:
        resolve(ID, NAME, wanted=ALL_FILES)
    shown = str(caught.value)
    assert (
        f"`source` '{ID}' is no local folder, and as a hub id it could not be read, its {NAME}: "
        in shown
        and message in shown
    )
    assert caught.value.__cause__ is raised


def test_a_file_that_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(tmp_path / NAME))
    assert resolve(ID, NAME) == tmp_path / NAME


def test_offline_the_second_of_two_files_may_be_in_the_cache(monkeypatch, tmp_path):
    def download(_, name):
        if name == NAME:
            raise errors.LocalEntryNotFoundError("no")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr("flowbp.source_files.is_offline", lambda: True)
    assert resolve(ID, NAME, "second.json") == tmp_path / "second.json"


@pytest.mark.parametrize("offline", [False, True])
def test_what_is_no_id_is_refused_as_such(monkeypatch, offline):
    monkeypatch.setattr("flowbp.source_files.is_offline", lambda: offline)
    wrong = "ü~\u2028\u202e"
    assert cached_file(wrong, NAME) is None
    with pytest.raises(FileNotFoundError, match=r"`source` 'ü~.*; check the id$"):
        ask_hub(wrong, NAME)


def test_a_file_is_given_by_itself_or_by_its_folder(tmp_path):
    path = tmp_path / "b.pt"
    path.write_bytes(b"PK")
    assert resolve(path, "a.pt") == resolve(tmp_path, "a.pt", "b.pt") == path
    assert find(str(path), "a.pt") == find(tmp_path, "b.pt") == path
    with pytest.raises(FileNotFoundError, match=rf"`clip` '{tmp_path}' holds neither x nor y; "):
        find(tmp_path, "x", "y", argument="clip")
    # A file alone is no whole model.
    with pytest.raises(FileNotFoundError, match=rf"`source` '{path}' holds no a\.pt; "):
        resolve(path, "a.pt", wanted=ALL_FILES)


@pytest.mark.parametrize("look", [resolve, find])
def test_another_file_than_the_published_one_is_refused(tmp_path, look):
    path = tmp_path / "a.pt"
    path.write_bytes(b"abd")
    known = PublishedFile(
        repository=ID, name="a.pt", size=3, sha256=hashlib.sha256(b"abc").hexdigest()
    )
    with pytest.raises(ValueError, match=rf"{path} has sha256 .*from {ID}, or .*verify=false"):
        look(tmp_path, "a.pt", published=known)
    path.write_bytes(b"abc")
    assert look(tmp_path, "a.pt", published=known) == path


def test_the_next_file_is_asked_for_where_a_repository_lacks_the_first(monkeypatch, tmp_path):
    def download(_, name):
        if name == "a":
            raise errors.EntryNotFoundError("no")
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert resolve(ID, "a", "b") == tmp_path / "b"
    with pytest.raises(FileNotFoundError, match=f"'{ID}' is no local .* a: .*does not have it"):
        resolve(ID, "a")

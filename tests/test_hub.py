"""One file of a hub repository: each reason that it cannot be read is reported with its cure."""

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import errors

from flowbp.hub import ask_hub, cached_file, hub_file

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
        hub_file(ID, NAME)
    shown = str(caught.value)
    assert (
        f"`source` '{ID}' is no local folder, and as a hub id it could not be read, its {NAME}: "
        in shown
        and message in shown
    )
    assert caught.value.__cause__ is raised


def test_a_file_that_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(tmp_path / NAME))
    assert hub_file(ID, NAME) == tmp_path / NAME


@pytest.mark.parametrize("offline", [False, True])
def test_what_is_no_id_is_refused_as_such(monkeypatch, offline):
    monkeypatch.setattr("flowbp.hub.is_offline", lambda: offline)
    wrong = "ü~\u2028\u202e"
    assert cached_file(wrong, NAME) is None
    with pytest.raises(FileNotFoundError, match=r"`source` 'ü~.*; check the id$"):
        ask_hub(wrong, NAME)

"""One file of a hub repository: each reason that it cannot be had is told with its cure."""

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub import errors

from flowbp.adapters.hub import hub_file

ID, NAME = "owner/model", "transformer/config.json"


def refused(kind):
    """An error of the hub without the response that some versions want of it."""
    return kind.__new__(kind)


REASONS = {
    "out of reach": (errors.LocalEntryNotFoundError("no"), "the hub could not be reached; check"),
    "gated": (refused(errors.GatedRepoError), "is gated; accept its licence on"),
    "unknown": (
        refused(errors.RepositoryNotFoundError),
        "the hub shows no such repository; check the id",
    ),
    "no such file": (
        errors.EntryNotFoundError("no"),
        "is not there; see https://huggingface.co/ow",
    ),
    "anything else": (OSError("disk is full"), "could not be fetched: disk is full; try again"),
}


@pytest.mark.parametrize("raised, message", REASONS.values(), ids=REASONS)
def test_why_a_file_cannot_be_had(raised, message, monkeypatch):
    def download(*_):
        raise raised

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(FileNotFoundError) as caught:
        hub_file(ID, NAME)
    told = str(caught.value)
    assert f"`source` is the hub id '{ID}', whose {NAME} " in told and message in told
    assert caught.value.__cause__ is raised


def test_a_file_that_is_there(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_: str(tmp_path / NAME))
    assert hub_file(ID, NAME) == tmp_path / NAME

"""The libraries' own notices do not reach a user, and come back afterwards."""

from __future__ import annotations

import logging
import warnings

import pytest

from flowbp.cli.console import MISTAKE, listing, print_error, print_out_of_memory, quiet


def test_the_tries_of_a_hub_out_of_reach_are_not_listed():
    hub = logging.getLogger("huggingface_hub.utils._http")
    with quiet():
        assert not hub.isEnabledFor(logging.WARNING) and hub.isEnabledFor(logging.ERROR)
    assert hub.isEnabledFor(logging.WARNING)


def test_only_what_is_there_is_listed(tmp_path):
    (tmp_path / "samples").mkdir()
    descriptions = {"samples": "pictures during training", "report.html": "to read"}
    assert listing(tmp_path, descriptions) == "  samples      pictures during training"


def test_errors_are_printed_with_their_notes_and_code(capsys):
    error = ValueError("no such file")
    error.add_note("the folder is empty")
    assert print_error(error, MISTAKE) == 2
    assert capsys.readouterr().err.splitlines() == ["no such file", "the folder is empty"]


def test_short_memory_is_printed_with_its_cure(capsys):
    error = MemoryError("no room")
    assert print_out_of_memory(error, "lower run.batch", kept="nothing was saved") == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "no room" in first and "lower run.batch" in first and second == "nothing was saved"


COMPILERS = [
    "Dynamo detected a call to a `functools.lru_cache`-wrapped function at 'a.py:1'. Dynamo",
    "\nOnline softmax is disabled on the fly since Inductor decides to\nsplit the reduction.",
    "TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled. Con",
]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("message", COMPILERS)
def test_what_compilers_say_of_themselves_is_silent(message):
    with warnings.catch_warnings(record=True) as outside:
        warnings.warn(message, stacklevel=1)
        with quiet(), warnings.catch_warnings(record=True) as inside:
            warnings.warn(message, stacklevel=1)
            warnings.warn("Falling back to another partitioner", stacklevel=1)
    assert [str(each.message) for each in outside] == [message]
    assert [str(each.message) for each in inside] == ["Falling back to another partitioner"]


def test_so_is_what_they_log_and_nothing_else(caplog):
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    logger.addHandler(caplog.handler)
    said = "xindex is not in var_ranges, defaulting to unknown range."
    try:
        with quiet():
            logger.warning("%s", said)
            logger.warning("failed to simplify")
        logger.warning("%s", said)
    finally:
        logger.removeHandler(caplog.handler)
    assert list(dict.fromkeys(caplog.messages)) == ["failed to simplify", said]

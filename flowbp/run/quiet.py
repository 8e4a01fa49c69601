"""A terminal without the chatter of the libraries underneath."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec

_CHATTY = ("diffusers", "transformers")
_HUB = "huggingface_hub"
_WARNING = r"(diffusers|transformers|huggingface_hub|accelerate|tensorboard|google)(\.|$)"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, notices and warnings of the model libraries; errors stay.

    Warnings of flowbp, of torch and of the user's own modules are shown as ever. Everything is
    put back afterwards.

    Example:
        >>> with quiet():
        ...     pass
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=_WARNING)
        for name in _CHATTY:
            if find_spec(name) is not None:
                _silence(name, stack)
        # What it logs of each try is said once, with a cure, by whoever asked it.
        hub = logging.getLogger(_HUB)
        stack.callback(hub.setLevel, hub.level)
        hub.setLevel(logging.ERROR)
        yield


def _silence(name: str, stack: ExitStack) -> None:
    own = import_module(f"{name}.utils.logging")
    stack.callback(own.set_verbosity, own.get_verbosity())
    own.set_verbosity_error()
    if own.is_progress_bar_enabled():
        downloads = import_module("huggingface_hub.utils")
        shown = not downloads.are_progress_bars_disabled()
        stack.callback(own.enable_progress_bar)
        own.disable_progress_bar()
        if shown:
            # transformers switches the bars of downloads off with its own; those may take long.
            downloads.enable_progress_bars()

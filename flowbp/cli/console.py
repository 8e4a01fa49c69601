"""What a command prints: errors and listings, without the chatter of the libraries underneath."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from flowbp.component_errors import foreign_frames
from flowbp.extras import require

MISTAKE, STOPPED = 2, 1
"""Exit codes: a mistake of the user's; it stopped."""

_NEEDED = ("cattrs", "dependency_injector", "jinja2", "PIL", "tqdm", "yaml")


def require_packages() -> None:
    """Make sure that what a command needs besides the models is installed."""
    for module in _NEEDED:
        require(module, extra="run")


def listing(folder: Path, descriptions: Mapping[str, str]) -> str:
    """Those of the described files that are in a folder, a line each."""
    width = max(map(len, descriptions)) + 2
    found = {name: text for name, text in descriptions.items() if (folder / name).exists()}
    return "\n".join(f"  {name:<{width}}{text}" for name, text in found.items())


def find_modules_here() -> None:
    """Let dotted paths name modules of the working folder."""
    # `python -m` looks there and a console script does not.
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.append(os.getcwd())


def print_error(message: object, code: int) -> int:
    """Print a message to stderr, with an error's notes and the frames of others' code in it."""
    frames = foreign_frames(message) if isinstance(message, BaseException) else []
    hint = ["  (--debug shows the library's own frames too)"] if frames else []
    for line in (message, *getattr(message, "__notes__", ()), *frames, *hint):
        print(line, file=sys.stderr)
    return code


def print_out_of_memory(error: BaseException, cure: str, *, kept: str) -> int:
    """Print that memory ran out, where, and what to do."""
    # Late, because torch is only there once it is known to be installed.
    from flowbp.training.memory_stages import ExhaustedError

    said = " ".join(str(error).split()) or type(error).__name__
    exhausted = isinstance(error, ExhaustedError)
    print(said if exhausted else f"out of memory ({said}); {cure}", file=sys.stderr)
    print("; ".join(getattr(error, "__notes__", [kept])), file=sys.stderr)
    return STOPPED


_CHATTY = ("diffusers", "transformers")
_HUB = "huggingface_hub"
_WARNING = r"(diffusers|transformers|huggingface_hub|accelerate|tensorboard|google)(\.|$)"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, notices and warnings of the model libraries; errors stay."""
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

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


# What torch and Triton say of their own affairs while they compile: how often, where they trace
# through, and what they would do in other precisions; and one of what a CPU has no kernel for. Each
# by its own words, as others may matter.
_OF_COMPILERS = (
    r"Dynamo detected a call to a `functools\.lru_cache`-wrapped function",
    r"Dynamo does not know how to trace the builtin",
    r"\s*Online softmax is disabled on the fly",
    r"TensorFloat32 tensor cores for float32 matrix multiplication available but not enabled",
    r"Please use the new API settings to control TF32 behavior",
    r"cuDNN SDPA backward got grad_output\.strides\(\) != output\.strides\(\)",
    r"Logical operators 'and' and 'or' are deprecated for non-scalar tensors",
    r"CUDA_HOME not set; using Triton's bundled libdevice",
)
_LOGGED = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "torch.fx.experimental.symbolic_shapes": "is not in var_ranges, defaulting to unknown range",
    "torch._inductor.utils": "Not enough SMs to use max_autotune_gemm mode",
}
_CHATTY = ("diffusers", "transformers")
_HUB = "huggingface_hub"
_WARNING = r"(diffusers|transformers|huggingface_hub|accelerate|tensorboard|google)(\.|$)"


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars, notices and warnings of the model libraries; errors stay.

    Of torch's compilers those notices are silent that a user can do nothing about.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", module=_WARNING)
        for message in _OF_COMPILERS:
            warnings.filterwarnings("ignore", message)
        for name, words in _LOGGED.items():
            stack.enter_context(_without(logging.getLogger(name), words))
        for name in _CHATTY:
            if find_spec(name) is not None:
                _silence(name, stack)
        # What it logs of each try is said once, with a cure, by whoever asked it.
        hub = logging.getLogger(_HUB)
        stack.callback(hub.setLevel, hub.level)
        hub.setLevel(logging.ERROR)
        yield


@contextmanager
def _without(logger: logging.Logger, words: str) -> Iterator[None]:
    """Have a logger leave out what says these words."""

    def is_other(record: logging.LogRecord) -> bool:
        return words not in record.getMessage()

    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


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

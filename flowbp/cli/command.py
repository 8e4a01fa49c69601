"""What both commands do alike: options, and the message and exit code of each way to end."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import flowbp
from flowbp.cli.console import (
    MISTAKE,
    STOPPED,
    find_modules_here,
    print_error,
    print_out_of_memory,
    quiet,
)
from flowbp.cli.signals import interruptible
from flowbp.cli.start import INTERRUPTED

if TYPE_CHECKING:
    from flowbp.settings import Loaded

SettingsT = TypeVar("SettingsT")

_MOMENT = 3.0
"""Seconds in which the first of several processes has begun, too."""


def command_parser(
    module: str,
    *,
    usage: str,
    description: str,
    epilog: str,
    resume: str,
    check: str,
    keys: str,
) -> argparse.ArgumentParser:
    """A parser of files, overrides and the options that both commands have."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        usage=usage,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE or key=value",
        help="YAML files, and overrides of single keys",
    )
    parser.add_argument("--resume", action="store_true", help=resume)
    parser.add_argument("--check", action="store_true", help=check)
    parser.add_argument(
        "--debug",
        action="store_true",
        help="raise errors instead of printing them in a sentence, to see where they come from",
    )
    parser.add_argument(
        "--keys",
        action="store_true",
        help="show what every key of the YAML takes and does; of one section or key, or of a "
        f"component: {keys}",
    )
    parser.add_argument("--version", action="version", version=f"flowbp {flowbp.__version__}")
    return parser


def shown_keys(parser: argparse.ArgumentParser, typed: argparse.Namespace, root: Any) -> int:
    """Print the keys of a class of settings that were asked for, and return the exit code."""
    # Late, as in `carry_out`.
    from flowbp.cli.keys import print_keys

    if typed.resume or typed.check:
        parser.error(
            "give --keys without --resume and --check; it shows keys and does nothing else"
        )
    find_modules_here()
    return print_keys(typed.inputs, root, parser.prog)


def carry_out(
    load: Callable[[], Loaded[SettingsT]],
    act: Callable[[SettingsT], int],
    *,
    folder: Callable[[SettingsT], Path],
    what: str,
    stops: tuple[type[Exception], ...],
    smaller: str,
    kept: str,
    debug: bool,
    again: str = "the same command with --resume",
    several: bool = False,
) -> int:
    """Load settings and act on them; print whatever goes wrong, and return the exit code.

    `again` is what continues the work after an interruption; `several` processes of one launcher
    are refused unless they know of each other.
    """
    # Late, because these need packages that the command has just made sure of.
    from flowbp.component_errors import ComponentError, during
    from flowbp.config import ConfigurationError
    from flowbp.memory_errors import is_out_of_memory
    from flowbp.settings import located, occupied
    from flowbp.training.launch import LaunchError, refuse_several

    if not several:
        try:
            refuse_several(f"{what} is the work of one process; start it with python -m")
        except LaunchError as error:
            return _refused_once(error)
    loaded = None
    try:
        with quiet(), during("the configuration"):
            loaded = load()
        with quiet(), interruptible(), during(what):
            return act(loaded.settings)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ConfigurationError):
            return print_error(located(error, loaded.tree) if loaded else error, MISTAKE)
        if isinstance(error, (*stops, ComponentError)):
            # What a component raises before is a mistake of the configuration that names it.
            return print_error(error, STOPPED if loaded or isinstance(error, stops) else MISTAKE)
        if is_out_of_memory(error):
            return print_out_of_memory(error, smaller, kept=kept)
        if isinstance(error, OSError):
            return print_error(error, STOPPED)
        raise
    except KeyboardInterrupt as interrupt:
        place = folder(loaded.settings) if loaded else None
        if not (place and occupied(place)):
            return print_error("interrupted; nothing saved", INTERRUPTED)
        notes = getattr(interrupt, "__notes__", None) or [f"what was saved is in {place}"]
        return print_error("; ".join(["interrupted", *notes, f"{again} continues it"]), INTERRUPTED)


def _refused_once(error: Exception) -> int:
    """Print a refusal of all processes on the first of them alone."""
    from flowbp.training.launch import Launch, LaunchError

    try:
        is_first = Launch.of().rank == 0
    except LaunchError:
        # Which one it is cannot be known.
        is_first = True
    if is_first:
        return print_error(error, MISTAKE)
    # torchrun ends all as soon as one has ended, and the first may not have printed yet.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(_MOMENT)
    return MISTAKE

"""What is typed, and what a user is told when it goes wrong."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence

from flowbp.run.shell import (
    MISTAKE,
    STOPPED,
    find_modules_here,
    require_packages,
    stopped_gently,
    told,
    told_short_memory,
)
from flowbp.run.signals import INTERRUPTED

_SMALLER = "lower evaluation.batch, batching.decode or batching.samples"
_DESCRIPTION = "Fine-tune a text-to-image flow-matching model towards a reward."
_EPILOG = """\
Files merge from left to right: mappings key by key, lists and scalars whole, and a component
whose `name` changes is replaced with all its keys. Overrides win over files. A text or a path is
what was typed, to the end of the argument: 'run.folder=runs/try #2', run.folder=2026; quotes
around the whole are taken away, and null is none where the key may be none. Other values are YAML:
training.steps=100, optimizer.learning_rate=1e-5, 'method={{name: sparse, active: 4}}',
evaluation=null.

Presets are files that come with flowbp, one for each backbone and method; --presets lists them.
They are named together, in any order, before a file of one's own that gives reward, prompts and
run.folder. A block `by`, as they have it, holds what a file sets for some backbones only.

A run that stopped goes on with the same words and --resume, from the newest checkpoint in
run.folder (checkpoints.every=20 checkpoints.keep=2). These keys may change then, a section with
all that is in it:
{changeable}

examples:
  python -m flowbp.run container.yaml schedule.name=constant training.steps=20
  python -m flowbp.run container.yaml schedule.name=constant training.steps=40 --resume
  python -m flowbp.run presets/sd35_medium.yaml presets/bridge.yaml my.yaml --check

exit codes: 0 done, 1 the run stopped, 2 a mistake in what was typed or configured,
130 interrupted.
"""


def run_command(arguments: Sequence[str] | None) -> int:
    """Do what `flowbp.run.main` says.

    Args:
        arguments: those of the command line where None.

    Returns:
        The exit code.

    Raises:
        SystemExit: after `--help`, or at an option that does not exist.

    Example:
        See `flowbp.run.main`.
    """
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return told(error, MISTAKE)
    parser = _parser()
    typed = parser.parse_intermixed_args(arguments)
    if not typed.inputs and not typed.presets:
        parser.error("give at least one YAML file, such as container.yaml; --help tells more")
    if typed.presets and (typed.inputs or typed.resume or typed.check):
        parser.error("give --presets alone; it lists them and does nothing else")
    if typed.presets:
        return _listed()
    find_modules_here()
    return _run(typed)


def _epilog() -> str:
    # Late, as in `_run`.
    from flowbp.settings.changes import FREE, ROUNDING, STEPS

    keys = ", ".join((f"{STEPS} upwards", *FREE, *ROUNDING))
    return _EPILOG.format(changeable=textwrap.fill(keys, 98, break_on_hyphens=False))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flowbp.run",
        usage="%(prog)s [--resume] [--check] [--debug] FILE.yaml [FILE.yaml ...] "
        "[dotted.key=value ...]\n       %(prog)s --presets",
        description=_DESCRIPTION,
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="FILE or key=value",
        help="YAML files, and overrides of single keys",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the run in run.folder, from its newest checkpoint",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="check everything, print what would run, and write nothing",
    )
    parser.add_argument(
        "--presets",
        action="store_true",
        help="list the published settings that come with flowbp",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="raise what is otherwise said in a sentence, to see where in the code it comes from",
    )
    return parser


def _listed() -> int:
    # Late, as in `_run`.
    from flowbp.settings import preset_listing

    print(preset_listing())
    return 0


def _run(typed: argparse.Namespace) -> int:
    # Late, because these need what `main` has just made sure of.
    from flowbp.components import ComponentError, during
    from flowbp.configuration import ConfigurationError
    from flowbp.container import RunContainer
    from flowbp.run.checking import check
    from flowbp.run.execution import RunError, execute
    from flowbp.run.quiet import quiet
    from flowbp.run.readiness import AHEAD
    from flowbp.settings import load, located, occupied
    from flowbp.short_memory import is_short_memory
    from flowbp.training import EvaluationError, NonFiniteError

    stops = (NonFiniteError, EvaluationError, RunError, ComponentError)

    loaded = None
    try:
        with quiet(), during("the configuration"):
            loaded = load(typed.inputs, resume=typed.resume, ahead=AHEAD)
        with quiet(), stopped_gently(), during("the run"):
            act = check if typed.check else execute
            act(RunContainer(settings=loaded.settings), resume=typed.resume)
    except Exception as error:
        if typed.debug:
            raise
        if isinstance(error, ConfigurationError):
            return told(located(error, loaded.tree) if loaded else error, MISTAKE)
        if isinstance(error, stops):
            return told(error, STOPPED if loaded else MISTAKE)
        if is_short_memory(error):
            return told_short_memory(error, _SMALLER, kept="nothing was saved")
        if isinstance(error, OSError):
            return told(error, STOPPED)
        raise
    except KeyboardInterrupt as interrupt:
        folder = loaded.settings.run.folder if loaded else None
        if not (folder and occupied(folder)):
            return told("interrupted; nothing saved", INTERRUPTED)
        notes = getattr(interrupt, "__notes__", None) or [f"what was saved is in {folder}"]
        cure = "the same command with --resume goes on"
        return told("; ".join(["interrupted", *notes, cure]), INTERRUPTED)
    return 0

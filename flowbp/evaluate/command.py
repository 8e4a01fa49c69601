"""What is typed, and what a user is told when it goes wrong."""

from __future__ import annotations

import argparse
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

FAILED = 3
"""Exit code: it is done, but a metric failed and is reported as failed."""

_SMALLER = "lower sampling.batch, sampling.decode or evaluation.batch, and add --resume"
_DESCRIPTION = "Sample several models on the same prompts and noise, and measure the pictures."
_EPILOG = """\
Files merge from left to right and overrides win, as in python -m flowbp.run; the first of the
models is what the others are compared with.

An evaluation that stopped, at whatever moment, goes on with the same words and --resume: pictures
that are there and whole are not made again. Metrics, models and seeds may be added then.

A metric or model of a file is taken away by null: metrics.accuracy=null.

examples:
  python -m flowbp.evaluate evaluation.yaml
  python -m flowbp.evaluate evaluation.yaml 'evaluation.seeds=[0, 1, 2]' --resume
  python -m flowbp.evaluate evaluation.yaml evaluation.folder=evaluations/b \\
      'models.mine={checkpoint: runs/b/checkpoints/final, scale: 0.5}'

exit codes: 0 done, 1 the evaluation stopped, 2 a mistake in what was typed or configured,
3 done, but for metrics that failed and are reported as failed, 130 interrupted.
"""


def evaluate_command(arguments: Sequence[str] | None) -> int:
    """Do what `flowbp.evaluate.main` says.

    Args:
        arguments: those of the command line where None.

    Returns:
        The exit code.

    Raises:
        SystemExit: after `--help`, or at an option that does not exist.

    Example:
        See `flowbp.evaluate.main`.
    """
    parser = _parser()
    typed = parser.parse_intermixed_args(arguments)
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return told(error, MISTAKE)
    find_modules_here()
    return _evaluate(typed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flowbp.evaluate",
        usage="%(prog)s [--resume] [--check] [--debug] FILE.yaml [FILE.yaml ...] "
        "[dotted.key=value ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE or key=value",
        help="YAML files, and overrides of single keys",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with the evaluation in evaluation.folder",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="check everything, print what would be done, and write nothing",
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="raise what is otherwise said in a sentence, to see where in the code it comes from",
    )
    return parser


def _evaluate(typed: argparse.Namespace) -> int:
    # Late, because these need what `main` has just made sure of.
    from flowbp.components import ComponentError, during
    from flowbp.configuration import ConfigurationError
    from flowbp.evaluate.container import EvaluationContainer
    from flowbp.evaluate.execution import check, execute
    from flowbp.evaluate.failing import EvaluateError
    from flowbp.evaluate.loading import load
    from flowbp.evaluate.readiness import AHEAD
    from flowbp.run.quiet import quiet
    from flowbp.settings import located, occupied
    from flowbp.short_memory import is_short_memory

    loaded = None
    try:
        with quiet(), during("the configuration"):
            loaded = load(typed.inputs, resume=typed.resume, ahead=AHEAD)
        with quiet(), stopped_gently(), during("the evaluation"):
            container = EvaluationContainer(settings=loaded.settings)
            if typed.check:
                check(container, resume=typed.resume)
            elif execute(container, resume=typed.resume).failures:
                return told("some metrics failed, see above; the others are done", FAILED)
    except Exception as error:
        if typed.debug:
            raise
        if isinstance(error, ConfigurationError):
            return told(located(error, loaded.tree) if loaded else error, MISTAKE)
        if isinstance(error, EvaluateError | ComponentError):
            return told(error, STOPPED if loaded else MISTAKE)
        if is_short_memory(error):
            return told_short_memory(error, _SMALLER, kept="what was done is kept")
        if isinstance(error, OSError):
            return told(error, STOPPED)
        raise
    except KeyboardInterrupt:
        folder = loaded.settings.evaluation.folder if loaded else None
        if not (folder and occupied(folder)):
            return told("interrupted; nothing saved", INTERRUPTED)
        return told("interrupted; the same command with --resume goes on", INTERRUPTED)
    return 0

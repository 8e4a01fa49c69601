"""The command `flowbp-eval`: its help, and what it does with each option."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flowbp.cli.command import carry_out, command_parser, shown_keys
from flowbp.cli.console import MISTAKE, find_modules_here, print_error, require_packages

FAILED = 3
"""Exit code: it is done, but a metric failed and is reported as failed."""

_SMALLER = "lower sampling.batch, sampling.decode or evaluation.batch, and add --resume"
_DESCRIPTION = "Sample several models on the same prompts and noise, and measure the pictures."
_EPILOG = """\
Files merge from left to right and overrides win, as in python -m flowbp.run; the first of the
models is what the others are compared with.

An evaluation that was stopped, at any moment, continues with the same arguments and --resume:
pictures that are there and whole are not made again. Metrics, models and seeds may be added then.

null removes a metric or model of a file: metrics.accuracy=null.

examples:
  python -m flowbp.evaluate evaluation.yaml
  python -m flowbp.evaluate evaluation.yaml 'evaluation.seeds=[0, 1, 2]' --resume
  python -m flowbp.evaluate evaluation.yaml evaluation.folder=evaluations/b \\
      'models.mine={checkpoint: runs/b/checkpoints/final, scale: 0.5}'

exit codes: 0 done, 1 the evaluation stopped, 2 a mistake in what was typed or configured,
3 done, but for metrics that failed and are reported as failed, 130 interrupted.
"""


def main(arguments: Sequence[str] | None) -> int:
    """Do what `flowbp.evaluate.main` says."""
    parser = _parser()
    typed = parser.parse_intermixed_args(arguments)
    if not typed.inputs and not typed.keys:
        parser.error("give at least one YAML file, such as evaluation.yaml; --help shows more")
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return print_error(error, MISTAKE)
    if typed.keys:
        from flowbp.cli.evaluate.settings import EvaluateSettings

        return shown_keys(parser, typed, EvaluateSettings)
    find_modules_here()
    return _evaluate(typed)


def _parser() -> argparse.ArgumentParser:
    return command_parser(
        "flowbp.evaluate",
        usage="%(prog)s [--resume] [--check] [--debug] FILE.yaml [FILE.yaml ...] "
        "[dotted.key=value ...]\n       %(prog)s --keys [SECTION [NAME]] | --version",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        resume="continue the evaluation in evaluation.folder",
        check="check everything, print what would be done, and write nothing",
        keys="--keys models, --keys metrics diversity",
    )


def _evaluate(typed: argparse.Namespace) -> int:
    # Late, because these need what `main` has just made sure of.
    from flowbp.cli.evaluate.container import EvaluationContainer
    from flowbp.cli.evaluate.execution import check, execute
    from flowbp.cli.evaluate.measurement import EvaluateError
    from flowbp.cli.evaluate.preflight import READING_CHECKS, load
    from flowbp.cli.evaluate.settings import EvaluateSettings

    def act(settings: EvaluateSettings) -> int:
        container = EvaluationContainer(settings=settings)
        if typed.check:
            check(container, resume=typed.resume)
        elif execute(container, resume=typed.resume).failures:
            return print_error("some metrics failed, see above; the others are done", FAILED)
        return 0

    return carry_out(
        lambda: load(typed.inputs, resume=typed.resume, also=READING_CHECKS),
        act,
        folder=lambda settings: settings.evaluation.folder,
        what="the evaluation",
        stops=(EvaluateError,),
        smaller=_SMALLER,
        kept="what was done is kept",
        debug=typed.debug,
    )

"""The command `flowbp-study`: its help, and what it does with each option."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flowbp.cli.command import carry_out, command_parser, shown_keys
from flowbp.cli.console import MISTAKE, find_modules_here, print_error, require_packages

_SMALLER = "lower workers, ascent.batch or run.batching.samples"
_DESCRIPTION = "Compare methods: what one step of each gains, and training runs at equal cost."
_EPILOG = """\
Files merge from left to right and overrides win, as in python -m flowbp.run. The key `run` names
the YAML of a run, whose method, rate, steps, seed and folder the study varies.

A study that was stopped, at any moment, continues with the same command: every draw and every run
that is done is kept. Methods, rates, seeds and draws may be added or taken away then.

examples:
  python -m flowbp.study study.yaml --check
  python -m flowbp.study study.yaml workers=2
  python -m flowbp.study study.yaml training=null folder=studies/steps

exit codes: 0 done, 1 the study stopped, 2 a mistake in what was typed or configured,
130 interrupted.
"""


def main(arguments: Sequence[str] | None) -> int:
    """Do what `flowbp.study.__main__.main` says."""
    parser = command_parser(
        "flowbp.study",
        usage="%(prog)s [--check] [--debug] FILE.yaml [FILE.yaml ...] "
        "[dotted.key=value ...]\n       %(prog)s --keys [SECTION [NAME]] | --version",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        resume="not needed: the same command continues a study",
        check="check everything, print what would be measured, and write nothing",
        keys="--keys ascent, --keys methods bridge",
    )
    typed = parser.parse_intermixed_args(arguments)
    if not typed.inputs and not typed.keys:
        parser.error("give at least one YAML file, such as study.yaml; --help shows more")
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return print_error(error, MISTAKE)
    if typed.keys:
        from flowbp.study.settings import StudySettings

        return shown_keys(parser, typed, StudySettings)
    find_modules_here()
    return _study(typed)


def _study(typed: argparse.Namespace) -> int:
    # Late, because these need what `main` has just made sure of.
    from flowbp.study.execution import check, execute
    from flowbp.study.loader import load
    from flowbp.study.settings import Study
    from flowbp.study.workers import WorkerError
    from flowbp.training import EvaluationError

    def act(study: Study) -> int:
        (check if typed.check else execute)(study)
        return 0

    return carry_out(
        lambda: load(typed.inputs),
        act,
        folder=lambda study: study.settings.folder,
        what="the study",
        stops=(WorkerError, EvaluationError),
        smaller=_SMALLER,
        kept="what was done is kept",
        debug=typed.debug,
        again="the same command",
    )

"""`python -m examples.paper my_paper.yaml`: the published tables, from runs to the page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowbp.cli.console import MISTAKE, STOPPED, find_modules_here, print_error, require_packages
from flowbp.cli.start import INTERRUPTED, guarded

if TYPE_CHECKING:
    from examples.paper.settings import Paper

_EPILOG = """\
Copy examples/paper/my_paper.yaml and change it. Everything, one model, one table:

  python -m examples.paper my_paper.yaml --check
  python -m examples.paper my_paper.yaml
  python -m examples.paper my_paper.yaml --model sd35_medium
  python -m examples.paper my_paper.yaml --table geneval --method bridge

The same command continues what was stopped. A failure does not stop the others; it is listed at
the end. The page is written at the end, and by --page alone from what is there.

exit codes: 0 done, 1 something failed, 2 a mistake in what was typed or configured,
130 interrupted.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; `--help` lists them."""
    return guarded(lambda: _main(arguments), process=arguments is None)


def _main(arguments: Sequence[str] | None) -> int:
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return print_error(error, MISTAKE)
    typed = _parser().parse_args(arguments)
    find_modules_here()
    # Late, because importing torch takes seconds.
    from examples.paper.loading import load
    from flowbp.cli.console import quiet
    from flowbp.cli.signals import interruptible
    from flowbp.config import ConfigurationError
    from flowbp.training.launch import LaunchError, refuse_several

    try:
        refuse_several("the paper is the work of one process, which starts torchrun itself")
        with quiet(), interruptible():
            chosen = dict(models=typed.model, methods=typed.method, tables=typed.table)
            return _act(load(typed.file, **chosen), typed)
    except (ConfigurationError, LaunchError) as error:
        return print_error(str(error), MISTAKE)
    except OSError as error:
        return print_error(str(error), STOPPED)
    except KeyboardInterrupt:
        return print_error("interrupted; the same command continues it", INTERRUPTED)


def _act(paper: Paper, typed: argparse.Namespace) -> int:
    from examples.paper.cost import overview
    from examples.paper.execution import execute
    from examples.paper.page import page
    from flowbp.files import write_atomically

    if not typed.page:
        print(overview(paper), flush=True)
    if typed.check:
        print("checked; nothing was run")
        return 0
    failed = [] if typed.page else execute(paper)
    # One of all that the file has is not replaced by one of a part.
    name = "-".join(["paper", *typed.model, *typed.method, *typed.table])
    place = paper.settings.folder / f"{name}.md"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(place, page(paper))
    print(f"written to {place}")
    if failed:
        return print_error("\n".join(["not done:", *(f"  {each}" for each in failed)]), STOPPED)
    return 0


def _parser() -> argparse.ArgumentParser:
    from examples.paper.published import METHODS, MODELS, TABLES

    parser = argparse.ArgumentParser(
        prog="python -m examples.paper",
        description="Reproduce the tables of arXiv 2606.11075 with weights of your own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, metavar="FILE.yaml")
    for name, choices in (("model", MODELS), ("method", METHODS), ("table", TABLES)):
        parser.add_argument(
            f"--{name}",
            action="append",
            default=[],
            choices=list(choices),
            help=f"only this {name}; may be given again for more; all that the file has otherwise",
        )
    either = parser.add_mutually_exclusive_group()
    either.add_argument(
        "--check",
        action="store_true",
        help="check everything, print what is done and left and what it takes, and write nothing",
    )
    either.add_argument("--page", action="store_true", help="write the page of what is there")
    return parser


if __name__ == "__main__":
    sys.exit(main())

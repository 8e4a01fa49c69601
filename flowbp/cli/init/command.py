"""The command `flowbp init`: its help, and the files that it writes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowbp.cli.console import MISTAKE, STOPPED, find_modules_here, print_error, require_packages

if TYPE_CHECKING:
    from flowbp.cli.init.starting_point import StartingPoint

CONTAINER = "container.yaml"
_EPILOG = """\
Without words it is the embedded model, which needs no downloads and two CPU cores. A model's
published settings come from its presets; for those, prompts.txt and held_out.txt are written too,
unless they are there. A file that is there is never changed.

examples:
  flowbp init
  flowbp init sd35_medium bridge pickscore
  flowbp init flux1_dev

exit codes: 0 done, 1 nothing could be written, 2 a mistake in what was typed.
"""


def main(arguments: Sequence[str] | None) -> int:
    """Write container.yaml as the words say, of which `init` is the first."""
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return print_error(error, MISTAKE)
    find_modules_here()
    # Late, because importing torch takes seconds.
    from flowbp.cli.init.starting_point import chosen
    from flowbp.config import ConfigurationError

    words = _parser().parse_args(arguments).words
    try:
        return _write(chosen(words, taken=_taken()))
    except ConfigurationError as error:
        return print_error(error, MISTAKE)
    except OSError as error:
        return print_error(error, STOPPED)


def _parser() -> argparse.ArgumentParser:
    from flowbp.cli.init.starting_point import methods, models, rewards

    parser = argparse.ArgumentParser(prog="flowbp")
    command = parser.add_subparsers(required=True).add_parser(
        "init",
        usage="%(prog)s [MODEL] [METHOD] [REWARD]",
        description=f"Write a {CONTAINER} to start from.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument(
        "words",
        nargs="*",
        metavar="WORD",
        help=f"in any order a model ({', '.join(models())}), a method ({', '.join(methods())}) and "
        f"a reward ({', '.join(rewards())})",
    )
    return parser


def _taken() -> str:
    """What is wrong with the place of the file."""
    place = Path(CONTAINER)
    if not place.exists() and not place.is_symlink():
        return ""
    return f"{place} is there already, and is not changed; move it, or work in another folder"


def _write(start: StartingPoint) -> int:
    written = []
    for name, text in {**start.prompts(), CONTAINER: start.configuration()}.items():
        try:
            with open(name, "x", encoding="utf-8") as stream:
                stream.write(text)
        except FileExistsError:
            if name == CONTAINER:
                raise
            print(f"{name} is there already, and stays as it is")
        else:
            written.append(name)
    print(f"written: {', '.join(reversed(written))}")
    print(f"  flowbp {CONTAINER} --check   shows what would run, what it takes and what is missing")
    print(f"  flowbp {CONTAINER}           runs it")
    return 0

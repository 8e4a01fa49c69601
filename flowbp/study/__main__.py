"""`python -m flowbp.study`, also installed as `flowbp-study`: methods against each other."""

from __future__ import annotations

import sys

from flowbp.cli.start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Study what the arguments say; `--help` lists them.

    Args:
        arguments: those of the command line by default; the process is then the command's, and
            Ctrl-C and SIGTERM are handled for good.

    Returns:
        The exit code: 0 done, 1 the study stopped, 2 a mistake of the user's, 130 interrupted. A
        message is on stderr. Anything else is a bug, and raised.

    Raises:
        SystemExit: after `--help` or `--version`, or at an option that does not exist.

    Example:
        >>> main(["no-such-file.yaml"])
        2
    """
    return start("flowbp.study.command", arguments)


if __name__ == "__main__":
    sys.exit(main())

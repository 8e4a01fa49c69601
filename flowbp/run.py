"""`python -m flowbp.run`, also installed as `flowbp`: a run from YAML, evaluated and reported.

`flowbp init` writes a first YAML.
"""

from __future__ import annotations

import sys

from flowbp.cli.start import start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments say, or write a first YAML after `init`; `--help` lists them.

    Args:
        arguments: those of the command line by default; the process is then the command's, and
            Ctrl-C and SIGTERM are handled for good.

    Returns:
        The exit code: 0 done, 1 the run stopped, 2 a mistake of the user's, 130 interrupted. A
        message is on stderr. Anything else is a bug, and raised.

    Raises:
        SystemExit: after `--help` or `--version`, or at an option that does not exist.

    Example:
        >>> main(["no-such-file.yaml"])
        2
    """
    typed = sys.argv[1:] if arguments is None else arguments
    command = "init" if list(typed[:1]) == ["init"] else "run"
    return start(f"flowbp.cli.{command}.command", arguments)


if __name__ == "__main__":
    sys.exit(main())

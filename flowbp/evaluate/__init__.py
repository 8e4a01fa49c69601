"""The command line: several models on the same prompts and noise, measured by name."""

from __future__ import annotations

from flowbp.run.signals import guarded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate what the arguments say; `--help` lists them.

    Args:
        arguments: those of the command line by default; the process is then the command's, and
            Ctrl-C and SIGTERM are handled for good.

    Returns:
        The exit code: 0 done, 1 the evaluation stopped, 2 a mistake of the user's, 3 done but for
        metrics that failed and are reported as failed, 130 interrupted. A message is on stderr.
        Anything else is a bug, and raised.

    Raises:
        SystemExit: after `--help`, or at an option that does not exist.

    Example:
        >>> main(["no-such-file.yaml"])
        2
    """

    def command() -> int:
        # Late, because this takes seconds.
        from flowbp.evaluate.command import evaluate_command

        return evaluate_command(arguments)

    return guarded(command, process=arguments is None)

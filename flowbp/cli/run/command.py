"""The command `flowbp`: its help, and what it does with each option."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from functools import partial

from flowbp.cli.command import carry_out, command_parser, shown_keys
from flowbp.cli.console import MISTAKE, find_modules_here, print_error, require_packages

_SMALLER = "lower evaluation.batch, batching.decode or batching.samples"
_DESCRIPTION = "Fine-tune a text-to-image flow-matching model towards a reward."
_EPILOG = """\
`init` writes a container.yaml to start from; `init --help` lists the words.

Files merge from left to right: mappings key by key, lists and scalars whole, and a component
whose `name` changes is replaced with all its keys. A component is also named by its name alone,
method: bridge. The key `files` of a file names those that it is laid over. Overrides win over
files, and of one key the last. A text or a path is what was typed, to the end of the argument:
'run.folder=runs/try #2', run.folder=2026; quotes around the whole are removed, and null is none
where the key may be none. Other values are YAML: training.steps=100, method=sparse
method.active=4, optimizer.learning_rate=1e-5, 'method={{name: sparse, active: 4}}'.

null clears a section, which then is none, or its default if it may not be none: evaluation=null.
What follows it replaces the section instead of merging: sampling=null 'sampling={{steps: 10}}'.

Presets are files that come with flowbp: one for each model, one for each method on it, and one for
HPSv2.1 with its published loss; --presets lists them. They are found from every folder, and named
together, in any order, before a file of one's own that gives prompts, run.folder and, without
hpsv2.yaml, reward and loss.

A run that stopped continues with the same arguments and --resume, from the newest checkpoint in
run.folder (checkpoints.every=20 checkpoints.keep=2). These keys may change then, a section with
all that is in it:
{changeable}

examples:
  python -m flowbp.run container.yaml schedule.name=constant training.steps=20
  python -m flowbp.run container.yaml schedule.name=constant training.steps=40 --resume
  python -m flowbp.run presets/sd35_medium.yaml presets/sd35_medium/bridge.yaml my.yaml --check
  python -m flowbp.run presets/flux1_dev.yaml presets/flux1_dev/bridge.yaml my.yaml --check --on 80

exit codes: 0 done, 1 the run stopped, 2 a mistake in what was typed or configured,
130 interrupted.
"""


def main(arguments: Sequence[str] | None) -> int:
    """Do what `flowbp.run.main` says."""
    try:
        require_packages()
    except ModuleNotFoundError as error:
        return print_error(error, MISTAKE)
    parser = _parser()
    typed = parser.parse_intermixed_args(arguments)
    if typed.keys and typed.presets:
        parser.error("give --keys or --presets, not both")
    if typed.on and not typed.check:
        parser.error("give --on with --check; a run takes the devices that are here")
    if typed.keys:
        from flowbp.settings import Settings

        return shown_keys(parser, typed, Settings)
    if not typed.inputs and not typed.presets:
        parser.error(
            "give at least one YAML file, such as container.yaml, which `flowbp init` writes; "
            "--help shows more"
        )
    if typed.presets and (typed.inputs or typed.resume or typed.check):
        parser.error("give --presets alone; it lists them and does nothing else")
    if typed.presets:
        from flowbp.settings import preset_listing

        print(preset_listing())
        return 0
    find_modules_here()
    return _run(typed)


def _parser() -> argparse.ArgumentParser:
    # Late, as in `_run`.
    from flowbp.settings.device import Gpus
    from flowbp.settings.run_identity import FREE, ROUNDING, STEPS

    keys = ", ".join((f"{STEPS} upwards", *FREE, *ROUNDING))
    parser = command_parser(
        "flowbp.run",
        usage="%(prog)s [--resume] [--check [--on GPUS]] [--debug] FILE.yaml [FILE.yaml ...] "
        "[dotted.key=value ...]\n       %(prog)s init [MODEL] [METHOD] [REWARD]\n"
        "       %(prog)s --keys [SECTION [NAME]] | --presets | --version",
        description=_DESCRIPTION,
        epilog=_EPILOG.format(changeable=textwrap.fill(keys, 98, break_on_hyphens=False)),
        resume="continue the run in run.folder, from its newest checkpoint",
        check="check everything, print what would run, and write nothing",
        keys="--keys training, --keys method bridge, --keys reward my_package.rewards:Mine",
    )

    def gpus(written: str) -> Gpus:
        try:
            return Gpus.of(written)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    parser.add_argument(
        "--on",
        metavar="GPUS",
        type=gpus,
        help="with --check: predict for CUDA GPUs of one host that need not be here, 80 for one of "
        "80 GiB, 8x80 for eight of them under torchrun",
    )
    parser.add_argument(
        "--presets",
        action="store_true",
        help="list the published settings that come with flowbp",
    )
    return parser


def _run(typed: argparse.Namespace) -> int:
    # Late, because these need what `main` has just made sure of.
    from flowbp.cli.run.check import check, trial_checks
    from flowbp.cli.run.execution import execute
    from flowbp.cli.run.phases import RunError
    from flowbp.cli.run.rank_output import in_silence, speaking_once
    from flowbp.cli.run.rank_problems import found_together
    from flowbp.settings import Loaded, RunContainer, Settings, load
    from flowbp.settings.preflight import reading_checks
    from flowbp.training import (
        EvaluationError,
        Launch,
        LaunchError,
        NonFiniteError,
        RankEndedError,
        Ranks,
        RanksDifferError,
        joined,
    )

    planned, here = ("cuda", "auto") if typed.on else (None, None)
    also = (*reading_checks((), planned), *(trial_checks((), here) if typed.check else ()))
    read = partial(load, typed.inputs, resume=typed.resume, also=also, gpus=typed.on)
    work = partial(check, gpus=typed.on) if typed.check else execute

    def run(ranks: Ranks) -> int:
        def act(settings: Settings) -> int:
            if typed.check and not ranks.first:
                return 0
            container = RunContainer(settings=settings, ranks=ranks)
            with in_silence(ranks):
                work(container, resume=typed.resume)
            return 0

        def loaded() -> Loaded[Settings]:
            def own() -> Loaded[Settings]:
                with in_silence(ranks):
                    return read(writes=ranks.first)

            # No process checks anything any more while the first one writes already.
            with ranks.together():
                return found_together(ranks, own)

        return carry_out(
            loaded,
            act,
            folder=lambda settings: settings.run.folder,
            what="the run",
            stops=(NonFiniteError, EvaluationError, RunError, RankEndedError, RanksDifferError),
            smaller=_SMALLER,
            kept="nothing was saved",
            debug=typed.debug,
            several=True,
        )

    try:
        with joined(Launch.of()) as ranks:
            return speaking_once(ranks, lambda: run(ranks))
    except LaunchError as error:
        return print_error(error, MISTAKE)

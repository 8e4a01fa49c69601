"""From what was typed to checked settings, and back to YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Generic, TypeVar

import attrs

from flowbp.config import ConfigurationError, Problem, Tree, dump, unstructure, without_nulls
from flowbp.config.arguments import Partial, answers
from flowbp.config.command_line import Gathered, gathered
from flowbp.config.structuring import structured
from flowbp.config.tree import Step, origin_of, path_text
from flowbp.settings.preflight import Check, checks_of_run
from flowbp.settings.preset_files import mixed_presets, preset_or_file
from flowbp.settings.registries import REGISTRIES, SCALARS
from flowbp.settings.schema import Settings

SettingsT = TypeVar("SettingsT")


@attrs.frozen(eq=False)
class Loaded(Generic[SettingsT]):
    """Settings together with where each of them was written."""

    settings: SettingsT
    tree: Tree


def load(
    arguments: Sequence[str], *, resume: bool = False, ahead: Sequence[Check] = ()
) -> Loaded[Settings]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    With `resume` the run goes on in its folder, which is then not empty. The checks `ahead` are
    made later anyway, and now only where something else is wrong, so that all is reported at once.
    """
    typed = gathered(arguments, find=preset_or_file)
    typed = attrs.evolve(
        typed,
        tree=without_nulls(typed.tree, "evaluation", "metrics"),
        problems=(*typed.problems, *mixed_presets(arguments)),
    )
    return checked(Settings, typed, checks_of_run(resume=resume), ahead)


def checked(
    kind: type[SettingsT],
    typed: Gathered,
    checks: Sequence[Check],
    ahead: Sequence[Check] = (),
) -> Loaded[SettingsT]:
    """Settings of a kind, each section valid and all together; every problem at once."""
    tree = typed.tree
    settings, wrong = structured(kind, tree, registries=REGISTRIES, scalars=SCALARS)
    problems = [*typed.problems, *wrong, *_answered(checks, settings, tree)]
    if problems or isinstance(settings, Partial):
        problems += _answered(ahead, settings, tree)
        raise ConfigurationError(dict.fromkeys(problems))
    return Loaded(settings, tree)


def _answered(checks: Sequence[Check], settings: object, tree: Tree) -> Iterator[Problem]:
    for check in checks:
        for path, message in answers(check, settings):
            yield _problem(path, message, tree)


def _problem(path: tuple[Step, ...], message: str, tree: Tree) -> Problem:
    # At the key that the message begins with, if it names one.
    subject = re.match(r"`(\w+)` ", message)
    if subject:
        message = message.removeprefix(subject[0])
        path = (*path, subject[1])
    return Problem(path_text(path), message, origin_of(tree, path))


def located(error: ConfigurationError, tree: Tree) -> ConfigurationError:
    """Add to problems that were found after loading where their section was written."""
    found = ConfigurationError(
        each
        if each.origin
        else attrs.evolve(each, origin=origin_of(tree, tuple(each.path.split("."))))
        for each in error.problems
    )
    # What raised them goes along, as it knows the lines of code of others.
    found.__cause__ = error
    return found


def resolved_values(settings: object, *, defaults: bool = True) -> Any:
    """The settings as mappings, lists and scalars, with their defaults.

    Without `defaults` those of backbone, reward and the like are left out, for a summary.
    """
    return unstructure(settings, registries=REGISTRIES, scalars=SCALARS, defaults=defaults)


def resolved(settings: object, *, defaults: bool = True) -> str:
    """The same as YAML; `load` reads it back."""
    return dump(resolved_values(settings, defaults=defaults))

"""From what was typed to checked settings, and back to YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, get_args, get_type_hints

import attrs

from flowbp.configuration import ConfigurationError, Problem, Tree, describe, without_nulls
from flowbp.configuration.arguments import Gathered, gathered
from flowbp.configuration.component import component_type
from flowbp.configuration.partial import Partial, answers
from flowbp.configuration.structuring import structured
from flowbp.configuration.tree import Step, origin_of, path_text
from flowbp.settings.checks import Check, checks_of_run
from flowbp.settings.presets import preset_or_file
from flowbp.settings.registries import REGISTRIES, SCALARS
from flowbp.settings.schema import Settings

SettingsT = TypeVar("SettingsT")


@attrs.frozen(eq=False)
class Loaded(Generic[SettingsT]):
    """Settings together with where each of them was written.

    Args:
        settings: of a run, or of an evaluation.
        tree: what they were made of.

    Example:
        See `load`.
    """

    settings: SettingsT
    tree: Tree


def load(
    arguments: Sequence[str], *, resume: bool = False, ahead: Sequence[Check] = ()
) -> Loaded[Settings]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    Args:
        arguments: such as ``["presets/sd35_medium.yaml", "my.yaml", "method.active=3"]``; see
            `preset_or_file` and `flowbp.configuration.read_arguments`.
        resume: whether the run goes on in its folder, which is then not empty.
        ahead: checks that are made later anyway, and now only where something else is wrong, so
            that all is reported at once.

    Returns:
        The settings.

    Raises:
        ConfigurationError: all that is wrong. What several sections together get wrong is found
            where the keys that it is about are right.

    Example:
        >>> load(["run.folder=runs/new", "method={name: brige}", "reward.name=shapes"])
        Traceback (most recent call last):
        flowbp.configuration.problems.ConfigurationError: 6 problems in the configuration:
          command line: method.name: no method is called 'brige'. Did you mean `bridge`? Names: \
`refl`, `draft`, `draft_lv`, `drtune`, `leap_align`, `sparse`, `bridge`, `lagrange`, `variant`; \
or write package.module:Class
          defaults: backbone: is missing; it has no default
          defaults: prompts: is missing; it has no default
          defaults: loss: is missing; it has no default
          defaults: sampling: is missing; it has no default
          defaults: batching: is missing; it has no default
    """
    typed = gathered(arguments, find=preset_or_file, names=_names())
    typed = attrs.evolve(typed, tree=without_nulls(typed.tree, "evaluation", "metrics"))
    return checked(Settings, typed, checks_of_run(resume=resume), ahead)


def checked(
    kind: type[SettingsT],
    typed: Gathered,
    checks: Sequence[Check],
    ahead: Sequence[Check] = (),
) -> Loaded[SettingsT]:
    """Settings of a kind, each section valid and all together.

    Args:
        kind: of the settings.
        typed: what they are made of, and what is wrong with how it was written.
        checks: what finds what sections get wrong together.
        ahead: the same, asked only where something is wrong.

    Returns:
        The settings.

    Raises:
        ConfigurationError: all that is wrong.

    Example:
        See `load`.
    """
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


def _names() -> dict[str, tuple[str, ...]]:
    # The names of each section that holds a component, for the cases of files.
    found = {}
    for section, annotation in get_type_hints(Settings).items():
        kinds = [annotation, component_type(annotation)]
        kinds += [component_type(each) for each in get_args(annotation)]
        for registry in REGISTRIES:
            if any(registry.describes(kind) for kind in kinds if kind is not None):
                found[f"{section}.name"] = registry.names()
    return found


def located(error: ConfigurationError, tree: Tree) -> ConfigurationError:
    """Add to problems that were found after loading where their section was written.

    Args:
        error: some of whose problems have no origin.
        tree: of the settings.

    Returns:
        An error with the origins.

    Example:
        >>> from flowbp.configuration import Problem, tree_of
        >>> tree = tree_of({"backbone": {}}, "container.yaml:3")
        >>> print(located(ConfigurationError([Problem("backbone", "is gone", "")]), tree))
        1 problem in the configuration:
          container.yaml:3: backbone: is gone
    """
    found = ConfigurationError(
        each
        if each.origin
        else attrs.evolve(each, origin=origin_of(tree, tuple(each.path.split("."))))
        for each in error.problems
    )
    # What raised them goes along, as it knows the lines of code of others.
    found.__cause__ = error
    return found


def resolved(settings: object, *, defaults: bool = True) -> str:
    """The settings as YAML with their defaults written out; `load` reads it back.

    Args:
        settings: of a run, or of an evaluation.
        defaults: of backbone, reward and the like; False leaves them out, for a summary.

    Returns:
        YAML.

    Raises:
        ValueError: a value that was made in Python has no name to find it by again.

    Example:
        See `load`, of which it is the inverse.
    """
    return describe(settings, registries=REGISTRIES, scalars=SCALARS, defaults=defaults)

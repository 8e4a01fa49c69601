"""From what was typed to checked settings, and back to YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar, get_args, get_type_hints

import attrs

from flowbp.configuration import (
    ConfigurationError,
    Problem,
    Tree,
    describe,
    read_arguments,
    structure,
    without_nulls,
)
from flowbp.configuration.component import component_type
from flowbp.configuration.tree import Step, origin_of, path_text
from flowbp.settings.checks import problems
from flowbp.settings.intervals import Found
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


def load(arguments: Sequence[str], *, resume: bool = False) -> Loaded[Settings]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    Args:
        arguments: such as ``["presets/sd35_medium.yaml", "my.yaml", "method.active=3"]``; see
            `preset_or_file` and `flowbp.configuration.read_arguments`.
        resume: whether the run goes on in its folder, which is then not empty.

    Returns:
        The settings.

    Raises:
        ConfigurationError: all that is wrong. What several sections together get wrong is only
            found once each of them is right.

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
    tree = read_arguments(arguments, find=preset_or_file, names=_names())
    tree = without_nulls(tree, "evaluation", "metrics")
    return checked(Settings, tree, lambda settings: problems(settings, resume=resume))


def checked(
    kind: type[SettingsT], tree: Tree, find: Callable[[SettingsT], Found]
) -> Loaded[SettingsT]:
    """Settings of a kind, each section valid and all together.

    Args:
        kind: of the settings.
        tree: what they are made of.
        find: what sections get wrong together.

    Returns:
        The settings.

    Raises:
        ConfigurationError: all that is wrong.

    Example:
        See `load`.
    """
    settings = structure(kind, tree, registries=REGISTRIES, scalars=SCALARS)
    found = tuple(_problem(path, message, tree) for path, message in find(settings))
    if found:
        raise ConfigurationError(found)
    return Loaded(settings, tree)


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


def resolved(settings: object) -> str:
    """The settings as YAML with their defaults written out; `load` reads it back.

    Args:
        settings: of a run, or of an evaluation.

    Returns:
        YAML.

    Raises:
        ValueError: a value that was made in Python has no name to find it by again.

    Example:
        See `load`, of which it is the inverse.
    """
    return describe(settings, registries=REGISTRIES, scalars=SCALARS)

"""From what was typed to checked settings, and back to YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args, get_type_hints

import attrs

from flowbp.configuration import ConfigurationError, Tree, describe, read_arguments, structure
from flowbp.configuration.registry import component_type
from flowbp.configuration.tree import origin_of
from flowbp.settings.checks import problems
from flowbp.settings.presets import preset_or_file
from flowbp.settings.registries import REGISTRIES, SCALARS
from flowbp.settings.schema import Settings


@attrs.frozen(eq=False)
class Loaded:
    """Settings together with where each of them was written.

    Args:
        settings: of the run.
        tree: what they were made of.

    Example:
        See `load`.
    """

    settings: Settings
    tree: Tree


def load(arguments: Sequence[str], *, resume: bool = False) -> Loaded:
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
    settings = structure(Settings, tree, registries=REGISTRIES, scalars=SCALARS)
    found = tuple(problems(settings, tree, resume=resume))
    if found:
        raise ConfigurationError(found)
    return Loaded(settings, tree)


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
    return ConfigurationError(
        problem
        if problem.origin
        else attrs.evolve(problem, origin=origin_of(tree, tuple(problem.path.split("."))))
        for problem in error.problems
    )


def resolved(settings: Settings) -> str:
    """The settings as YAML with their defaults written out; `load` reads it back.

    Args:
        settings: of the run.

    Returns:
        YAML.

    Raises:
        ValueError: a value that was made in Python has no name to find it by again.

    Example:
        See `load`, of which it is the inverse.
    """
    return describe(settings, registries=REGISTRIES, scalars=SCALARS)

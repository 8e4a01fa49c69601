"""From what was typed to a checked study, and back to YAML; every problem is found at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from flowbp.config import ConfigurationError, Problem, Tree, dump, merge, plain, without_nulls
from flowbp.config.command_line import FILES, read_arguments
from flowbp.config.partial import Partial, run_check
from flowbp.config.structuring import structured
from flowbp.config.tree import Step, has_unknown, origin_of, path_text, tree_of
from flowbp.settings import (
    REGISTRIES,
    SCALARS,
    Loaded,
    Settings,
    occupied,
    preset_or_file,
    resolved_values,
)
from flowbp.settings.preflight import reading_checks, section_checks
from flowbp.settings.weighted_reward import weighted_reward
from flowbp.study.cells import CELLS, Cell
from flowbp.study.settings import Study, StudySettings
from flowbp.study.training_results import Sides
from flowbp.training import OptimizerClass
from flowbp.training.optimizer_classes import RATE

RUN = "run"
CONFIGURATION = "study.yaml"
"""The resolved study in its folder, by which it is known."""

_Path = tuple[Step, ...]
_Found = Iterator[tuple[_Path, str]]


def load(arguments: Sequence[str]) -> Loaded[Study]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    The key `run` is a run's YAML file, a list of them, or a run's sections themselves, with the
    key `files` for those that they are laid over.
    """
    typed = read_arguments(arguments, find=preset_or_file)
    whole, problems = without_nulls(typed.tree, "methods"), list(typed.problems)
    own = _without(whole, RUN)
    settings, wrong = structured(StudySettings, own, registries=REGISTRIES, scalars=SCALARS)
    problems += wrong
    if whole.is_mapping and RUN not in whole.value:
        missing = "is missing; name a run's YAML, such as container.yaml, or write its sections"
        problems.append(Problem(RUN, missing, whole.origin))
        raise ConfigurationError(dict.fromkeys(problems))
    tree = _run_tree(whole, problems)
    run, wrong = structured(Settings, tree, registries=REGISTRIES, scalars=SCALARS)
    # Of what is the study's, the study's own key has the problem.
    problems += [
        _below(each) for each in wrong if not each.path.startswith(("method", "run.folder"))
    ]
    problems += _answered([_folder], settings, own, ())
    problems += _answered([_reward, *reading_checks()], run, tree, (RUN,))
    if isinstance(settings, Partial) or isinstance(run, Partial):
        raise ConfigurationError(dict.fromkeys(problems))
    study, whole = Study(settings, run), merge(own, Tree({RUN: tree}, tree.origin))
    problems += _answered([_runs, _evaluation, _optimizer, _batch], study, whole, ())
    if problems:
        raise ConfigurationError(dict.fromkeys(problems))
    return Loaded(study, whole)


def written(study: Study) -> str:
    """The whole study as YAML; `load` reads it back."""
    own = resolved_values(study.settings)
    return dump({**own, RUN: resolved_values(study.run)})


def _without(tree: Tree, key: str) -> Tree:
    if not tree.is_mapping:
        return tree
    return attrs.evolve(tree, value={k: each for k, each in tree.value.items() if k != key})


def _run_tree(typed: Tree, problems: list[Problem]) -> Tree:
    """The run's sections, with a method and the folder of the study."""
    own = typed.value[RUN]
    if own.named:
        # A file's name, with sections laid over it or under it.
        items = own.value.items()
        sections = {FILES if key == "name" else key: each for key, each in items}
        own = attrs.evolve(own, value=sections, named=False)
    named = own.value.get(FILES) if own.is_mapping else own
    absent = named is None or (own.is_mapping and named.value is None)
    found = [] if absent else [_files(named, problems)]
    if own.is_mapping:
        found.append(_without(own, FILES))
    methods = typed.value.get("methods")
    if methods is not None and methods.is_mapping and methods.value:
        # What a file says of a method is not of this one.
        found = [_without(each, "method") for each in found]
        found.append(Tree({"method": next(iter(methods.value.values()))}, methods.origin))
    folder = typed.value.get("folder", tree_of("study", typed.origin))
    found.append(Tree({"run": Tree({"folder": folder}, folder.origin)}, folder.origin))
    return merge(*found)


def _files(named: Tree, problems: list[Problem]) -> Tree:
    items = named.value if isinstance(named.value, tuple) else (named,)
    texts = [item.value for item in items]
    if not texts or not all(isinstance(text, str) and "=" not in text for text in texts):
        must = "must name a run's YAML file, or several, or be a mapping of a run's sections"
        # What could not be read is reported already.
        if not has_unknown(named):
            problems.append(Problem(RUN, f"{must}, got {plain(named)!r}", named.origin))
        return Tree({}, named.origin, partial=True)
    read = read_arguments(texts, find=preset_or_file)
    problems += [
        each if each.origin else attrs.evolve(each, origin=named.origin) for each in read.problems
    ]
    return read.tree


def _below(problem: Problem) -> Problem:
    return attrs.evolve(problem, path=f"{RUN}.{problem.path}" if problem.path else RUN)


def _answered(
    checks: Sequence[Callable[[Any], _Found]], settings: object, tree: Tree, above: _Path
) -> Iterator[Problem]:
    for check in checks:
        for path, message in run_check(check, settings):
            yield Problem(path_text((*above, *path)), message, origin_of(tree, path))


def _folder(settings: StudySettings) -> _Found:
    place = settings.folder
    if place.exists() and not place.is_dir():
        yield ("folder",), f"is {place}, which is no folder; name another"
    elif occupied(place) and not any((place / name).exists() for name in (CONFIGURATION, CELLS)):
        yield (
            ("folder",),
            f"is {place}, which is not empty and holds no study; name a new folder, or that of a "
            "study to go on with it",
        )


def _reward(run: Settings) -> _Found:
    reward = run.reward
    if reward.target is weighted_reward and reward.arguments.get("calibration") is not None:
        yield (
            ("reward", "calibration"),
            "would measure other scales in every run; remove it, and write `mean` and `std` of "
            "each part as a run's calibration.json has them",
        )


def _evaluation(study: Study) -> _Found:
    training, run = study.settings.training, study.run
    if training is None:
        return
    if run.evaluation is None:
        yield (RUN,), "has no `evaluation`, and training is judged by it; write that section"
        return
    sides = Sides.of(study)
    if not sides.choosing or not sides.judging:
        yield (
            ("training", "selection"),
            f"is {training.selection:g}, which leaves {len(sides.choosing)} held-out prompts to "
            f"choose rates on and {len(sides.judging)} to judge methods on; give a share of about "
            "a half, and more prompts",
        )


def _optimizer(study: Study) -> _Found:
    optimizer, training = study.run.optimizer, study.settings.training
    if training is None:
        return
    kind = type(optimizer)
    name = optimizer.target.__name__ if isinstance(optimizer, OptimizerClass) else kind.__name__
    if isinstance(optimizer, OptimizerClass) and optimizer.finds_rate:
        if training.rates is not None:
            scaled = f", which its `{RATE}` only scales" if optimizer.has_rate else ""
            yield (
                ("training", "rates"),
                f"are {list(training.rates)}, and the optimizer {name} finds its rate "
                f"itself{scaled}; leave `rates` out, and every method runs once from each seed",
            )
        return
    if training.rates is None:
        yield (
            ("training", "rates"),
            f"is missing; give the learning rates at which {name} is tried, a factor of 2 or 3 "
            "apart",
        )
    if not isinstance(optimizer, OptimizerClass) and not (
        attrs.has(kind) and "learning_rate" in attrs.fields_dict(kind)
    ):
        yield (
            (RUN, "optimizer"),
            f"is a {name}, whose rate cannot be changed; make it an attrs class with a field "
            "`learning_rate`",
        )


def _batch(study: Study) -> _Found:
    ascent, samples = study.settings.ascent, study.run.batching.samples
    if ascent is not None and ascent.batch > samples and ascent.batch % samples:
        yield (
            ("ascent", "batch"),
            f"must be a multiple of run.batching.samples, {samples}, or at most that, got "
            f"{ascent.batch}",
        )


def _runs(study: Study) -> _Found:
    """What is wrong with each method's runs, by the checks of a run."""
    training, found = study.settings.training, dict[tuple[_Path, str], None]()
    for label in study.settings.methods:
        cell = Cell(part="ascent", method=label, number=0)
        if training is not None:
            cell = attrs.evolve(cell, rate=study.rates[0], steps=training.steps)
        for check in section_checks(resume=True):
            for path, message in check(study.run_of(cell)):
                # The folder is the study's.
                if path == ("run", "folder"):
                    continue
                own: _Path = ("methods", label) if path[0] == "method" else (RUN, *path)
                found[own, message] = None
    yield from found

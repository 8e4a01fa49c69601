"""From one YAML file to all runs and evaluations; every problem is found before any begins."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from examples.paper.published import METHODS, MODELS, TABLES
from examples.paper.settings import Paper, PaperSettings
from examples.paper.tasks import Row, Task, Training
from flowbp.cli.evaluate.preflight import READING_CHECKS, checked_evaluation, taken_over
from flowbp.config import (
    ConfigurationError,
    Problem,
    Tree,
    merge,
    plain,
    read_file,
    tree_of,
    without_nulls,
)
from flowbp.config.command_line import Arguments, read_arguments
from flowbp.config.partial import Partial
from flowbp.config.structuring import structured
from flowbp.settings import (
    REGISTRIES,
    SCALARS,
    Change,
    Settings,
    changes,
    preset_or_file,
)
from flowbp.settings.loader import checked, problems_of
from flowbp.settings.preflight import reading_checks, section_checks

HERE = Path(__file__).parent


def published_files(model: str, method: str) -> list[str]:
    """What is typed to name the published settings of a run."""
    names = (model, f"{model}/{method}", "hpsv2")
    return [*(f"presets/{name}.yaml" for name in names), str(HERE / "all_weights.yaml")]


def load(
    path: Path,
    *,
    models: Collection[str] = (),
    methods: Collection[str] = (),
    tables: Collection[str] = (),
) -> Paper:
    """Read the user's file and check all that can be checked without weights.

    Of models, methods and tables those are taken that are named, or all that the file has.
    """
    whole = without_nulls(read_file(path), "models")
    settings, wrong = structured(PaperSettings, whole, registries=REGISTRIES, scalars=SCALARS)
    problems = list(wrong)
    problems += _absent(whole, "models", models)
    problems += _absent(whole, "", tables)
    loader = _Loader(whole, settings)
    for model in MODELS:
        if _has(whole, "models", model) and (not models or model in models):
            loader.add(
                model,
                [each for each in METHODS if not methods or each in methods],
                [t for t in TABLES if _has(whole, t) and (not tables or t in tables)],
            )
    problems += loader.problems
    if problems or isinstance(settings, Partial):
        raise ConfigurationError(dict.fromkeys(problems))
    tasks = sorted(loader.tasks, key=lambda task: task.phase)
    return Paper(settings=settings, tasks=tuple(tasks), files=loader.files, changed=loader.changed)


class _Loader:
    """Collects tasks and problems, model by model."""

    def __init__(self, whole: Tree, settings: PaperSettings | Partial) -> None:
        self.whole = whole
        sound = not isinstance(settings, Partial)
        # What is wrong with them is reported already.
        self.folder = settings.folder if sound else Path("paper")
        self.gpus = settings.gpus if sound else 1
        self.tasks: list[Task] = []
        self.problems: list[Problem] = []
        self.files: dict[Path, Any] = {}
        self.changed: dict[str, dict[Change, tuple[str, ...]]] = {}

    def add(self, model: str, methods: Iterable[str], tables: Iterable[str]) -> None:
        """Add the runs and the rows of a model."""
        backbone = Tree({"backbone": _section(self.whole, "models", model)}, self.whole.origin)
        own = merge(_section(self.whole, "run"), backbone)
        file = self.folder / "settings" / f"{model}.yaml"
        self.files[file] = plain(own)
        # What reads files is the same for all runs of a model.
        checks = (*section_checks(resume=True), *reading_checks())
        trainings, changed = [], dict[str, Sequence[Change]]()
        for method in methods:
            typed = published_files(model, method)
            read = read_arguments(typed, find=preset_or_file)
            changed[method] = _changed(read.tree, own)
            tree = merge(read.tree, own, self._placed("run", model, method))
            try:
                run = checked(Settings, Arguments(tree, read.problems), checks).settings
                trainings.append(Training(model, method, run, (*typed, str(file)), self.gpus))
                self.problems += _batch(trainings[-1])
            except ConfigurationError as error:
                self.problems += [_of_run(each, model) for each in error.problems]
            checks = section_checks(resume=True)
        self.changed[model] = _by_methods(changed)
        self.tasks += trainings
        for table in tables:
            self._add_table(model, table, taken_over(tree), trainings)

    def _add_table(self, model: str, table: str, below: Tree, runs: Sequence[Training]) -> None:
        own = merge(below, read_file(HERE / f"{table}.yaml"), _section(self.whole, table))
        file = self.folder / "settings" / f"{model}-{table}.yaml"
        # Metrics are the same for all models, whose own files a run's checks read.
        first = not any(isinstance(task, Row) and task.table == table for task in self.tasks)
        also = READING_CHECKS if first else ()
        self.files[file] = plain(own)
        self.changed[model] |= dict.fromkeys(_resampled(below, own, table), ())
        typed = Arguments(merge(own, self._placed("evaluation", model, table)))
        try:
            loaded = checked_evaluation(typed, resume=True, also=also)
        except ConfigurationError as error:
            self.problems += _of_table(error.problems, table)
            return
        self.problems += _of_table(problems_of(also, loaded.settings, loaded.tree), table)
        row = partial(Row, model, table, loaded.settings, file)
        self.tasks += [row(None), *map(row, runs)]

    def _placed(self, section: str, *names: str) -> Tree:
        return tree_of({section: {"folder": str(self.folder.joinpath(*names))}}, self.whole.origin)


def _absent(whole: Tree, section: str, wanted: Iterable[str]) -> Iterator[Problem]:
    for name in wanted:
        if not _has(whole, *filter(None, (section, name))):
            path = f"{section}.{name}" if section else name
            yield Problem(path, "is asked for, and the file has no such section", whole.origin)


def _has(whole: Tree, *path: str) -> bool:
    *above, key = path
    section = _section(whole, *above)
    return key in section.value and section.value[key].value is not None


def _section(whole: Tree, *path: str) -> Tree:
    for key in path:
        there = whole.is_mapping and key in whole.value
        whole = whole.value[key] if there else Tree({}, whole.origin)
    return whole if whole.is_mapping else Tree({}, whole.origin)


def _batch(training: Training) -> Iterator[Problem]:
    try:
        training.settings.batching.total(training.gpus)
    except ValueError as error:
        yield Problem("gpus", f"is {training.gpus}, and of {training.name} {error}", "")


def _changed(published: Tree, own: Tree) -> Sequence[Change]:
    before, now = plain(published), plain(merge(published, own))
    return [
        each
        for each in changes(before, now)
        if not each.allowed and not each.key.startswith(("prompts", "backbone.source"))
    ]


def _by_methods(changed: Mapping[str, Sequence[Change]]) -> dict[Change, tuple[str, ...]]:
    """Each change with its methods, which are none if it is one of all."""
    found = dict.fromkeys(each for own in changed.values() for each in own)
    methods = {each: tuple(m for m, own in changed.items() if each in own) for each in found}
    return {each: () if len(own) == len(changed) else own for each, own in methods.items()}


def _resampled(run: Tree, own: Tree, table: str) -> Iterator[Change]:
    """How a table's pictures are sampled otherwise than in training."""
    sections = ("backbone", "sampling")
    before, now = ({s: plain(_section(each, s)) for s in sections} for each in (run, own))
    for each in changes(before, now):
        if each.key not in ("backbone.source", "sampling.batch", "sampling.decode"):
            yield attrs.evolve(each, key=f"{table}.{each.key}")


def _of_run(problem: Problem, model: str) -> Problem:
    section, _, rest = problem.path.partition(".")
    if section == "backbone":
        return attrs.evolve(problem, path=f"models.{model}{'.' if rest else ''}{rest}")
    return _below(problem, "run")


def _of_table(problems: Iterable[Problem], table: str) -> Iterator[Problem]:
    for each in problems:
        # The rest is the run's, which reports it.
        if not each.path.startswith(("backbone", "sampling", "embeddings")):
            yield _below(each, table)


def _below(problem: Problem, section: str) -> Problem:
    return attrs.evolve(problem, path=f"{section}.{problem.path}" if problem.path else section)

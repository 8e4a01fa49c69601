"""From files, presets and overrides to checked settings, and back to YAML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs

from flowbp.config import ConfigurationError, Problem, Tree, dump, unstructure, without_nulls
from flowbp.config.command_line import Arguments, read_arguments
from flowbp.config.partial import Partial, run_check
from flowbp.config.problems import listed, nearest
from flowbp.config.structuring import structured
from flowbp.config.tree import origin_of, path_text
from flowbp.settings.device import Gpus
from flowbp.settings.preflight import Check, section_checks
from flowbp.settings.registries import REGISTRIES, SCALARS
from flowbp.settings.schema import Settings

SettingsT = TypeVar("SettingsT")
_FOLDER = "presets"


@attrs.frozen(eq=False)
class Loaded(Generic[SettingsT]):
    """Settings together with where each of them was written."""

    settings: SettingsT
    tree: Tree


def load(
    arguments: Sequence[str],
    *,
    resume: bool = False,
    writes: bool = True,
    also: Sequence[Check] = (),
    gpus: Gpus | None = None,
) -> Loaded[Settings]:
    """Read YAML files and overrides, and check all that can be checked without a model.

    With `resume` the run goes on in its folder, which is then not empty. Of several processes one
    `writes`, and checks the folder. The checks of `also` are made later anyway, and here only if
    something is wrong, so that all is reported at once. `gpus` stand for the machine's.
    """
    typed = read_arguments(arguments, find=preset_or_file)
    typed = attrs.evolve(
        typed,
        tree=without_nulls(typed.tree, "evaluation", "metrics"),
        problems=(*typed.problems, *_mixed_presets(typed.files)),
    )
    return checked(Settings, typed, section_checks(resume=resume, writes=writes, gpus=gpus), also)


def checked(
    kind: type[SettingsT], typed: Arguments, checks: Sequence[Check], also: Sequence[Check] = ()
) -> Loaded[SettingsT]:
    """Settings of a kind, each section valid and all together; every problem at once."""
    tree = typed.tree
    settings, wrong = structured(kind, tree, registries=REGISTRIES, scalars=SCALARS)
    problems = [*typed.problems, *wrong, *problems_of(checks, settings, tree)]
    if problems or isinstance(settings, Partial):
        problems += problems_of(also, settings, tree)
        raise ConfigurationError(dict.fromkeys(problems))
    return Loaded(settings, tree)


def problems_of(
    checks: Iterable[Check], settings: object, tree: Tree | None = None
) -> Iterator[Problem]:
    """What checks find, at the key that a message begins with if it names one."""
    for check in checks:
        for path, message in run_check(check, settings):
            subject = re.match(r"`(\w+)` ", message)
            if subject:
                message = message.removeprefix(subject[0])
                path = path if path[-1] == subject[1] else (*path, subject[1])
            origin = "" if tree is None else origin_of(tree, path)
            yield Problem(path_text(path), message, origin)


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


def resolved_values(
    settings: object, *, defaults: bool = True, place: Callable[[str], str] = str
) -> Any:
    """The settings as mappings, lists and scalars, with their defaults.

    Without `defaults` those of backbone, reward and the like are left out, for a summary; `place`
    changes paths, and what may be one.
    """
    return unstructure(
        settings, registries=REGISTRIES, scalars=SCALARS, defaults=defaults, place=place
    )


def resolved(settings: object, *, defaults: bool = True) -> str:
    """The same as YAML; `load` reads it back."""
    return dump(resolved_values(settings, defaults=defaults))


def presets() -> dict[str, Path]:
    """The presets by what is typed to name them: models, their methods, rewards."""
    folder = Path(str(files("flowbp"))) / _FOLDER
    found = sorted(folder.rglob("*.yaml"), key=lambda path: path.with_suffix("").parts)
    return {f"{_FOLDER}/{path.relative_to(folder).as_posix()}": path for path in found}


def preset_or_file(typed: str) -> Path:
    """Where a file is that was typed: in the working folder, or else among the presets."""
    path, there = Path(typed), presets()
    if path.exists() or path.parts[:1] != (_FOLDER,):
        return path
    if path.as_posix() not in there:
        message = (
            f"is no file from here, and no preset. {nearest(path.as_posix(), there)}"
            f"Presets: {listed(there)}"
        )
        raise ConfigurationError([Problem("", message, typed)])
    return there[path.as_posix()]


def _mixed_presets(typed: Iterable[str]) -> Iterator[Problem]:
    """A method's numbers for one model beside the preset of another."""
    there = presets()
    named = [Path(each) for each in typed if Path(each).as_posix() in there]
    models = [path.stem for path in named if _is_model(path, there)]
    for path in named:
        if len(path.parts) == 3 and models and path.parts[1] not in models:
            own = f"{_FOLDER}/{models[0]}/{path.name}"
            cure = f"take {own}" if own in there else f"write method={{name: {path.stem}}}"
            message = f"has the numbers for {path.parts[1]}, and the model is {models[0]}; {cure}"
            yield Problem("", message, path.as_posix())


def _is_model(preset: Path, there: Mapping[str, Path]) -> bool:
    """Whether a preset names a model, and not a method's numbers or a reward."""
    text = there[preset.as_posix()].read_text(encoding="utf-8")
    return len(preset.parts) == 2 and "\nbackbone:" in text


def preset_listing() -> str:
    """The presets and what each of them is, a line each."""
    there = presets()
    width = max(map(len, there))
    return "\n".join(f"{name:<{width}}  {subject(path)}" for name, path in there.items())


def subject(path: Path) -> str:
    """What a preset is, in its first line."""
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")

"""Words to a model, a method and a reward, and the configuration of these."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import PurePath
from typing import Any

import attrs
import jinja2

from flowbp.config import Component, ConfigurationError, Problem, plain, read_file, tree_of
from flowbp.config.arguments import parameters
from flowbp.config.problems import listed, nearest, shown
from flowbp.config.structuring import structured
from flowbp.core import Method
from flowbp.extras import install
from flowbp.rewards import Reward
from flowbp.settings import REGISTRIES, SCALARS, presets
from flowbp.settings.loader import subject
from flowbp.settings.registries import REWARDS

EMBEDDED = "shapes"
_METHODS = next(registry for registry in REGISTRIES if registry.kind == "method")
_DEFAULT_METHOD, _PUBLISHED_REWARD = "bridge", "hpsv2"
# What the embedded model's ten steps call for instead of a method's defaults.
_KEYS: Mapping[str, Mapping[str, int]] = {
    "bridge": {"active": 4},
    "refl": {"last": 4},
    "sparse": {"active": 4},
}
_PROMPTS = ("prompts.txt", "held_out.txt")


def models() -> tuple[str, ...]:
    """The models that there is a configuration for: the embedded one, and those of presets."""
    return (EMBEDDED, *_preset_models())


def _preset_models() -> dict[str, Mapping[str, Any]]:
    """The trees of the presets of models, by model."""
    found = {}
    for name, path in presets().items():
        if len(PurePath(name).parts) == 2:
            tree = plain(read_file(path))
            if "backbone" in tree:
                found[path.stem] = tree
    return found


def methods() -> tuple[str, ...]:
    """The methods that can do without keys of their own."""
    return tuple(name for name in _METHODS.own_names() if not _needs("method", name))


def rewards() -> tuple[str, ...]:
    """The rewards that can, but for the embedded model's, which comes with it."""
    names = (name for name in REWARDS.own_names() if name != EMBEDDED)
    return tuple(name for name in names if not _needs("reward", name))


@attrs.frozen
class _Named:
    """Every method and every reward without keys."""

    method: Mapping[str, Method]
    reward: Mapping[str, Component[Reward]]


def _needs(kind: str, name: str) -> list[str]:
    """The keys without which a component cannot be named."""
    return [key for path in _refused() if path[:2] == (kind, name) for key in path[2:3]]


@functools.cache
def _refused() -> list[tuple[str, ...]]:
    named = {registry.kind: registry.own_names() for registry in (_METHODS, REWARDS)}
    tree = tree_of({kind: {name: name for name in names} for kind, names in named.items()}, "")
    _, problems = structured(_Named, tree, registries=REGISTRIES, scalars=SCALARS)
    return [tuple(problem.path.split(".")) for problem in problems]


@attrs.frozen
class StartingPoint:
    """What a first configuration is of."""

    model: str
    method: str
    reward: str

    def configuration(self) -> str:
        """The text of its YAML."""
        if self.model == EMBEDDED:
            return _render("shapes.yaml.j2", self, keys=_KEYS.get(self.method, {}))
        tree = _preset_models()[self.model]
        names = [f"{self.model}.yaml"]
        if "method" not in tree:
            names.append(f"{self.model}/{self.method}.yaml")
        if self.reward == _PUBLISHED_REWARD:
            names.append(f"{_PUBLISHED_REWARD}.yaml")
        of_model = presets()[f"presets/{names[0]}"]
        return _render(
            "published.yaml.j2",
            self,
            files=[f"presets/{name}" for name in names],
            subject=subject(of_model),
            lora=tree["tuning"]["name"] == "lora",
            ours="method" in tree,
            another=self.method if _own_method(tree) not in ("", self.method) else "",
            policy="policy" in parameters(REWARDS.resolve(self.reward)),
            install=install("run,lora"),
        )

    def prompts(self) -> dict[str, str]:
        """The texts of the files that its prompts come from, by name; none if they are made."""
        names = () if self.model == EMBEDDED else _PROMPTS
        return {name: _shipped(name) for name in names}


def _render(template: str, start: StartingPoint, **values: Any) -> str:
    environment = jinja2.Environment(
        trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(_shipped(template)).render(attrs.asdict(start), **values)


def _shipped(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def chosen(words: Sequence[str], *, taken: str = "") -> StartingPoint:
    """The starting point that words name, in any order; what none of them names is the default.

    Raises:
        ConfigurationError: all that is wrong with them, and `taken`.
    """
    kinds = {"model": models(), "method": methods(), "reward": rewards()}
    found = {
        kind: [word for word in dict.fromkeys(words) if word in names]
        for kind, names in kinds.items()
    }
    problems = [taken] if taken else []
    for word in dict.fromkeys(words):
        if not any(word in names for names in kinds.values()):
            problems.append(_unknown(word, kinds))
    for kind, several in found.items():
        if len(several) > 1:
            problems.append(f"{listed(several)} are {kind}s; name one of them")
    model = next(iter(found["model"]), EMBEDDED)
    own = "" if model == EMBEDDED else _own_method(_preset_models()[model])
    method = next(iter(found["method"]), own or _DEFAULT_METHOD)
    if model != EMBEDDED and not own and f"presets/{model}/{method}.yaml" not in presets():
        there = listed(_methods_of(model))
        problems.append(f"`{method}` has no preset for {model}; methods with one: {there}")
    if problems:
        raise ConfigurationError(Problem("", each, "flowbp init") for each in problems)
    default = EMBEDDED if model == EMBEDDED else _PUBLISHED_REWARD
    return StartingPoint(model, method, next(iter(found["reward"]), default))


def _unknown(word: str, kinds: Mapping[str, Iterable[str]]) -> str:
    for registry in (_METHODS, REWARDS):
        if word in registry.own_names():
            keys = listed(_needs(registry.kind, word))
            return (
                f"`{word}` is a {registry.kind} that needs {keys} too; start with another, and "
                f"write `{registry.kind}: {{name: {word}, …}}` into the file then"
            )
    there = "; ".join(f"{kind}s: {listed(names)}" for kind, names in kinds.items())
    near = nearest(word, [name for names in kinds.values() for name in names])
    return f"{shown(word)} is no model, method or reward. {near}{there[0].upper()}{there[1:]}"


def _own_method(tree: Mapping[str, Any]) -> str:
    """The method that a model's preset has itself; empty if each method has a preset of its own."""
    return str(tree.get("method", {}).get("name", ""))


def _methods_of(model: str) -> Iterator[str]:
    for name in presets():
        parts = PurePath(name).with_suffix("").parts
        if len(parts) == 3 and parts[1] == model:
            yield parts[2]

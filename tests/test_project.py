"""What must hold of the package as a whole: imports, layers, docstrings, pinned names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import pydoc
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import torch
import yaml

import flowbp
import flowbp.core
import flowbp.evaluation.metrics
from flowbp import adapters, evaluation, prompts, rewards, training
from flowbp.core import methods
from flowbp.extras import DISTRIBUTION

ROOT = Path(flowbp.__file__).parent

# Each may import from those before it, and from itself.
LAYERS = [
    "validators",
    "core",
    "significant_digits",
    "files",
    "extras",
    "place",
    "hub",
    "source_files",
    "memory_errors",
    "host_memory",
    "rank_errors",
    "component_errors",
    "limits",
    "config",
    "adapters",
    "rewards",
    "shapes",
    "evaluation",
    "training",
    "prompts",
    "settings",
    "cli",
    "study",
    "run",
    "evaluate",
]
# For other projects' tests and ours: it may import the protocols it checks, and nobody imports it.
TESTING = "testing"
CHECKED_PROTOCOLS = {"core", "adapters", "rewards", "evaluation", "training"}
# By which a run calls the components of others.
CALLING = {"component_errors", "config"}
HEAVY = [
    "diffusers",
    "transformers",
    "peft",
    "hypothesis",
    "cattrs",
    "yaml",
    "dependency_injector",
    "jinja2",
    "PIL",
    "tqdm",
    "tensorboard",
    "torchvision",
    "scipy",
]


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def layer_of(path: Path) -> str | None:
    """The folder or module right under `flowbp/`; None for `flowbp/__init__.py`."""
    first = path.relative_to(ROOT).parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, late imports included, as an absolute name."""
    package = ["flowbp", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = [*base, *([node.module] if node.module else [])]
            yield ".".join(module)
            if module == ["flowbp"]:
                yield from (f"flowbp.{alias.name}" for alias in node.names)


def loaded_after(statement: str, names: list[str]) -> list[str]:
    code = f"import sys; {statement}; print([n for n in {names!r} if n in sys.modules])"
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return ast.literal_eval(output.stdout)


@pytest.mark.parametrize(
    "statement",
    ["import flowbp", "import flowbp.core", "import flowbp.core.methods"],
)
def test_importing_the_core_imports_nothing_heavy(statement):
    # What torch itself imports is not ours to count.
    already = loaded_after("import torch", HEAVY)
    assert loaded_after(statement, [name for name in HEAVY if name not in already]) == []


@pytest.mark.parametrize(
    "package",
    [
        "adapters",
        "rewards",
        "evaluation.metrics.geneval",
        "evaluation.metrics",
        "testing",
    ],
)
def test_importing_an_edge_imports_no_model_library(package):
    assert (
        loaded_after(f"import flowbp.{package}", ["diffusers", "transformers", "hypothesis"]) == []
    )


def test_the_core_imports_torch_attrs_the_validators_and_the_standard_library_only():
    allowed = {"torch", "attrs", *sys.stdlib_module_names}
    for path in sorted((ROOT / "core").rglob("*.py")):
        for name in imports(path):
            inside = name.startswith("flowbp.core") or name == "flowbp.validators"
            assert inside or name.partition(".")[0] in allowed, f"{path} imports {name}"


def test_every_part_of_the_package_has_a_layer():
    assert {layer_of(path) for path in sources()} <= {None, TESTING, *LAYERS}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    layer = layer_of(path)
    if layer is None:
        allowed = {"core"}
    elif layer == TESTING:
        allowed = {TESTING, *CHECKED_PROTOCOLS, *CALLING}
    else:
        allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    for name in imports(path):
        parts = name.split(".")
        # What lies beside the package, such as these tests, is not installed with it.
        beside = parts[0] != "flowbp" and (ROOT.parent / parts[0]).is_dir()
        assert not beside, f"{path.relative_to(ROOT)} imports {name}"
        if parts[0] != "flowbp" or len(parts) == 1:
            continue
        assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_annotations_are_postponed_everywhere(path):
    tree = ast.parse(path.read_text())
    reexports = all(isinstance(node, ast.Expr | ast.ImportFrom | ast.Assign) for node in tree.body)
    wanted = "from __future__ import annotations"
    assert reexports or wanted in path.read_text(), f"{path} lacks `{wanted}`"


def identifiers(path: Path) -> Iterator[str]:
    """Names of variables, arguments, fields, functions and classes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


# The random stream of a method's draws is called so: its name is in its seed and in checkpoints.
STREAMS = ROOT / "training" / "randomness.py"


def test_a_surrogate_is_never_called_a_plan():
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        if path != STREAMS
        for name in identifiers(path)
        if {"plan", "plans"} & set(name.lower().split("_"))
    }
    assert not found


def test_every_data_file_is_part_of_what_is_installed():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["flowbp"]
    shipped = {path for pattern in patterns for path in ROOT.glob(pattern)}
    there = {path for path in ROOT.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path for path in there if path.suffix != ".py"} <= shipped


def packages() -> list[ModuleType]:
    """flowbp and every package in it."""
    found = [flowbp]
    for module in pkgutil.walk_packages([str(ROOT)], prefix="flowbp."):
        if module.ispkg:
            found.append(importlib.import_module(module.name))
    return found


def public_names(package: ModuleType) -> list[tuple[str, object]]:
    return [
        (name, value)
        for name, value in ((name, getattr(package, name)) for name in dir(package))
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and name != "annotations"
        and getattr(value, "__module__", "").startswith("flowbp")
    ]


FULLY_DOCUMENTED = ["flowbp", "flowbp.core", "flowbp.core.methods", "flowbp.testing"]
"""Whose exported names have a summary, their arguments and an example (STYLE 14)."""


def written_docstring(name: str, value: object) -> str:
    """The docstring that somebody wrote; empty for what attrs and Protocol put there."""
    own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return "" if own is None or own.startswith(("Method generated", f"{name}(")) else own


def undocumented_methods(value: object) -> list[str]:
    """Those of a protocol, which others implement."""
    if not getattr(value, "_is_protocol", False):
        return []
    return [
        name
        for name, method in vars(value).items()
        if inspect.isfunction(method)
        and (not name.startswith("_") or name == "__call__")
        and not method.__doc__
    ]


def documented(package: ModuleType) -> list[tuple[str, object]]:
    return [
        (name, value)
        for name, value in public_names(package)
        if inspect.isclass(value) or inspect.isroutine(value)
    ]


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_every_exported_name_has_a_docstring(package):
    assert package.__doc__, f"{package.__name__} has no docstring"
    bare = [name for name, value in documented(package) if not written_docstring(name, value)]
    for name, value in documented(package):
        bare += [f"{name}.{method}" for method in undocumented_methods(value)]
    assert not bare, f"{package.__name__} exports without a docstring: {bare}"


RECORDS = {"AnchorTerm", "Pulled", "PipelineCall", "PipelineRequest"}
"""What functions take and return, in whose examples it stands."""


@pytest.mark.parametrize("package", FULLY_DOCUMENTED)
def test_public_names_are_fully_documented(package):
    missing = []
    for name, value in documented(importlib.import_module(package)):
        text = written_docstring(name, value)
        if ">>>" not in text and name not in RECORDS:
            missing.append(f"an example of {name}")
        if getattr(value, "_is_protocol", False):
            continue
        # `Arguments` stands where they are those of another function.
        if inspect.signature(value).parameters and "Arg" not in text:
            missing.append(f"the arguments of {name}")
    assert not missing, f"{package} lacks {missing}"


def test_the_package_exports_what_most_people_need_of_the_core():
    """Generic words, such as `read` and `Linear`, are the core's alone."""
    names = [name for name in flowbp.__all__ if name != "__version__"]
    assert 15 <= len(names) <= 25
    for name in names:
        assert getattr(flowbp, name) is getattr(flowbp.core, name)
    assert set(PINNED_METHODS) <= set(names)
    assert not any(hasattr(flowbp, name) for name in ("read", "Linear", "Target"))


IMPLEMENTED = [
    adapters.Backbone,
    evaluation.Judge,
    evaluation.Metric,
    evaluation.SetMetric,
    evaluation.metrics.Embedding,
    prompts.HeldOutSource,
    rewards.Reward,
    training.Observer,
    training.OptimizerRecipe,
    training.PromptSource,
    training.Schedule,
]


@pytest.mark.parametrize("protocol", IMPLEMENTED, ids=lambda each: each.__name__)
def test_a_protocol_that_others_implement_shows_how(protocol):
    assert ">>> " in protocol.__doc__


@pytest.mark.parametrize("package", FULLY_DOCUMENTED)
def test_help_shows_every_exported_name(package):
    module = importlib.import_module(package)
    assert {name for name, _ in public_names(module)} <= set(module.__all__)
    text = pydoc.plain(pydoc.render_doc(module))
    missing = [each for each in module.__all__ if not each.startswith("_") and each not in text]
    assert not missing and len(set(module.__all__)) == len(module.__all__)


def test_the_version_is_that_of_the_project():
    """Setuptools reads it from the package; what else names it is held here."""
    version = flowbp.__version__
    assert f"\n## {version}\n" in (ROOT.parent / "CHANGELOG.md").read_text()
    citation = yaml.safe_load((ROOT.parent / "CITATION.cff").read_text())
    assert citation["version"] == version and citation["license"] == "Apache-2.0"


def test_the_distribution_is_called_alike_everywhere():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    pages = [*(ROOT.parent / "docs").glob("*.md"), ROOT.parent / "README.md", *sources()]
    for path in (*pages, ROOT.parent / "pyproject.toml"):
        wrong = re.search(r"flowbp\[[a-z]", path.read_text())
        assert not wrong, f"{path} has {wrong}, and pip installs {DISTRIBUTION}"


def parameters(function: object) -> dict[str, object]:
    """Names to defaults; `...` where there is none. Pair draws compare by value."""
    found = inspect.signature(function).parameters.values()
    return {p.name: ... if p.default is inspect.Parameter.empty else p.default for p in found}


PINNED_METHODS = {
    "ReFL": {"last": 11},
    "DRaFTLV": {"noised": 2},
    "DRTune": {"active": 3, "stop_ratio": 0.4},
    "DRaFT": {"last": 1},
    "LeapAlign": {"alpha": 0.3, "tau": 0.1},
    "Sparse": {"active": 4, "late_bias": 2.0, "rescale": 0.0, "tail": 1.0},
    "Bridge": {"active": 5, "late_bias": 2.0, "rescale": 0.0, "alpha": 0.5, "tail": 1.0},
    "Lagrange": {
        "order": 3,
        "active": 2,
        "support_scale": 0.25,
        "alpha": 0.1,
        "tau": 0.2,
        "rescale": 0.0,
        "tail": 1.0,
    },
}


@pytest.mark.parametrize("name", sorted(PINNED_METHODS))
def test_pinned_methods_and_their_defaults(name):
    kind, defaults = getattr(methods, name), dict(PINNED_METHODS[name])
    method = kind()
    drawn = attrs.asdict(method, recurse=False)
    if "pair" in drawn:
        defaults["pair"] = flowbp.core.UniformPair()
    assert drawn == defaults
    assert kind(**drawn) == method
    assert list(parameters(method.draw)) == ["sigmas", "generator"]
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        method.alpha = 0.5


PINNED_FUNCTIONS = {
    "rollout": {"velocity": ..., "noise": ..., "sigmas": ..., "stop": None, "evaluate": None},
    "Trajectory": {"sigmas": ..., "latents": ..., "velocities": ...},
    "Segment": {"start": ..., "stop": ..., "weights": ..., "active": ...},
    "Surrogate": {
        "segments": ...,
        "alpha": 0.0,
        "reward_input": "sample",
        "residual_floor": None,
        "noised": 0,
    },
    "read": {"surrogate": ..., "trajectory": ...},
    "residuals": {"surrogate": ..., "trajectory": ...},
    "surrogate_vjp": {
        "velocity": ...,
        "params": ...,
        "trajectory": ...,
        "surrogate": ...,
        "cotangent": ...,
    },
    "exact_vjp": {
        "velocity": ...,
        "params": ...,
        "trajectory": ...,
        "cotangent": ...,
        "last": None,
    },
    "sweep": {
        "surrogate": ...,
        "trajectory": ...,
        "cotangent": ...,
        "pull": ...,
        "parameter_cotangent": None,
        "clip": None,
    },
}


@pytest.mark.parametrize("name", sorted(PINNED_FUNCTIONS))
def test_pinned_functions_and_all_their_arguments_in_order(name):
    actual = parameters(getattr(flowbp.core, name))
    assert list(actual.items()) == list(PINNED_FUNCTIONS[name].items())


def test_keyword_only_arguments_stay_so():
    core = flowbp.core
    for function, wanted in [
        (core.rollout, ["stop", "evaluate"]),
        (core.exact_vjp, ["last"]),
        (core.sweep, ["parameter_cotangent", "clip"]),
        (core.read, []),
        (core.residuals, []),
        (core.surrogate_vjp, []),
    ]:
        found = inspect.signature(function).parameters.values()
        assert [each.name for each in found if each.kind is each.KEYWORD_ONLY] == wanted


def test_pinned_values():
    pair = flowbp.core.DirichletPair(end=2.5, gap=6, start=2)
    assert (pair.end, pair.gap, pair.start, pair.cap) == (2.5, 6, 2, None)
    for kind in ("UniformPair", "MidpointPair", "MidpointJPair"):
        assert attrs.fields(getattr(flowbp.core, kind)) == ()
    for rule in ("euler", "lagrange", "uniform", "adams_bashforth"):
        quadrature = importlib.import_module("flowbp.core.quadrature")
        assert getattr(quadrature, rule) is getattr(flowbp.core, rule)
    leap = flowbp.core.Segment(0, 2, weights={0: -1.0}, active={0: 1.0})
    assert flowbp.core.Surrogate((leap,)).horizon == 2
    path = flowbp.core.rollout(lambda x, sigma: -x, torch.ones(1, 2), torch.tensor([1.0, 0.5, 0.0]))
    assert path.steps == 2
    assert path.latents.shape == (3, 1, 2) and path.velocities.shape == (2, 1, 2)
    assert torch.equal(path.sample, path.latents[-1])
    assert torch.equal(path.posterior_mean(1), path.latents[1] - 0.5 * path.velocities[1])


def test_property_tests_have_no_deadline():
    """A slow or busy machine is no failure."""
    from hypothesis import settings

    assert settings.default.deadline is None

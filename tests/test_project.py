"""What must hold of the package as a whole: imports, layers, docstrings, pinned names."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest
import torch

import flowbp
import flowbp.core
from flowbp.core import methods

ROOT = Path(flowbp.__file__).parent

# Each may import from those before it, and from itself.
LAYERS = [
    "core",
    "digits",
    "disk",
    "files",
    "short_memory",
    "components",
    "limits",
    "configuration",
    "adapters",
    "rewards",
    "shapes",
    "embeddings",
    "evaluation",
    "geneval",
    "metrics",
    "training",
    "prompts",
    "settings",
    "container",
    "run",
    "evaluate",
]
# For other projects' tests and ours: it may import the protocols it checks, and nobody imports it.
TESTING = "testing"
CHECKED_PROTOCOLS = {"core", "adapters", "rewards"}
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
    ["flowbp.adapters", "flowbp.rewards", "flowbp.geneval", "flowbp.metrics", "flowbp.testing"],
)
def test_importing_an_edge_imports_no_model_library(package):
    assert loaded_after(f"import {package}", ["diffusers", "transformers", "hypothesis"]) == []


def test_the_core_imports_torch_attrs_and_the_standard_library_only():
    allowed = {"torch", "attrs", *sys.stdlib_module_names}
    for path in sorted((ROOT / "core").rglob("*.py")):
        for name in imports(path):
            inside = name.startswith("flowbp.core")
            assert inside or name.partition(".")[0] in allowed, f"{path} imports {name}"


def test_every_part_of_the_package_has_a_layer():
    assert {layer_of(path) for path in sources()} <= {None, TESTING, *LAYERS}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path):
    layer = layer_of(path)
    if layer is None:
        allowed = {"core"}
    elif layer == TESTING:
        allowed = {TESTING, *CHECKED_PROTOCOLS}
    else:
        allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "flowbp" or len(parts) == 1:
            continue
        assert parts[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_annotations_are_postponed_everywhere(path):
    tree = ast.parse(path.read_text())
    reexports = all(isinstance(node, ast.Expr | ast.ImportFrom) for node in tree.body)
    wanted = "from __future__ import annotations"
    assert reexports or wanted in path.read_text(), f"{path} lacks `{wanted}`"


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


@pytest.mark.parametrize("package", packages(), ids=lambda package: package.__name__)
def test_every_public_name_has_a_docstring(package):
    assert package.__doc__, f"{package.__name__} has no docstring"
    for name, value in public_names(package):
        documented = inspect.isclass(value) or inspect.isroutine(value)
        if not documented:
            continue
        own = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
        # What attrs and Protocol put there when nothing was written.
        generated = own is not None and own.startswith(("Method generated", f"{name}("))
        assert own and not generated, f"{package.__name__}.{name} has no docstring"
        if inspect.isclass(value):
            for member, method in vars(value).items():
                if inspect.isfunction(method) and not member.startswith("_"):
                    assert method.__doc__, f"{name}.{member} has no docstring"


def test_the_package_re_exports_the_core():
    core = {name for name, _ in public_names(flowbp.core)}
    assert core == {name for name, _ in public_names(flowbp)}
    for name in core:
        assert getattr(flowbp, name) is getattr(flowbp.core, name)


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
    "rollout": {"velocity": ..., "noise": ..., "sigmas": ..., "stop": None},
    "Trajectory": {"sigmas": ..., "latents": ..., "velocities": ...},
    "Segment": {"start": ..., "stop": ..., "weights": ..., "active": ...},
    "residuals": {"trajectory": ...},
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
    "sweep": {"trajectory": ..., "cotangent": ..., "pull": ...},
    "read": {"trajectory": ...},
}


@pytest.mark.parametrize("name", sorted(PINNED_FUNCTIONS))
def test_pinned_functions_and_their_arguments(name):
    actual, wanted = parameters(getattr(flowbp.core, name)), PINNED_FUNCTIONS[name]
    assert {key: actual[key] for key in wanted} == wanted
    assert [key for key in actual if key in wanted] == list(wanted)


def test_keyword_only_arguments_stay_so():
    for function, name in [(flowbp.core.rollout, "stop"), (flowbp.core.exact_vjp, "last")]:
        assert inspect.signature(function).parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_pinned_values():
    pair = flowbp.core.DirichletPair(end=2.5, gap=6, start=2)
    assert (pair.end, pair.gap, pair.start, pair.cap) == (2.5, 6, 2, None)
    for kind in ("UniformPair", "MidpointPair", "MidpointJPair"):
        assert attrs.fields(getattr(flowbp.core, kind)) == ()
    for rule in ("euler", "lagrange", "uniform", "adams_bashforth"):
        quadrature = importlib.import_module("flowbp.core.quadrature")
        assert getattr(quadrature, rule) is getattr(flowbp.core, rule)
    surrogate = parameters(flowbp.core.Surrogate)
    assert list(surrogate)[:3] == ["segments", "alpha", "reward_input"]
    assert surrogate["reward_input"] == "sample"
    path = flowbp.core.rollout(lambda x, sigma: -x, torch.ones(1, 2), torch.tensor([1.0, 0.5, 0.0]))
    assert path.steps == 2
    assert path.latents.shape == (3, 1, 2) and path.velocities.shape == (2, 1, 2)
    assert torch.equal(path.sample, path.latents[-1])
    assert torch.equal(path.posterior_mean(1), path.latents[1] - 0.5 * path.velocities[1])


def test_property_tests_have_no_deadline():
    """A slow or busy machine is no failure."""
    from hypothesis import settings

    assert settings.default.deadline is None

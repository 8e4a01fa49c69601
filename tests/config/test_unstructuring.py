"""The resolved configuration as text, and back."""

from __future__ import annotations

import pytest

from flowbp.config import dump, read_text, structure, unstructure

from .widgets import HERE, METHODS, REGISTRIES, SCALARS, Run

SMALL = "training: {steps: 3}\nmethod: {name: bridge}\n"
FULL = f"""
training: {{steps: 3, optimizer: {{learning_rate: 1e-5}}}}
method: {{name: bridge, pair: {{name: dirichlet, end: 2.5, gap: 6}}}}
engine: {{name: loud, source: "1e-5", pair: {{name: uniform}}}}
methods: [{{name: "{HERE}:Lagrange"}}, {{name: bridge}}]
rule: {{name: halve}}
colour: blue
folder: a/b
weights: {{b: 1, a: 2}}
ratio: 2/3
seed: "7"
extra: [{{x: null}}]
"""


def load(text: str) -> Run:
    tree = read_text(text, "run.yaml")
    return structure(Run, tree, registries=REGISTRIES, scalars=SCALARS)


def written_of(run: Run) -> str:
    return dump(unstructure(run, registries=REGISTRIES, scalars=SCALARS))


@pytest.mark.parametrize("text", [SMALL, FULL, FULL.replace("loud", "any")])
def test_round_trip(text: str) -> None:
    run = load(text)
    written = written_of(run)
    assert load(written) == run
    assert written_of(load(written)) == written


def test_defaults_are_written_in_the_order_of_the_fields() -> None:
    written = written_of(load(SMALL))
    assert written.startswith(
        "training:\n  steps: 3\n  optimizer:\n    learning_rate: 0.001\n    betas:\n"
        "    - 0.9\n    - 0.999\nmethod:\n  name: bridge\n  active: 5\n  alpha: 0.5\n"
        "  pair:\n    name: uniform\nengine: null\n"
    )


def test_a_component_made_in_python_without_a_name_is_refused() -> None:
    class Local:
        pass

    with pytest.raises(ValueError, match="is not a dotted path"):
        METHODS.name_of(Local)

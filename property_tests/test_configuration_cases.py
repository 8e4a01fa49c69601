"""Files that set different keys may be named in any order, whatever their cases."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowbp.configuration import Tree, merge, plain, tree_of
from flowbp.configuration.cases import layered
from flowbp.configuration.choosing import choose

NAMES = ["x", "y", "z"]
NOTHING = Tree({}, "command line")


@st.composite
def files(draw: st.DrawFn, count: int = 3) -> list[dict[str, Any]]:
    """Each names its own component, and sets keys of it by the names of all."""
    return [draw(_file(number, count)) for number in range(count)]


@st.composite
def _file(draw: st.DrawFn, number: int, count: int) -> dict[str, Any]:
    keys = st.dictionaries(st.sampled_from("pqr"), st.integers(0, 9), max_size=3)
    component = {"name": draw(st.sampled_from(NAMES)), **draw(keys)}
    deciding = st.sampled_from([f"part{other}.name" for other in range(count)])
    sets = keys.filter(bool).map(lambda values: {f"part{number}": values})
    inner = st.dictionaries(deciding, st.dictionaries(st.sampled_from(NAMES), sets, min_size=1))
    block = draw(inner.map(lambda cases: {key: case for key, case in cases.items() if case}))
    return {f"part{number}": component} | ({"by": block} if block else {})


def together(given_files: list[dict[str, Any]]) -> Any:
    return plain(merge(*choose([layered(tree_of(each, "test")) for each in given_files], NOTHING)))


@given(files(), st.permutations(range(3)))
def test_the_order_of_independent_files_does_not_matter(
    drawn: list[dict[str, Any]], order: list[int]
) -> None:
    assert together([drawn[number] for number in order]) == together(drawn)


@given(files())
def test_a_key_has_its_value_from_the_last_case_that_holds(drawn: list[dict[str, Any]]) -> None:
    found = together(drawn)
    for number, file in enumerate(drawn):
        wanted = dict(file[f"part{number}"])
        for key, cases in file.get("by", {}).items():
            name = drawn[int(key[4])][key.partition(".")[0]]["name"]
            wanted |= cases.get(name, {}).get(f"part{number}", {})
        assert found[f"part{number}"] == wanted

"""Random trees survive being written, read and merged."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flowbp.config import Tree, dump, merge, plain, read_text, tree_of

TEXT = st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(
    [
        "1e-5",
        "no",
        "on",
        "~",
        "null",
        "0o7",
        "0x1F",
        "1:30",
        "010",
        ".inf",
        "- a",
        "a: b",
        "#",
        "<<",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=12,
)
MAPPINGS = st.dictionaries(TEXT | st.just("name"), VALUES, max_size=4)


def typed(value: Any) -> Any:
    """A value that tells 1, 1.0 and True apart, and keeps the order of keys."""
    if isinstance(value, dict):
        return [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value), repr(value)


def tree(data: Any) -> Tree:
    return tree_of(data, "test")


@given(VALUES)
def test_reading_inverts_dumping(data: Any) -> None:
    assert typed(plain(read_text(dump(data), "test"))) == typed(data)


@given(MAPPINGS)
def test_merging_a_dumped_tree_changes_nothing(data: Any) -> None:
    again = read_text(dump(data), "test")
    for merged in (
        merge(again),
        merge(again, again),
        merge(tree({}), again),
        merge(again, tree({})),
    ):
        assert typed(plain(merged)) == typed(data)


@given(MAPPINGS, MAPPINGS)
def test_the_later_tree_wins(below: Any, above: Any) -> None:
    merged = plain(merge(tree(below), tree(above)))
    assert typed(plain(merge(tree(merged), tree(above)))) == typed(merged)
    assert set(above) <= set(merged) <= set(above) | set(below)
    for key, value in above.items():
        if not isinstance(value, dict):
            assert typed(merged[key]) == typed(value)

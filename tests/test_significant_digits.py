"""Numbers that people read show significant digits, whatever their size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation.number_format import Unit
from flowbp.evaluation.statistics import Change, Gain
from flowbp.significant_digits import interval, interval_precision, precision, written

FLOATS = st.floats(-1e300, 1e300)


def read(text: str) -> float:
    return float(text.replace("−", "-"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5208, "0.521"),
        (0.004123, "0.00412"),
        (1e-7, "1.00e−7"),
        (-1e-7, "−1.00e−7"),
        (16.1, "16.1"),
        (12345.0, "12345"),
        (12345678.0, "1.23e7"),
        (9.9996, "10.0"),
        (999999.6, "1.00e6"),
        (-0.0, "0"),
        (5e-324, "5.00e−324"),
        (math.inf, "inf"),
        (-math.inf, "−inf"),
        (math.nan, "nan"),
    ],
)
def test_a_number_keeps_its_digits(value: float, text: str) -> None:
    assert written(value) == text


@given(FLOATS, st.integers(1, 6))
def test_a_number_is_read_back_as_exactly_as_its_digits_say(value: float, digits: int) -> None:
    text = written(value, digits)
    assert math.isclose(read(text), value, rel_tol=0.51 * 10.0 ** (1 - digits), abs_tol=5e-324)
    assert (read(text) == 0) == (value == 0) and "-" not in text


@given(FLOATS, st.lists(FLOATS, min_size=2, max_size=2).map(sorted))
def test_an_estimate_shares_its_precision_with_its_ends(mean: float, ends: list[float]) -> None:
    low, high = ends
    shared = interval_precision(mean, low, high)
    texts = [shared.signed(value) for value in (mean, low, high)]
    assert interval(mean, low, high) == f"{texts[0]} [{texts[1]}, {texts[2]}]"
    # As many places in all of them.
    assert len({len(text.split("e")[0].partition(".")[2]) for text in texts}) == 1
    for text in texts:
        assert text[0] in "+−" or read(text) == 0
    if any((mean, low, high)):
        assert any(read(text) != 0 for text in texts)


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        ((0.0531, 0.0408, 0.0659), "+0.053 [+0.041, +0.066]"),
        ((0.0, 0.0, 0.0), "0 [0, 0]"),
        # What rounded to +0.000 [−0.000, +0.000].
        ((0.0002, -0.0001, 0.0004), "+0.00020 [−0.00010, +0.00040]"),
        ((2e-7, -1.5e-8, 4.1e-7), "+2.0e−7 [−0.2e−7, +4.1e−7]"),
        # Small beside its interval, but not nothing.
        ((0.0003, -0.014, 0.0155), "+0.00030 [−0.01400, +0.01550]"),
        ((1e-12, -0.5, 0.5), "0.0 [−0.5, +0.5]"),
        ((2.1e-7, -1.27e-6, 2.25e-6), "+2.1e−7 [−12.7e−7, +22.5e−7]"),
        ((-140.0, -190.0, -95.0), "−140 [−190, −95]"),
    ],
)
def test_intervals(estimate: tuple[float, float, float], text: str) -> None:
    assert interval(*estimate) == text


def test_numbers_without_any_finite_one_have_a_precision() -> None:
    assert precision([math.nan, math.inf]).plain(0.0) == "0" and written(math.nan) == "nan"


@pytest.mark.parametrize(
    ("change", "texts"),
    [
        # A small change of a large figure can be seen in the means.
        (
            Change(0.29134, 0.29155, Gain(0.00021, 0.00011, 0.00032)),
            ("0.29134", "0.29155", "+0.00021 [+0.00011, +0.00032]"),
        ),
        # Rounding alone is no reason for more digits than the means have.
        (
            Change(0.25, 0.25, Gain(1e-9, -1e-9, 2e-9)),
            ("0.2500000", "0.2500000", "+1.0e−9 [−1.0e−9, +2.0e−9]"),
        ),
        (Change(22.5, 23.0, Gain(0.5, 0.5, 0.5)), ("22.500", "23.000", "+0.500 [+0.500, +0.500]")),
        (Change(0.0, 0.0, Gain(0.0, 0.0, 0.0)), ("0", "0", "0 [0, 0]")),
    ],
)
def test_a_change_can_be_seen_in_its_means(change: Change, texts: tuple[str, str, str]) -> None:
    found = Unit().change(change)
    assert (found.before, found.after, found.interval) == texts


def test_shares_stay_percent_and_a_zero_has_no_sign() -> None:
    found = Unit(percent=True).change(Change(0.5, 0.4999, Gain(-0.0001, -0.02, 0.02)))
    assert (found.before, found.after) == ("50.0 %", "50.0 %")
    assert found.interval == "0.0 [−2.0, +2.0]"

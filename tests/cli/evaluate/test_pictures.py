"""Reading ahead and writing behind change when files are read and written, never what."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.cli.evaluate.pictures import (
    ReadAhead,
    Shot,
    read_picture,
    shots_by_seed,
    write_picture,
    written_behind,
)
from flowbp.evaluation import HeldOutPrompt


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(0, 12))
def test_any_order_gives_what_was_asked_for(order, window):
    with ThreadPoolExecutor(3) as pool:
        items = ReadAhead(10, lambda number: number * 10, pool, window)
        assert [items[number] for number in order] == [number * 10 for number in order]
        assert len(items._begun) <= window


@given(st.slices(5), st.integers(-5, 4))
def test_it_is_indexed_as_a_list(chosen, number):
    with ThreadPoolExecutor(2) as pool:
        items = ReadAhead(5, str, pool, window=2)
        assert items[chosen] == [*map(str, range(5))][chosen]
        assert items[number] == str(range(5)[number])
        with pytest.raises(TypeError):
            items["1"]


def test_the_next_are_read_while_one_is_used():
    begun = threading.Event()

    def read(number):
        if number == 1:
            begun.set()
        return number

    with ThreadPoolExecutor(2) as pool:
        items = ReadAhead(3, read, pool, window=1)
        assert items[0] == 0
        assert begun.wait(10)


def test_what_reading_raises_is_raised_where_the_item_is_asked_for():
    with ThreadPoolExecutor(2) as pool:
        items = ReadAhead(3, lambda number: 1 // (number - 1), pool, window=2)
        assert items[0] == -1
        with pytest.raises(ZeroDivisionError):
            items[1]
        with pytest.raises(IndexError, match=r"must be in \[-3, 2\], got 3"):
            items[3]


def test_writing_goes_on_while_the_next_are_made_and_is_complete_at_the_end():
    may, written = threading.Event(), []

    def write(number):
        assert may.wait(10)
        written.append(number)

    with written_behind(write) as begin:
        begin([(0,), (1,)])
        assert not written
        may.set()
        begin([(2,)])
        assert sorted(written)[:2] == [0, 1]
    assert sorted(written) == [0, 1, 2]


def test_a_file_that_cannot_be_written_is_told():
    def write(number):
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"), written_behind(write) as begin:
        begin([(0,)])


def test_a_picture_is_read_back_by_its_place(tmp_path):
    shot = Shot("base", 3, 0, HeldOutPrompt("a circle"))
    assert shot.path(tmp_path).relative_to(tmp_path).as_posix() == "images/base/00003-0.png"
    assert read_picture(tmp_path, shot) is None
    write_picture(tmp_path, shot, torch.ones(3, 8, 8))
    assert torch.equal(read_picture(tmp_path, shot), torch.ones(3, 8, 8))


def test_the_shots_of_a_model_come_seed_by_seed():
    prompts = [HeldOutPrompt("a"), HeldOutPrompt("b")]
    found = [[(s.number, s.seed) for s in shots] for shots in shots_by_seed("m", prompts, (3, 4))]
    assert found == [[(0, 3), (1, 3)], [(0, 4), (1, 4)]]

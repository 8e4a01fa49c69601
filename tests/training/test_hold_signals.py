from __future__ import annotations

import os
import signal
import threading

import pytest

from flowbp.training.hold_signals import uninterrupted


def test_interrupt_waits_for_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("whole")
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_failing_block_does_not_lose_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        raise RuntimeError("block")
    assert isinstance(caught.value.__context__, RuntimeError)


def test_nested_blocks_deliver_after_the_outer() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
        done.append("outer")
    assert done == ["outer"]


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


def test_termination_waits_like_an_interrupt() -> None:
    done = []
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("whole")
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert done == ["whole"]

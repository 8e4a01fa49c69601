"""Which attention kernel is the fastest of those that agree with float32, measured once a shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from flowbp.adapters.attention_trial import AttentionCall, Kernel, Trial
from flowbp.memory_errors import is_out_of_memory

_CLEARLY = 0.95
"""Of the time of an earlier kernel, below which a later one is taken: noise shall not decide."""

_ROUNDS, _CALLS = 3, 4


class Choices:
    """The fastest right kernel for each shape, found when it is first asked for.

    Args:
        kernels: by name; where times are near each other the earlier one is taken.
        exact: names of those whose gradients are the same every time they are computed.
        clock: seconds of a call on a device.
        agree: what all processes take, of a description of the call and this one's name for it.
        say: takes a line about each choice.
        key: of the configuration, which messages name.
        wait: for all that a device has to do; it raises where the device is of no use any more.

    Raises:
        RuntimeError: no kernel agrees with float32, or one has broken the device.
    """

    def __init__(
        self,
        kernels: Mapping[str, Kernel],
        *,
        exact: tuple[str, ...] = (),
        clock: Callable[[Callable[[], Any], torch.device], float] | None = None,
        agree: Callable[[str, str], str] = lambda call, name: name,
        say: Callable[[str], None] = lambda line: None,
        key: str = "run.attention",
        wait: Callable[[torch.device], None] | None = None,
    ) -> None:
        self.kernels, self.exact, self.clock = kernels, exact, clock or seconds
        self.agree, self.say, self.key = agree, say, key
        self.wait = wait or waited
        self._found: dict[AttentionCall, str] = {}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Context at whose end `agree`, `say` and `key` are what they were: those of a run end."""
        before = self.agree, self.say, self.key
        try:
            yield
        finally:
            self.agree, self.say, self.key = before

    def of(self, call: AttentionCall) -> str:
        """The name of the kernel for a call."""
        if call not in self._found:
            self._found[call] = _apart(lambda: self._chosen(call))
        return self._found[call]

    def _chosen(self, call: AttentionCall) -> str:
        trial = Trial(call)
        times: dict[str, float] = {}
        faults: dict[str, str] = {}
        for name, kernel in self.kernels.items():
            if call.deterministic and name not in self.exact:
                faults[name] = "not deterministic"
                continue
            try:
                fault = trial.fault(kernel)
                if fault:
                    faults[name] = fault
                else:
                    times[name] = self.clock(lambda kernel=kernel: trial.run(kernel), call.device)  # type: ignore[misc]
            # A kernel of others may raise anything.
            except Exception as error:
                # Without memory smaller portions are tried, which have shapes of their own.
                if is_out_of_memory(error):
                    raise
                self._check_device(name, call, error)
                faults[name] = f"fails ({_text(error)[:60]})"
        if not times:
            told = "; ".join(f"{name} {fault}" for name, fault in faults.items())
            raise RuntimeError(
                f"`{self.key}` is auto, and no kernel agrees with float32 on {call}: {told}; "
                f"write {self.key}=native for torch's own choice"
            )
        found = _fastest(times)
        agreed = self.agree(str(call), found)
        if agreed in times:
            found = agreed
        self.say(_line(call, found, times, faults))
        return found

    def _check_device(self, name: str, call: AttentionCall, error: Exception) -> None:
        """Refuse to go on where a failure has left a device on which every kernel would fail."""
        try:
            self.wait(call.device)
        except Exception as broken:
            others = " or ".join(other for other in self.kernels if other != name)
            raise RuntimeError(
                f"`{self.key}` is auto, and the kernel {name} has broken {call.device}, on which "
                f"nothing runs any more ({_text(broken)}), on {call}; start again with "
                f"{self.key}={others}"
            ) from error


def _text(error: Exception) -> str:
    """The first line of an error, or its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _fastest(times: Mapping[str, float]) -> str:
    names = iter(times)
    found = next(names)
    for name in names:
        if times[name] < _CLEARLY * times[found]:
            found = name
    return found


def _line(
    call: AttentionCall, found: str, times: Mapping[str, float], faults: Mapping[str, str]
) -> str:
    measured = [f"{name} {1000 * each:.2f} ms" for name, each in times.items()]
    left_out = [f"{name} {fault}" for name, fault in faults.items()]
    return f"attention, {call}: {found} ({', '.join(measured + left_out)})"


def waited(device: torch.device) -> None:
    """Wait until a device has done all that it has to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The time of a call, the shortest of a few rounds."""
    run()
    rounds = []
    for _ in range(_ROUNDS):
        waited(device)
        begun = time.perf_counter()
        for _ in range(_CALLS):
            run()
        waited(device)
        rounds.append((time.perf_counter() - begun) / _CALLS)
    return min(rounds)


def _apart(work: Callable[[], str]) -> str:
    """Do something in a thread of its own.

    A choice may fall while a block is traced, recomputed, counted or transformed: all of these are
    states of the thread, as are autocast and whether gradients are recorded.
    """
    found: list[str] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]

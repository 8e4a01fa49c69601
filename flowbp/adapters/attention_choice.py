"""Which attention kernel is the fastest of those that agree with float32, measured once a shape."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from flowbp.adapters.attention_trial import AttentionCall, Kernel, Trial

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

    Raises:
        RuntimeError: no kernel agrees with float32.
    """

    def __init__(
        self,
        kernels: Mapping[str, Kernel],
        *,
        exact: tuple[str, ...] = (),
        clock: Callable[[Callable[[], Any], torch.device], float] | None = None,
        agree: Callable[[str, str], str] = lambda call, name: name,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.kernels, self.exact, self.clock = kernels, exact, clock or seconds
        self.agree, self.say = agree, say
        self._found: dict[AttentionCall, str] = {}

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
            except torch.OutOfMemoryError:
                # Smaller portions are tried then, which have shapes of their own.
                raise
            except (RuntimeError, NotImplementedError) as error:
                faults[name] = f"fails ({str(error).strip().splitlines()[0][:60]})"
        if not times:
            told = "; ".join(f"{name} {fault}" for name, fault in faults.items())
            raise RuntimeError(
                f"`run.attention` is auto, and no kernel agrees with float32 on {call}: {told}; "
                "write run.attention=native for torch's own choice"
            )
        found = _fastest(times)
        agreed = self.agree(str(call), found)
        if agreed in times:
            found = agreed
        self.say(_line(call, found, times, faults))
        return found


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


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """The time of a call, the shortest of a few rounds."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    run()
    rounds = []
    for _ in range(_ROUNDS):
        wait()
        begun = time.perf_counter()
        for _ in range(_CALLS):
            run()
        wait()
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

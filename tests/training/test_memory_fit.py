"""Portions chosen from free memory, on a device that is made up."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import pytest
import torch

from flowbp.core import DRaFTLV
from flowbp.training import AdamW, Anchor, Batching, ExhaustedError, Portions, Ranks, Streams
from flowbp.training.device_memory import (
    CudaMemory,
    Fit,
    even_size,
    first_fit,
    largest_fit,
    lockstep_fit,
    memory_of,
)
from flowbp.training.memory_fit import fit_portions
from flowbp.training.optimization import state_bytes

from .fakes import PROMPTS, FakeBackbone, gradients, make_step, make_trainer
from .short import DECODE, GIB, PULL, Listener, ShortBackbone, ToyMemory


def chosen(free: int, batching: Batching, *, owed: int = 0, **options: object):
    backbone = ShortBackbone(**options)
    step = make_step(backbone=backbone, batching=batching)
    memory = ToyMemory(backbone, free * GIB)
    return fit_portions(step, PROMPTS[: min(2, batching.total())], memory, owed=owed * GIB)


@pytest.mark.parametrize(
    ("free", "owed", "wish", "batching", "pull", "decode", "on"),
    [
        (100, 0, None, Batching(8), 8, 8, None),
        (61, 0, None, Batching(8), 8, 4, None),
        (34, 0, None, Batching(8), 4, 2, None),
        (34, 0, "auto", Batching(8, 8), 4, 2, False),
        (20, 0, "auto", Batching(8, 8), 8, 1, True),
        (34, 14, "auto", Batching(8, 8), 8, 1, True),
        (20, 0, False, Batching(8, 8), 2, 1, False),
        (20, 0, True, Batching(8, 8), 8, 1, True),
        (20, 0, "auto", Batching(2), 2, 1, False),
        (20, 0, "auto", Batching(8, pull=2), 2, 1, False),
        (20, 0, "auto", Batching(8, pull=6), 6, 1, True),
        (20, 0, "auto", Batching(8, decode=3), 8, 3, True),
        (20, 0, "auto", Batching(1), 1, 1, False),
        (3, 0, "auto", Batching(1), 1, 1, True),
        (0, 0, "auto", Batching(8), 1, 1, True),
    ],
)
def test_what_fits_is_chosen(free, owed, wish, batching, pull, decode, on) -> None:
    portions, told = chosen(free, batching, owed=owed, checkpointing=wish)
    wanted = Portions(samples=batching.samples, pull=pull, decode=decode, checkpointing=on)
    assert portions == wanted
    assert told.startswith(f"{portions}: {free - owed:.1f} GiB free, ")


@pytest.mark.parametrize(
    ("free", "wish", "batching", "pull", "decode", "on", "tried"),
    [
        (100, None, Batching(8), 8, 4, None, [8, 4]),
        (34, None, Batching(8), 4, 2, None, [8, 4, 4, 2]),
        (100, "auto", Batching(12), 6, 4, False, [6, 4]),
        (34, "auto", Batching(8, pull=2), 2, 2, False, [2, 4, 2]),
        (20, "auto", Batching(8), 8, 1, True, [8, 4, 8, 4, 2, 1]),
        (20, "auto", Batching(8, pull=6, decode=3), 6, 3, True, [6, 6]),
        (20, True, Batching(8), 8, 1, True, [8, 4, 2, 1]),
        (3, "auto", Batching(1), 1, 1, True, [1, 1, 1]),
        (0, None, Batching(2), 1, 1, None, [2, 1, 2, 1]),
    ],
)
def test_compiled_code_is_tried_from_above(
    monkeypatch, free, wish, batching, pull, decode, on, tried
) -> None:
    monkeypatch.setattr("flowbp.training.memory_fit.is_compiled", lambda network: True)
    sizes = []

    def fit_and_tell(memory, work, wanted, **options):
        def told(count):
            sizes.append(count)
            work(count)

        return first_fit(memory, told, wanted, **options)

    monkeypatch.setattr("flowbp.training.memory_fit.first_fit", fit_and_tell)
    portions, _ = chosen(free, batching, checkpointing=wish)
    assert portions == Portions(
        samples=batching.samples, pull=pull, decode=decode, checkpointing=on
    )
    assert sizes[::2] == tried and sizes[1::2] == tried


@pytest.mark.parametrize(
    ("limits", "stage", "cure"),
    [
        ({PULL: 0}, "the backward pass", "training a LoRA"),
        ({PULL: 4}, "the backward pass", "set `pull` and `decode` .* for less than 8"),
        ({DECODE: 0}, "decoding and scoring", "a smaller reward"),
        ({DECODE: 2}, "decoding and scoring", "set `pull` and `decode` .* for less than 8"),
    ],
)
def test_what_runs_out_in_lockstep_is_named_with_its_cure(monkeypatch, limits, stage, cure):
    monkeypatch.setattr("flowbp.training.memory_fit.in_lockstep", lambda backbone: True)
    with pytest.raises(ExhaustedError, match=f"out of memory in {stage}.*{cure}"):
        chosen(1000, Batching(8), **limits)


SHORTAGES = [
    torch.OutOfMemoryError(),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("backend='compiled' raised:\nOutOfMemoryError: CUDA out of memory."),
]


def failing_beyond(most: int, error: RuntimeError) -> Callable[[int], int]:
    def work(count: int) -> int:
        if count > most:
            raise error
        return 100 * count

    return work


@pytest.mark.parametrize("error", SHORTAGES)
def test_a_size_that_runs_out_of_memory_while_it_is_tried_is_passed_over(error) -> None:
    toy = type("Toy", (), {"free": lambda self: 1000, "peak": lambda self, work: work()})()
    work = failing_beyond(2, error)
    assert first_fit(toy, work, (8, 4, 2, 1)) == Fit(2, 1000, 100)
    assert first_fit(toy, work, (8, 4)) == Fit(0, 1000, 250)
    assert first_fit(toy, work, (2, 1), owed=880) == Fit(1, 120, 100)
    assert largest_fit(toy, failing_beyond(1, error), 8) == Fit(1, 1000, 100)
    assert largest_fit(toy, failing_beyond(0, error), 8) == Fit(0, 1000, 1000)


def test_another_fault_while_sizes_are_tried_is_not_hidden() -> None:
    toy = type("Toy", (), {"free": lambda self: 1000, "peak": lambda self, work: work()})()
    work = failing_beyond(1, RuntimeError("shapes do not match"))
    for tried in (lambda: largest_fit(toy, work, 8), lambda: first_fit(toy, work, (2, 1))):
        with pytest.raises(RuntimeError, match="shapes do not match"):
            tried()


def test_prompts_that_cannot_be_encoded_are_told_with_their_own_cure(monkeypatch) -> None:
    backbone = FakeBackbone()
    step = make_step(backbone=backbone, batching=Batching(8))

    def encode(prompts):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(backbone, "encode", encode)
    with pytest.raises(ExhaustedError, match=r"encoding the prompts: no room; .*embeddings\.batch"):
        fit_portions(step, PROMPTS[:2], ToyMemory(backbone, 100 * GIB))
    with pytest.raises(ExhaustedError, match=r"encoding the prompts: no room; .*embeddings\.batch"):
        make_step(backbone=backbone)


def test_the_line_of_the_start() -> None:
    _, told = chosen(34, Batching(8), checkpointing="auto")
    wanted = "pull 4, decode 2, gradient checkpointing off: 34.0 GiB free, 5.0 GiB a sample"
    assert told == wanted


def test_the_path_of_the_whole_batch_is_allowed_for() -> None:
    # 13 latents of 2 x 4 x 4 and a code of 3 for each of the batch and its copies, in float64.
    cached = 6 * 64 * (1 + 2) * (13 * 2 * 4 * 4 + 3) * 8
    for spare, pull in ((0, 2), (-1000, 1)):
        backbone = ShortBackbone(decode=1)
        step = make_step(backbone=backbone, batching=Batching(6, 64), method=DRaFTLV(noised=2))
        room = cached + int(2 * 10**6 / 0.9) + 1 + spare
        memory = ToyMemory(backbone, room, fixed=0, each=10**6)
        assert fit_portions(step, PROMPTS[:2], memory)[0].pull == pull


def test_numbers_alone_are_not_tried() -> None:
    backbone = ShortBackbone(checkpointing=False)
    step = make_step(backbone=backbone, batching=Batching(8, pull=8, decode=2))
    portions, told = fit_portions(step, PROMPTS[:2], ToyMemory(backbone, 0))
    assert portions == Portions(samples=8, pull=8, decode=2, checkpointing=False)
    assert told == "" and not any(backbone.calls.values())


def test_what_does_not_fit_while_it_is_tried_is_not_chosen() -> None:
    backbone = ShortBackbone(pull=1, decode=0)
    step = make_step(backbone=backbone, batching=Batching(8))
    portions, _ = fit_portions(step, PROMPTS[:2], ToyMemory(backbone, 1000 * GIB))
    assert (portions.pull, portions.decode) == (1, 1)
    assert backbone.failed == [PULL, DECODE]


def test_fitting_leaves_nothing_behind() -> None:
    backbone = ShortBackbone(dropout=0.5)
    step = make_step(backbone=backbone, batching=Batching(8))
    step = attrs.evolve(step, anchor=Anchor(1.0, backbone.reference()))
    states = torch.get_rng_state()
    fit_portions(step, PROMPTS[:2], ToyMemory(backbone, 50 * GIB))
    assert torch.equal(states, torch.get_rng_state())
    assert all(gradient.abs().max() == 0 for gradient in gradients(step).values())
    assert all(p.grad is None for p in backbone.trainable().values())


def test_a_run_that_fits_is_the_run_in_these_portions() -> None:
    found = []
    for batching in (Batching(8), Batching(8, pull=4, decode=2)):
        backbone, listener = ShortBackbone(dropout=0.2), Listener()
        toy = ToyMemory(backbone, 34 * GIB)
        step = make_step(backbone=backbone, batching=batching)
        trainer = make_trainer(step, observers=[listener], memory=lambda device, toy=toy: toy)
        trainer.run()
        found.append((backbone.state(), listener))
    (state, auto), (expected, typed) = found
    assert all(torch.equal(state[name], each) for name, each in expected.items())
    assert [step for step, _, _ in auto.told] == [1] and typed.told == []
    assert auto.told[0][1] == Portions(samples=8, pull=4, decode=2)
    assert auto.rows == typed.rows


def test_on_the_cpu_nothing_is_tried() -> None:
    backbone, listener = ShortBackbone(checkpointing="auto"), Listener()
    make_trainer(make_step(backbone=backbone), steps=1, observers=[listener]).run()
    assert listener.told == []
    # The rollout of 6 steps, both branches at once, and a pull of the 2 active ones.
    assert list(backbone.calls.values()) == [6, 2, 1] and not backbone.on
    assert memory_of(torch.device("cpu")) is None
    assert memory_of(torch.device("cuda")) == CudaMemory(torch.device("cuda"))


def test_a_run_begins_with_the_checkpointing_that_was_asked_for() -> None:
    for wish in (True, False, "auto"):
        backbone = ShortBackbone(checkpointing=wish)
        backbone.on = wish is not True
        make_trainer(make_step(backbone=backbone), steps=1).run()
        assert backbone.on is (wish is True)


def test_memory_is_what_the_device_and_the_allocator_have(monkeypatch) -> None:
    """Stands in for the device, of which the CPU has none; tests/test_gpu.py has the real one."""
    told = {"mem_get_info": (40, 80), "memory_reserved": 30, "memory_allocated": 20}
    told |= {"max_memory_allocated": 27, "reset_peak_memory_stats": None}
    for name, value in told.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    memory, done = CudaMemory(torch.device("cuda")), []
    assert memory.free() == 40 + 10
    assert memory.peak(lambda: done.append(1)) == 7 and done == [1]


def test_a_line_through_two_peaks() -> None:
    toy = type("Toy", (), {"free": lambda self: 1000, "peak": lambda self, work: work()})()
    assert largest_fit(toy, lambda n: 200 + 100 * n, 99) == Fit(7, 1000, 100)
    assert largest_fit(toy, lambda n: 200 + 100 * n, 99, owed=300) == Fit(4, 700, 100)
    assert largest_fit(toy, lambda n: 200 + 100 * n, 3) == Fit(3, 1000, 100)
    # What does not grow is not divided by.
    assert largest_fit(toy, lambda n: 200, 99) == Fit(99, 1000, 1)
    assert largest_fit(toy, lambda n: 1200, 99).count == 0


class Beside(Ranks):
    """Two processes, of which the other has room for so many samples."""

    def __init__(self, other: int) -> None:
        self.other = other

    def exchange(self, value):
        return [value, self.other]


@pytest.mark.parametrize(
    ("fixed", "each", "sizes", "other", "called", "fit"),
    [
        # 750 of 1000 may be taken. Of 1 sample 300 are known, then of 2 500, of 3 700.
        (100, 200, range(9, 0, -1), 99, [1, 1, 2, 3], Fit(3, 1000, 233)),
        (0, 100, range(9, 0, -1), 99, [1, 1, 7], Fit(7, 1000, 100)),
        (0, 100, range(9, 0, -1), 4, [1, 1, 4], Fit(4, 1000, 100)),
        (0, 100, (8, 4, 2, 1), 99, [1, 1, 4], Fit(4, 1000, 100)),
        (0, 50, (8, 4, 2, 1), 99, [1, 1, 8], Fit(8, 1000, 50)),
        # Even one may take more than is to be left free.
        (500, 400, range(9, 0, -1), 99, [1, 1], Fit(1, 1000, 900)),
        (0, 0, range(9, 0, -1), 99, [1, 1, 9], Fit(9, 1000, 0)),
        (100, 200, [1], 99, [1, 1], Fit(1, 1000, 300)),
        # Too careful: 17 would fit.
        (400, 20, range(9, 0, -1), 99, [1, 1], Fit(1, 1000, 420)),
    ],
)
def test_in_lockstep_only_what_fits_in_proportion_is_tried(
    fixed, each, sizes, other, called, fit
) -> None:
    toy = type("Toy", (), {"free": lambda self: 1000, "peak": lambda self, work: work()})()
    calls = []

    def work(count: int) -> int:
        calls.append(count)
        assert count == 1 or fixed + each * count <= 750
        return fixed + each * count

    assert lockstep_fit(toy, work, sizes, Beside(other)) == fit
    assert calls == called


def test_even_portions() -> None:
    for samples in range(1, 40):
        for largest in range(1, 45):
            size = even_size(largest, samples)
            assert 1 <= size <= min(largest, samples)
            # Never twice as many portions as needed.
            assert -(-samples // size) < 2 * -(-samples // min(largest, samples)) or size == largest


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_the_state_of_an_optimizer_is_measured(kind: torch.dtype) -> None:
    class Momentum:
        learning_rate = 1.0

        def build(self, parameters):
            return torch.optim.SGD(parameters, lr=1.0, momentum=0.9)

    parameter = torch.nn.Parameter(torch.zeros(1000, dtype=kind))
    assert state_bytes(AdamW(), [parameter] * 2) == 4 * 1000 * kind.itemsize
    assert state_bytes(Momentum(), [parameter]) == 1000 * kind.itemsize
    assert torch.equal(parameter, torch.zeros_like(parameter)) and parameter.grad is None


@pytest.mark.parametrize("name", ["pull", "decode"])
def test_a_size_is_a_number_or_auto(name: str) -> None:
    for wrong in ("all", None, 2.0):
        with pytest.raises(ValueError, match=f"`{name}` must be an integer >= 1 or 'auto', got"):
            Batching(samples=2, **{name: wrong})
    assert Batching(samples=2).portions == Portions(samples=2, pull=2, decode=2)


def test_fitted_portions_have_the_gradient_of_the_whole() -> None:
    steps = [
        make_step(backbone=FakeBackbone(), batching=Batching(5), portions=portions)
        for portions in (None, Portions(samples=2, pull=3, decode=1))
    ]
    for step in steps:
        step(PROMPTS, Streams.of(0))
    whole, parts = map(gradients, steps)
    assert all(torch.allclose(parts[name], each, rtol=1e-12) for name, each in whole.items())

"""What one process knows of the others: its place, its part of a batch, sums and exchanges."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from flowbp.core import Bridge, DRaFTLV, SampleClip, renoise, rollout
from flowbp.rank_errors import RankEndedError
from flowbp.settings.device import fault_of_processes
from flowbp.training import ALONE, Anchor, Launch, LaunchError, Ranks, joined
from flowbp.training.distributed import ProcessRanks, _buckets
from flowbp.training.rank_notes import ENDED, FAILED, INTERRUPTED, LOST, Notes, Waiting

from .fakes import FakeBackbone, make_step, make_trainer


class Second(Ranks):
    rank, size = 1, 2


def test_the_environment_is_that_of_torchrun() -> None:
    assert Launch.of({}) == Launch()
    given = {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    assert Launch.of(given) == Launch(2, 4, 0, 2)
    assert Launch.of({"RANK": "1", "WORLD_SIZE": "3"}) == Launch(1, 3, 1, 3)


TWO = {"RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RANK": "1"}, "WORLD_SIZE must be an integer of at least 1, and is not set"),
        ({"WORLD_SIZE": "2"}, "RANK must be an integer of at least 0, and is not set"),
        (TWO | {"RANK": "x"}, "RANK must be .*, and is set to 'x'"),
        (TWO | {"RANK": "2"}, "RANK must be below WORLD_SIZE, got 2 of 2"),
        (TWO | {"RANK": "-1"}, "RANK must be .*, and is set to '-1'"),
        (TWO | {"WORLD_SIZE": "0"}, "WORLD_SIZE must be .*, and is set to '0'"),
        (TWO | {"LOCAL_RANK": "b"}, "LOCAL_RANK must be .*, and is set to 'b'"),
        (
            TWO | {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "1"},
            "LOCAL_RANK must be below LOCAL_WORLD_SIZE, got 1 of 1",
        ),
    ],
)
def test_a_wrong_variable_is_named(environment: dict[str, str], said: str) -> None:
    with pytest.raises(LaunchError, match=f"variable {said}; start with torchrun, or unset both"):
        Launch.of(environment)


@pytest.mark.parametrize(
    ("seen", "local", "visible", "gpu"),
    [(2, 1, None, 1), (1, 1, "1", 0), (1, 1, None, None), (0, 1, None, None)],
)
def test_each_has_a_gpu_of_its_own(monkeypatch, seen, local, visible, gpu) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Launch(local, 2, local, 2).gpu == gpu


UNMET = "connectFullMesh failed: no route to host"


@pytest.mark.parametrize(
    ("failing", "said", "named"),
    [
        ("rendezvous", "timed out after 60 s", ("here.example", "29400", "GLOO_SOCKET_IFNAME")),
        ("init_process_group", UNMET, ("here.example", "29400", "GLOO_SOCKET_IFNAME")),
        ("new_group", UNMET, ("here.example", "29400", "GLOO_SOCKET_IFNAME")),
        ("init_process_group", "NCCL error: Duplicate GPU detected", ("NCCL_DEBUG=INFO",)),
    ],
)
def test_who_cannot_meet_is_told_where(monkeypatch, failing: str, said: str, named) -> None:
    def fail(*given: object, **options: object) -> None:
        raise dist.DistNetworkError(said)

    monkeypatch.setenv("MASTER_ADDR", "here.example")
    monkeypatch.setenv("MASTER_PORT", "29400")
    store = Store({"flowbp/backend/0": "gloo"})
    monkeypatch.setattr(dist, "rendezvous", lambda *given: iter([(store, 1, 2)]))
    monkeypatch.setattr(dist, "init_process_group", lambda *given, **options: None)
    monkeypatch.setattr(dist, failing, fail)
    with pytest.raises(LaunchError, match="rank 1 cannot") as refused, joined(Launch(1, 2, 1, 2)):
        pass
    assert all(each in str(refused.value) for each in (said, *named))


def test_a_process_without_a_gpu_beside_others_is_refused(monkeypatch) -> None:
    store = Store({"flowbp/backend/0": "cpu:gloo,cuda:nccl"})
    monkeypatch.setattr(dist, "rendezvous", lambda *given: iter([(store, 1, 2)]))
    refused = r"rank 1 would meet the others over gloo, and rank 0 over cpu:gloo,cuda:nccl"
    with pytest.raises(LaunchError, match=refused), joined(Launch(1, 2, 1, 2)):
        pass


def test_training_is_there_without_torch_distributed() -> None:
    lines = [
        "import sys, torch.distributed",
        "torch.distributed.is_available = lambda: False",
        "sys.modules['torch.distributed.rendezvous'] = None",
        "from flowbp.training import Launch, LaunchError, joined",
        "with joined(Launch()) as ranks: assert ranks.size == 1",
        "try:",
        "    with joined(Launch(0, 2, 0, 2)): pass",
        "except LaunchError as error: print(error)",
    ]
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60
    )
    assert "built without torch.distributed" in found.stdout, found.stderr


def test_parts_are_equal_and_in_order() -> None:
    assert ALONE.part(3) == slice(0, 3)
    assert Second().part(6) == slice(3, 6)
    with pytest.raises(ValueError, match="multiple of the 2 processes, got 5"):
        Second().part(5)


def test_one_process_joins_nothing_and_calls_nothing_of_others(monkeypatch) -> None:
    def never(*given: object, **named: object) -> None:
        raise AssertionError("one process alone has nobody to talk to")

    for name in ("init_process_group", "all_gather_object", "all_reduce", "new_group"):
        monkeypatch.setattr(dist, name, never)
    backbone = FakeBackbone()
    anchor = Anchor(0.1, backbone.reference())
    with joined(Launch()) as ranks:
        assert ranks is ALONE
        step = make_step(backbone=backbone, ranks=ranks, sample_clip=SampleClip(1.0), anchor=anchor)
        assert step.total == step.batching.total()
        assert make_trainer(step).run() == 4


def test_what_is_drawn_for_a_part_is_that_of_the_whole() -> None:
    method = DRaFTLV(noised=2)
    step = make_step(method=method)
    surrogate = method.draw(step.sigmas, torch.Generator().manual_seed(0))
    x = torch.randn(6, 2, 4, 4, dtype=torch.float64)

    def field(latents, sigma):
        return -latents * sigma

    def copies(samples: slice, **part: int) -> torch.Tensor:
        path = rollout(field, x[samples], step.sigmas)
        source = torch.Generator().manual_seed(1)
        return renoise(surrogate, path, field, source, **part).sample.reshape(3, -1, 2, 4, 4)

    whole = copies(slice(0, 6))
    for first in (0, 2, 4):
        part = slice(first, first + 2)
        assert torch.equal(copies(part, whole=6, first=first), whole[:, part])
    with pytest.raises(ValueError, match=r"`first` must be in \[0, 4\], got 5"):
        copies(slice(0, 2), whole=6, first=5)


def test_a_step_refuses_the_prompts_of_one_part() -> None:
    step = make_step(method=Bridge(active=3), ranks=Second())
    with pytest.raises(ValueError, match="must hold 6 prompts"):
        step(["red"] * 3, None)


def test_a_clip_that_knows_its_own_samples_alone_is_refused() -> None:
    make_step(sample_clip=lambda cotangents: cotangents)
    make_step(sample_clip=SampleClip(), ranks=Second())
    with pytest.raises(ValueError, match="`sample_clip` must take `among`"):
        make_step(sample_clip=lambda cotangents: cotangents, ranks=Second())


def test_buckets_hold_all_gradients_by_kind(monkeypatch) -> None:
    monkeypatch.setattr("flowbp.training.distributed._BUCKET", 10)
    sizes = (4, 4, 4, 30, 1, 9, 2)
    gradients = [torch.zeros(size) for size in sizes] + [torch.zeros(3, dtype=torch.float64)]
    found = [[each.numel() for each in bucket] for bucket in _buckets(gradients)]
    assert found == [[4, 4], [4], [30], [1, 9], [2], [3]]


def test_gradients_are_summed_whatever_their_layout(together) -> None:
    for found in together.run(2, "sums"):
        for gradient, expected in found:
            assert torch.equal(gradient, expected)


def test_nothing_is_allocated_once_all_have_agreed(together) -> None:
    for told in together.run(2, "unallocated"):
        last = len(told) - 1 - told[::-1].index("agreed")
        # Serializing what is exchanged is gloo's own, of a few bytes.
        assert not {"zeros_like", "cat"} & set(told[last:])
        assert "empty" in told[: told.index("agreed")]


@pytest.mark.parametrize(("clip", "within"), [(None, 0), (1.0, 2)])
def test_gradients_are_summed_once_a_step_whatever_the_pulls(together, clip, within) -> None:
    for active in (2, 5):
        for counts in together.run(2, "collectives", steps=3, active=active, clip=clip):
            assert counts["all_reduce"] == 3
            # The weights once; in each step the agreement, the metrics and the norms to clip by.
            assert counts["all_gather_object"] == 1 + 3 * (2 + within)


@pytest.mark.parametrize(
    ("device", "local", "wrong"),
    [
        ("cpu", 2, None),
        ("cuda:0", 2, "is 'cuda:0', which is one device, and torchrun has started 2 processes"),
        ("mps", 2, "train together on cuda or cpu"),
        ("cuda", 3, "where torch sees 2 GPUs; start torchrun with --nproc-per-node 2"),
        ("cuda", 2, None),
    ],
)
def test_devices_that_several_cannot_share_are_refused(
    monkeypatch, device: str, local: int, wrong: str | None
) -> None:
    monkeypatch.setattr("flowbp.settings.device._count", lambda kind: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert not list(fault_of_processes("run", device))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(local))
    found = list(fault_of_processes("run", device))
    assert bool(found) == (wrong is not None)
    for path, message in found:
        assert path == ("run", "device") and wrong in message


class Store(dict):
    """A store as torch's is, in this process."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def get(self, key: str) -> bytes:
        return self[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        assert expected == ""
        return self.setdefault(key, desired).encode()


class Gone(Store):
    """The store of a launcher that has ended."""

    def check(self, keys: list[str]) -> bool:
        raise dist.DistNetworkError("connection refused")

    def set(self, key: str, value: str) -> None:
        self.check([key])

    def compare_set(self, key: str, expected: str, desired: str) -> bytes:
        return bytes(self.check([key]))


def test_the_first_answer_is_that_of_all() -> None:
    store = Store()
    first, second = Notes(store, 1, 2), Notes(store, 0, 2)
    assert first.first_answer("which", "cudnn") == "cudnn"
    assert second.first_answer("which", "flash") == "cudnn"
    assert second.first_answer("another", "flash") == "flash"
    assert Notes(Gone(), 0, 2).first_answer("which", "flash") == "flash"
    assert Ranks().agreed("which", "own") == "own"


def test_all_take_the_kernel_of_the_first_to_choose(together) -> None:
    (first, said), (second, also_said) = together.run(2, "kernels")
    assert first == second in ("one", "other")
    # Each has measured for itself.
    assert "one 1000.00 ms" in said[0] and "one 2000.00 ms" in also_said[0]


def test_an_error_is_the_others_only_where_one_has_ended() -> None:
    error = RuntimeError("NCCL error in: somewhere\nunhandled cuda error")
    assert Notes(Store(), 0, 2).cause_within(0.05, error) is None
    for what, said in ((FAILED, "rank 1 failed"), (LOST, "rank 1 was killed")):
        notes = Notes(Store(), 0, 2)
        notes.write(what, 1)
        found = notes.cause_within(0.05, error)
        assert isinstance(found, RankEndedError) and said in str(found)
        assert str(found).endswith("(NCCL error in: somewhere unhandled cuda error)")
    notes = Notes(Store(), 0, 2)
    notes.write(INTERRUPTED, 1)
    assert isinstance(notes.cause_within(0.05, error), KeyboardInterrupt)


def test_nobody_waits_on_a_device_for_one_that_has_ended() -> None:
    notes, looks = Notes(Store(), 0, 2), iter([False, False, True])
    notes.wait_for(lambda: next(looks), every=60)
    notes.write(LOST, 1)
    with pytest.raises(RankEndedError, match="rank 1 was killed"):
        notes.wait_for(lambda: False, every=0.01)


def test_who_is_waited_for_is_said_once(capsys) -> None:
    store = Store({"flowbp/waiting 1/2": ""})
    with Waiting(Notes(store, 0, 3), after=0.2):
        time.sleep(1)
    assert capsys.readouterr().err == "waiting for rank 1, 0 minutes now\n"
    with Waiting(Notes(store, 1, 3), after=0.2):
        time.sleep(0.5)
    assert capsys.readouterr().err == "" and "flowbp/waiting 1/1" in store


@pytest.mark.parametrize(
    ("error", "noted", "raised"),
    [
        (RuntimeError("[gloo] Connection closed by peer"), LOST, RankEndedError),
        (dist.DistBackendError("NCCL error"), FAILED, RankEndedError),
        (RuntimeError("[gloo] Connection closed by peer"), INTERRUPTED, KeyboardInterrupt),
        (RuntimeError("[gloo] out of sockets"), None, RuntimeError),
        (RuntimeError("shapes differ"), FAILED, RuntimeError),
    ],
)
def test_what_breaks_within_torch_is_the_others_if_one_ended(
    monkeypatch, error, noted, raised
) -> None:
    monkeypatch.setattr("flowbp.training.distributed._ignore_signals", lambda: None)
    monkeypatch.setattr("flowbp.training.distributed._LATE", 0.05)
    ranks = object.__new__(ProcessRanks)
    ranks.rank, ranks.size, ranks.notes = 0, 2, Notes(Store(), 0, 2)
    if noted is not None:
        ranks.notes.write(noted, 1)
    with pytest.raises(raised) as found, ranks.together():
        raise error
    assert type(found.value) is raised


def test_a_loss_is_known_without_a_store() -> None:
    notes = Notes(Gone(), 0, 2)
    assert notes.failure() is None
    notes.write_lost(1)
    assert "rank 1 was killed" in str(notes.failure())


def test_who_has_said_why_is_not_lost() -> None:
    for what in (FAILED, INTERRUPTED, ENDED):
        notes = Notes(Store(), 0, 3)
        notes.write(what, 2)
        notes.write_lost(2)
        assert notes.lowest(LOST) is None

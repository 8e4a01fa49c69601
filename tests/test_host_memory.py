"""Free memory is the least of what the machine and the control groups of a process leave."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowbp import host_memory
from flowbp.host_memory import free_host_memory

MIB = 2**20


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Writes files as Linux has them; 100 MiB are free."""
    monkeypatch.setattr(host_memory, "_PROCESS", tmp_path / "proc")
    monkeypatch.setattr(host_memory, "_GROUPS", tmp_path / "groups")

    def write(name: str, text: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")

    write("proc/meminfo", f"MemTotal: {2**20} kB\nMemAvailable: {100 * 1024} kB")
    return write


def second(machine, group: str, most: object, used: int, cached: int = 0) -> None:
    machine(f"groups/{group}/memory.max", most)
    machine(f"groups/{group}/memory.current", used)
    machine(f"groups/{group}/memory.stat", f"anon 1\ninactive_file {cached}\nactive_file 0")


def test_without_limits_it_is_the_machine_s(machine):
    assert free_host_memory() == 100 * MIB
    machine("proc/self/cgroup", "0::/user/run")
    second(machine, "user/run", "max", 5)
    assert free_host_memory() == 100 * MIB


@pytest.mark.parametrize("limited", ["user/run", "user"])
def test_a_limit_counts_also_that_of_a_group_above(machine, limited):
    machine("proc/self/cgroup", "0::/user/run")
    second(machine, limited, 50 * MIB, 40 * MIB, cached=10 * MIB)
    assert free_host_memory() == 20 * MIB


def test_the_first_version_in_a_container_that_sees_its_own_end_of_the_path(machine):
    machine("proc/self/cgroup", "4:memory:/docker/0f3\n1:cpu:/docker/0f3")
    for name, value in {"limit_in_bytes": 30 * MIB, "usage_in_bytes": 28 * MIB}.items():
        machine(f"groups/memory/memory.{name}", value)
    machine("groups/memory/memory.stat", f"total_inactive_file {MIB}\ntotal_active_file {MIB}")
    assert free_host_memory() == 4 * MIB


def test_more_than_the_limit_in_use_leaves_nothing(machine):
    machine("proc/self/cgroup", "0::/")
    second(machine, "", MIB, 2 * MIB)
    assert free_host_memory() == 0


def test_elsewhere_it_is_not_known(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(host_memory, "_PROCESS", tmp_path)
    assert free_host_memory() is None

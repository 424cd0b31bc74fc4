"""Free memory is what the machine has left, and not more than the container or the job may take."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
import torch
from run_python import run_python

from napari_skipseg import devices
from napari_skipseg.devices import free_memory

MIB = 2**20


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of control groups, empty; `own`, beside it, names those that this process is in."""
    folder = tmp_path / "groups"
    folder.mkdir()
    monkeypatch.setattr(devices, "CONTROL_GROUPS", folder)
    monkeypatch.setattr(devices, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 4000 * MIB}))
    return folder


def write(folder: Path, **texts: str | int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_without_control_groups_it_is_what_the_machine_has_left(groups: Path) -> None:
    assert free_memory("cpu") == 4000 * MIB


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_a_limit_of_the_process_counts_less_what_it_holds(groups: Path) -> None:
    ask = "import resource, psutil, torch; from napari_skipseg.devices import free_memory; held = psutil.Process()"
    limit = "most = held.memory_info().vms + 300 * 2**20; resource.setrlimit(resource.RLIMIT_AS, (most, most))"
    done = run_python(f"{ask}; {limit}; print(free_memory('cpu'))")
    assert 200 * MIB < int(done.stdout) <= 300 * MIB


def test_a_limit_of_version_2_counts_less_what_is_used_but_for_file_pages(groups: Path) -> None:
    (groups.parent / "own").write_text("0::/\n")
    stat = f"anon 5\nactive_file {20 * MIB}\ninactive_file {30 * MIB}\nkernel_stack 7"
    write(groups, max=1000 * MIB, current=300 * MIB, stat=stat)
    assert free_memory("cpu") == 750 * MIB


def test_a_limit_of_version_1_counts_and_other_groups_do_not(groups: Path) -> None:
    (groups.parent / "own").write_text("9:name=systemd:/job\n4:memory:/job\n2:cpu,cpuacct:/other\n0::/\n")
    write(groups / "memory", limit_in_bytes=2**63 - 4096, usage_in_bytes=900 * MIB)
    stat = f"inactive_file 1\ntotal_inactive_file {100 * MIB}\ntotal_active_file 0"
    write(groups / "memory" / "job", limit_in_bytes=600 * MIB, usage_in_bytes=400 * MIB, stat=stat)
    write(groups / "other", limit_in_bytes=1, usage_in_bytes=0)
    assert free_memory("cpu") == 300 * MIB


def test_the_tightest_of_all_groups_above_counts(groups: Path) -> None:
    (groups.parent / "own").write_text("0::/user/session/job\n")
    write(groups / "user" / "session" / "job", max="max", current=10 * MIB)
    write(groups / "user" / "session", max=500 * MIB, current=480 * MIB)
    write(groups / "user", max=900 * MIB, current=490 * MIB)
    assert free_memory("cpu") == 20 * MIB


def test_in_a_container_the_group_may_have_its_name_outside(groups: Path) -> None:
    (groups.parent / "own").write_text("0::/../../docker/1f2e\n")
    write(groups, max=700 * MIB, current=200 * MIB)
    assert free_memory("cpu") == 500 * MIB


def test_a_group_over_its_limit_leaves_nothing(groups: Path) -> None:
    (groups.parent / "own").write_text("0::/\n")
    write(groups, max=100, current=200)
    assert free_memory("cpu") == 0


@pytest.mark.parametrize("text", ["", "nonsense", "0::", ":::::", "4:memory", "\x00\xff"])
def test_what_cannot_be_read_is_no_limit(groups: Path, text: str) -> None:
    (groups.parent / "own").write_text(text, encoding="latin-1")
    write(groups, max="many", current="", stat="active_file\nx y z\n\n")
    (groups / "memory" / "memory.limit_in_bytes").mkdir(parents=True)
    assert free_memory("cpu") == 4000 * MIB


def test_a_gpu_has_what_the_driver_leaves_and_what_torch_keeps_for_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (500 * MIB, 900 * MIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 70 * MIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 30 * MIB)
    assert free_memory("cuda") == 540 * MIB


def test_an_apple_gpu_has_what_metal_recommends_less_what_torch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 500 * MIB)
    for taken, left in ((0, 500), (120, 380), (700, 0)):
        monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda taken=taken: taken * MIB)
        assert free_memory("mps") == left * MIB


def test_here_there_is_some() -> None:
    assert 0 < free_memory("cpu") <= psutil.virtual_memory().total


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_has_some_and_what_torch_keeps_for_later_counts() -> None:
    before = free_memory("cuda")
    block = torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
    taken = free_memory("cuda")
    assert taken <= before - 64 * MIB
    del block
    assert free_memory("cuda") >= taken + 64 * MIB

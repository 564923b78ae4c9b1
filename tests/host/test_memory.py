"""Free memory: of the host by a file of the kernel's, of a GPU by a fake driver's figures."""

from pathlib import Path

import pytest

from llamad.host import memory
from llamad.host.devices import Gpu, Vendor
from llamad.host.memory import free_memory


def test_the_host_has_what_the_kernel_calls_available(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       8000 kB\nMemFree:        10 kB\nMemAvailable:   2048 kB\n")
    assert free_memory("host", meminfo=meminfo) == 2048 * 1024
    meminfo.write_text("MemTotal:       8000 kB\n")
    assert free_memory("host", meminfo=meminfo) is None
    assert free_memory("host", meminfo=tmp_path / "gone") is None


def test_this_host_tells() -> None:
    free = free_memory("host")
    assert free is not None
    assert free > 1 << 20


def a_gpu(index: int, *, total: int | None, used: int | None) -> Gpu:
    return Gpu(Vendor.NVIDIA, index=index, memory_total=total, memory_used=used)


def test_a_gpu_has_what_its_driver_does_not_call_used(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = (a_gpu(0, total=100, used=40), a_gpu(1, total=200, used=50), a_gpu(2, total=None, used=None))
    monkeypatch.setattr(memory, "load_nvml", object)
    monkeypatch.setattr(memory, "nvml_gpus", lambda _: gpus)
    assert [free_memory(index) for index in range(4)] == [60, 150, None, None]
    assert free_memory("GPU-1234") is None


def test_without_a_driver_nobody_can_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "load_nvml", lambda: None)
    assert free_memory(0) is None

"""What a process does with GPUs, by folders that look like /dev and /proc, and a driver's module that is none."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from llamad.host.devices import Choice
from llamad.host.gpu_use import GpuUse, gpu_use

PID = 77


class NvmlError(Exception):
    """What the driver raises."""


def nvml(*uses: int, broken: bool = False) -> SimpleNamespace:
    """A driver with as many GPUs as uses."""

    def rates(index: int) -> SimpleNamespace:
        if broken:
            raise NvmlError
        return SimpleNamespace(gpu=uses[index])

    return SimpleNamespace(
        NVMLError=NvmlError,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetCount=lambda: len(uses),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda index: f"GPU-{index}".encode() if index else f"GPU-{index}",
        nvmlDeviceGetUtilizationRates=rates,
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a driver, whose process 77 holds nothing of a GPU open."""
    for folder in ("dev/dri", f"proc/{PID}/fd", f"proc/{PID}/fdinfo"):
        (tmp_path / folder).mkdir(parents=True)
    holds(tmp_path, "0", "/dev/null")
    monkeypatch.setattr("llamad.host.gpu_use.load_nvml", lambda: None)
    return tmp_path


def holds(machine: Path, fd: str, target: str, info: str | None = "pos:\t0\n") -> None:
    (machine / f"proc/{PID}/fd/{fd}").symlink_to(target)
    if info is not None:
        (machine / f"proc/{PID}/fdinfo/{fd}").write_text(info)


def ask(machine: Path, gpus: Choice = None, pid: int = PID) -> GpuUse:
    return gpu_use(pid, gpus, dev=machine / "dev", proc=machine / "proc")


def test_a_machine_without_a_gpu_has_none_in_use(machine: Path) -> None:
    holds(machine, "9", "/dev/nvidia0")
    assert ask(machine) == GpuUse(held=False)


def test_a_server_that_may_use_none_uses_none(machine: Path) -> None:
    (machine / "dev/nvidia0").touch()
    holds(machine, "9", "/dev/nvidia0")
    assert ask(machine, "none") == GpuUse(held=False)


def test_a_process_that_holds_no_gpu_works_on_the_processor(machine: Path) -> None:
    (machine / "dev/dri/renderD128").touch()
    assert ask(machine) == GpuUse(held=False)


def test_of_a_hidden_process_nobody_knows(machine: Path) -> None:
    (machine / "dev/kfd").touch()
    assert ask(machine, pid=1) == GpuUse()


def test_the_kernel_counts_the_time_of_engines_once_per_client(machine: Path) -> None:
    (machine / "dev/dri/renderD128").touch()
    counted = "drm-driver:\tamdgpu\ndrm-client-id:\t7\ndrm-engine-capacity-gfx:\t2\n" \
        "drm-engine-gfx:\t1500000000 ns\ndrm-engine-compute:\t500000000 ns\n"  # fmt: skip
    for fd in ("8", "9"):
        holds(machine, fd, "/dev/dri/renderD128", counted)
    holds(machine, "10", "/dev/dri/renderD128", None)
    assert ask(machine) == GpuUse(held=True, seconds=2.0)


@pytest.mark.parametrize(
    ("gpus", "percent"), [(None, 90), ("all", 90), ((0,), 5), ((1, 2), 90), (("GPU-2",), 40), (("GPU-9",), None)]
)
def test_the_driver_tells_of_the_gpus_that_the_server_may_use(
    machine: Path, monkeypatch: pytest.MonkeyPatch, gpus: Choice, percent: int | None
) -> None:
    monkeypatch.setattr("llamad.host.gpu_use.load_nvml", lambda: nvml(5, 90, 40))
    (machine / "dev/nvidia0").touch()
    holds(machine, "9", "/dev/nvidia0")
    assert ask(machine, gpus) == GpuUse(held=True, percent=percent)


def test_a_driver_that_does_not_tell_is_no_error(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llamad.host.gpu_use.load_nvml", lambda: nvml(5, broken=True))
    (machine / "dev/nvidia0").touch()
    holds(machine, "9", "/dev/nvidia0")
    assert ask(machine) == GpuUse(held=True)

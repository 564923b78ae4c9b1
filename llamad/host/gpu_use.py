"""Whether a process uses a GPU now: by the devices it holds open, what the kernel counts for it, and NVIDIA's driver.

Drivers of the DRM subsystem (amdgpu, i915, xe, ...) count the time of each engine per open file, in nanoseconds
(`drm-engine-NAME` of /proc/PID/fdinfo: the kernel's drm-usage-stats document). NVIDIA's counts per device only.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from llamad.host.devices import Choice
from llamad.host.files import read_kernel
from llamad.host.nvml import load_nvml

_NODES = ("nvidia[0-9]*", "kfd", "dxg", "dri/renderD*", "accel/*", "nvhost*", "nvmap")
_NAMES = ("/dev/nvidia", "/dev/kfd", "/dev/dxg", "/dev/dri/", "/dev/accel/", "/dev/nvhost", "/dev/nvmap")


@dataclass(frozen=True, slots=True)
class GpuUse:
    """None: nobody tells. `percent` is of the busiest of its GPUs at this moment, whoever uses it; `seconds` the time
    that GPUs have worked for this process so far.
    """

    held: bool | None = None
    """Whether the process holds a GPU open."""
    percent: int | None = None
    seconds: float | None = None


def gpu_use(pid: int, gpus: Choice, *, dev: Path = Path("/dev"), proc: Path = Path("/proc")) -> GpuUse:
    """What process `pid`, which may use `gpus` (indices of nvidia-smi's order, or UUIDs), does with them. Blocks for up
    to some 100 ms: call it in a thread.
    """
    if gpus == "none" or not any(chain.from_iterable(dev.glob(node) for node in _NODES)):
        return GpuUse(held=False)
    try:
        files = [(file.name, str(file.readlink())) for file in (proc / str(pid) / "fd").iterdir()]
    except OSError:  # gone, or hidden from an adopter: nobody knows
        return GpuUse(percent=_nvidia(gpus))
    mine = [name for name, target in files if target.startswith(_NAMES)]
    if not mine:
        return GpuUse(held=False)
    return GpuUse(held=True, percent=_nvidia(gpus), seconds=_engines(proc / str(pid) / "fdinfo", mine))


def _engines(fdinfo: Path, names: Iterable[str]) -> float | None:
    """Seconds of all engines; a client of the kernel's that has several files is counted once."""
    clients: dict[str, int] = {}
    for name in names:
        try:
            lines = read_kernel(fdinfo / name).splitlines()
        except OSError:
            continue  # closed meanwhile
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        engines = [value for key, value in fields.items() if key.startswith("drm-engine-") and "capacity" not in key]
        if engines:
            clients[fields.get("drm-client-id", name)] = sum(int(value.split()[0]) for value in engines)
    return sum(clients.values()) / 1e9 if clients else None


def _nvidia(gpus: Choice) -> int | None:
    """The use of the busiest of the GPUs, in percent."""
    nvml: Any = load_nvml()
    if nvml is None:
        return None
    told: list[int] = []
    try:
        nvml.nvmlInit()
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                if (
                    isinstance(gpus, tuple)
                    and index not in gpus
                    and not _is_named(nvml.nvmlDeviceGetUUID(handle), gpus)
                ):
                    continue
                told.append(int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        finally:
            nvml.nvmlShutdown()
    except nvml.NVMLError:  # a driver without it, or a part of a GPU (MIG): one that does not tell is enough
        return None
    return max(told, default=None)


def _is_named(uuid: str | bytes, gpus: tuple[int | str, ...]) -> bool:
    name = uuid.decode(errors="replace") if isinstance(uuid, bytes) else uuid
    return any(isinstance(one, str) and name.startswith(one) for one in gpus)

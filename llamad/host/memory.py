"""How much memory is free: of the host by /proc/meminfo, of an NVIDIA GPU by its driver."""

from pathlib import Path

from llamad.host.files import read_kernel
from llamad.host.nvml import load_nvml, nvml_gpus


def free_memory(device: int | str, *, meminfo: Path = Path("/proc/meminfo")) -> int | None:
    """Free bytes of GPU `device` (nvidia-smi's index), or of the `host`; None where nobody can tell."""
    if device == "host":
        return _available(meminfo)
    nvml = load_nvml()
    if nvml is None:
        return None
    for gpu in nvml_gpus(nvml):
        if gpu.index == device and gpu.memory_total is not None and gpu.memory_used is not None:
            return gpu.memory_total - gpu.memory_used
    return None


def _available(meminfo: Path) -> int | None:
    try:
        lines = read_kernel(meminfo).splitlines()
    except OSError:  # then nobody knows, and no server waits for it
        return None
    for line in lines:
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None

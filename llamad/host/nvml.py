"""GPU figures from NVIDIA's management library, where nvidia-ml-py is installed and works."""

import importlib
import logging
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llamad.host.devices import Devices, Gpu, Vendor

log = logging.getLogger(__name__)


def load_nvml() -> Any | None:
    """The module `pynvml`; None where it is not installed or not usable."""
    try:
        return importlib.import_module("pynvml")
    except (ImportError, OSError) as error:
        log.debug("no figures of NVIDIA's GPUs: %s", error)
        return None


def nvml_gpus(nvml: Any) -> tuple[Gpu, ...]:
    """NVIDIA's GPUs with their memory, in nvidia-smi's order; none where the driver does not answer. Takes
    `load_nvml()`'s module; blocks for up to some 100 ms (the driver may have to wake a GPU): call it in a thread.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        log.debug("no figures of NVIDIA's GPUs: %s", error)
        return ()
    try:
        return tuple(_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
    except nvml.NVMLError as error:
        log.warning("NVIDIA's driver does not tell its GPUs: %s", error)
        return ()
    finally:
        nvml.nvmlShutdown()


def with_figures(devices: Devices, figures: Iterable[Gpu]) -> Devices:
    """`devices` with NVML's `figures` in the place of the same GPUs as the kernel shows them. Pure."""
    told = {gpu.pci: gpu for gpu in figures}
    merged = []
    for gpu in devices.gpus:
        figure = told.pop(gpu.pci, None) if gpu.vendor is Vendor.NVIDIA else None
        merged.append(gpu if figure is None else replace(figure, nodes=gpu.nodes, driver=gpu.driver))
    return replace(devices, gpus=(*told.values(), *merged))


def _gpu(nvml: Any, index: int) -> Gpu:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    memory = _ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    bus = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    return Gpu(
        Vendor.NVIDIA,
        index=index,
        pci=None if bus is None else _pci(bus.busId),
        name=_word(_ask(nvml, nvml.nvmlDeviceGetName, handle)),
        uuid=_word(_ask(nvml, nvml.nvmlDeviceGetUUID, handle)),
        driver="nvidia",
        memory_total=None if memory is None else int(memory.total),
        memory_used=None if memory is None else int(memory.used),
    )


def _ask(nvml: Any, function: Any, handle: Any) -> Any:
    """What `function` says of a GPU; None where this GPU does not tell."""
    try:
        return function(handle)
    except nvml.NVMLError:
        return None


def _word(text: str | bytes | None) -> str | None:
    return text.decode(errors="replace") if isinstance(text, bytes) else text  # bytes before version 11.5


def _pci(bus_id: str | bytes) -> str:
    """`00000000:65:00.0` as the kernel spells it, `0000:65:00.0`."""
    domain, _, rest = (_word(bus_id) or "").lower().partition(":")
    return f"{domain[-4:]}:{rest}"

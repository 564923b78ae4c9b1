"""GPUs as the kernel shows them in /proc, /dev and /sys, and the variables that choose among them."""

import os
import re
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal

from llamad.host.files import read_kernel

Choice = Literal["all", "none"] | tuple[int | str, ...] | None
"""GPUs for a server: indices in the driver's order or UUIDs; None leaves the choice to llama-server."""

_LAST = 1 << 30  # sorts behind every real index


class Vendor(StrEnum):
    """Who made a GPU."""

    NVIDIA = "nvidia"
    AMD = "amd"
    INTEL = "intel"
    OTHER = "other"


_SHOWN_IN = (("proc/driver", True), ("sys/class", True), ("proc/driver/nvidia/gpus", False), ("sys/class/drm", False))
"""The folders that show GPUs, and whether each is there on a machine without one."""
_NVIDIA_NODE = re.compile(r"nvidia[0-9]+")
_UNLISTED = ("dev/dxg", "dev/nvgpu", "dev/nvhost-gpu")
_VENDORS = {"0x10de": Vendor.NVIDIA, "0x1002": Vendor.AMD, "0x8086": Vendor.INTEL}


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU; None for what is not known. `index` is its number for `gpus:` (nvidia-smi's order; ROCm's for AMD),
    `pci` its bus address, memory in bytes, `nodes` what a process has to open.
    """

    vendor: Vendor
    index: int | None = None
    pci: str | None = None
    name: str | None = None
    uuid: str | None = None
    driver: str | None = None
    memory_total: int | None = None
    memory_used: int | None = None
    nodes: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Devices:
    """What the kernel shows: the GPUs, and in words what keeps llama-server from using them, with what to do."""

    gpus: tuple[Gpu, ...] = ()
    problems: tuple[str, ...] = ()


def device_environment(gpus: Choice) -> dict[str, str]:
    """The variables that make CUDA, ROCm and Vulkan builds of llama-server use exactly `gpus`. Pure.

    Without a GPU: CUDA and ROCm want an index that there is not (ROCm takes an empty list for none given and looks at
    CUDA's), ggml's Vulkan wants an empty list (it ends the process over a wrong index). A UUID means nothing to it.
    """
    if gpus is None or gpus == "all":
        return {}
    if gpus == "none":
        return {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": ""}
    listed = ",".join(str(gpu) for gpu in gpus)
    chosen = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": listed, "HIP_VISIBLE_DEVICES": listed}
    if all(isinstance(gpu, int) for gpu in gpus):
        chosen["GGML_VK_VISIBLE_DEVICES"] = listed
    return chosen


def read_devices(*, root: Path = Path("/")) -> Devices:
    """Look at the kernel's files below `root`. What cannot be read is passed over."""
    nvidia = _nvidia(root)
    known = {gpu.pci for gpu in nvidia}
    others = [gpu for gpu in _drm(root) if gpu.pci is None or gpu.pci not in known]
    gpus = (*nvidia, *others)
    return Devices(gpus, tuple(_problems(root, gpus)))


def count_gpus(*, root: Path = Path("/")) -> int | None:
    """How many GPUs there are at most. None where nobody can tell: a folder of the kernel's is hidden or may not be
    read, or there are GPUs that only their driver knows (WSL, Tegra, a container without NVIDIA's /proc).
    """
    try:
        for folder, needed in _SHOWN_IN:
            if needed or (root / folder).exists():
                os.listdir(root / folder)
    except OSError:
        return None
    gpus = read_devices(root=root).gpus
    nodes = [path for path in _list(root / "dev") if _NVIDIA_NODE.fullmatch(path.name)]
    unlisted = len(nodes) > sum(gpu.driver == "nvidia" for gpu in gpus)
    return None if unlisted or any((root / node).exists() for node in _UNLISTED) else len(gpus)


def _nvidia(root: Path) -> list[Gpu]:
    """What NVIDIA's driver says, in nvidia-smi's order, which is the bus's."""
    found: list[Gpu] = []
    for folder in sorted(_list(root / "proc/driver/nvidia/gpus")):
        facts = _facts(folder / "information")
        minor = facts.get("Device Minor", "")
        gpu = Gpu(
            Vendor.NVIDIA,
            index=len(found),
            pci=folder.name.lower(),
            name=facts.get("Model"),
            uuid=facts.get("GPU UUID"),
            driver="nvidia",
            nodes=(root / f"dev/nvidia{minor}",) if minor.isdigit() else (),
        )
        found.append(gpu)
    return found


def _drm(root: Path) -> list[Gpu]:
    """What has a render node: a display controller of a server board (no GPU to compute with) has none."""
    order = _rocm_order(root)
    found = [_render_node(root, path) for path in _list(root / "sys/class/drm") if path.name.startswith("renderD")]
    amd = sorted(
        (gpu for gpu in found if gpu.vendor is Vendor.AMD),
        key=lambda gpu: (order.get(gpu.nodes[0].name, _LAST), gpu.pci or ""),
    )
    others = sorted((gpu for gpu in found if gpu.vendor is not Vendor.AMD), key=lambda gpu: gpu.pci or "")
    return [*(replace(gpu, index=index) for index, gpu in enumerate(amd)), *others]


def _render_node(root: Path, path: Path) -> Gpu:
    device = path / "device"
    uevent = dict(line.partition("=")[::2] for line in _text(device / "uevent").splitlines())
    vendor = _VENDORS.get(_text(device / "vendor"), Vendor.OTHER)
    unique = _text(device / "unique_id")
    return Gpu(
        vendor,
        pci=uevent.get("PCI_SLOT_NAME"),
        name=_text(device / "product_name") or None,
        uuid=f"GPU-{unique}" if vendor is Vendor.AMD and unique else None,  # as ROCm spells it
        driver=uevent.get("DRIVER"),
        memory_total=_number(device / "mem_info_vram_total"),
        memory_used=_number(device / "mem_info_vram_used"),
        nodes=(root / "dev/dri" / path.name,),
    )


def _rocm_order(root: Path) -> dict[str, int]:
    """ROCm's index of each AMD GPU by the name of its render node: the order of the kernel's topology."""
    nodes = sorted(
        (path for path in _list(root / "sys/class/kfd/kfd/topology/nodes") if path.name.isdigit()),
        key=lambda path: int(path.name),
    )
    order: dict[str, int] = {}
    for node in nodes:
        facts = dict(line.partition(" ")[::2] for line in _text(node / "properties").splitlines())
        if facts.get("drm_render_minor", "0") != "0":  # 0: a processor
            order[f"renderD{facts['drm_render_minor']}"] = len(order)
    return order


def _problems(root: Path, gpus: tuple[Gpu, ...]) -> list[str]:
    found = []
    shown = {gpu.vendor for gpu in gpus}
    if any(gpu.driver == "nvidia" for gpu in gpus) and not (root / "dev/nvidia-uvm").exists():
        found.append("/dev/nvidia-uvm is missing, and CUDA would use the CPU in silence: load the module nvidia-uvm")
    if Vendor.AMD in shown and not (root / "dev/kfd").exists():
        found.append("/dev/kfd is missing, and ROCm finds no GPU: load the module amdgpu, or use a Vulkan build")
    needed = [node for gpu in gpus for node in gpu.nodes]
    if Vendor.AMD in shown and (root / "dev/kfd").exists():
        needed.append(root / "dev/kfd")
    for node in needed:
        if node.exists() and not os.access(node, os.R_OK | os.W_OK):
            path = Path("/") / node.relative_to(root)
            found.append(f"{path} may not be opened by this user: join the groups render and video")
    return found


def _list(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # no such bus or driver
        return []


def _text(path: Path) -> str:
    try:
        return read_kernel(path).strip()
    except OSError:  # not every driver has every attribute
        return ""


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text.isdigit() else None


def _facts(path: Path) -> dict[str, str]:
    """The `Name: value` lines of a file, empty values left out."""
    pairs = (line.partition(":") for line in _text(path).splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs if value.strip()}

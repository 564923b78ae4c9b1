"""Figures of NVIDIA's GPUs, from a library that is played: there is no such GPU on most machines."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llamad.host.devices import Devices, Gpu, Vendor
from llamad.host.nvml import load_nvml, nvml_gpus, with_figures


class FakeError(Exception):
    """As pynvml.NVMLError."""


@dataclass
class Card:
    """One GPU of the fake driver; None for what it does not tell."""

    name: str | bytes | None = "NVIDIA H200"
    uuid: str | bytes | None = "GPU-1"
    bus: str | bytes | None = "00000000:65:00.0"
    memory: tuple[int, int] | None = (1000, 400)


class FakeNvml:
    """The driver's library: has to be started, and to be shut down as often."""

    NVMLError = FakeError

    def __init__(self, *cards: Card, works: bool = True, counts: bool = True) -> None:
        self.cards = cards
        self.works = works
        self.counts = counts
        self.started = 0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.works:
            raise FakeError("Driver Not Loaded")
        self.started += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.started -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if not self.counts:
            raise FakeError("GPU is lost")
        return len(self.cards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Card:  # noqa: N802
        assert self.started
        return self.cards[index]

    def __getattr__(self, name: str) -> Callable[[Card], object]:
        def tell(card: Card) -> object:
            answers: dict[str, object] = {
                "nvmlDeviceGetName": card.name,
                "nvmlDeviceGetUUID": card.uuid,
                "nvmlDeviceGetPciInfo": card.bus and SimpleNamespace(busId=card.bus),
                "nvmlDeviceGetMemoryInfo": card.memory and SimpleNamespace(total=card.memory[0], used=card.memory[1]),
            }
            if answers[name] is None:
                raise FakeError("Not Supported")
            return answers[name]

        return tell


def test_every_figure_is_read_and_the_library_let_go() -> None:
    nvml = FakeNvml(Card(), Card(uuid="GPU-2"))
    first, second = nvml_gpus(nvml)
    assert first == Gpu(
        Vendor.NVIDIA,
        index=0,
        pci="0000:65:00.0",
        name="NVIDIA H200",
        uuid="GPU-1",
        driver="nvidia",
        memory_total=1000,
        memory_used=400,
    )
    assert (second.index, second.uuid) == (1, "GPU-2")
    assert nvml.started == 0


def test_bytes_of_older_bindings_are_text() -> None:
    (gpu,) = nvml_gpus(FakeNvml(Card(name=b"NVIDIA L4", uuid=b"GPU-3", bus=b"00000001:0A:00.0")))
    assert (gpu.name, gpu.uuid, gpu.pci) == ("NVIDIA L4", "GPU-3", "0001:0a:00.0")


def test_what_a_gpu_does_not_tell_is_none() -> None:
    (gpu,) = nvml_gpus(FakeNvml(Card(None, None, None, None)))
    assert gpu == Gpu(Vendor.NVIDIA, index=0, driver="nvidia")


def test_a_driver_that_does_not_answer_is_no_gpu() -> None:
    assert nvml_gpus(FakeNvml(Card(), works=False)) == ()
    nvml = FakeNvml(Card(), counts=False)
    assert nvml_gpus(nvml) == ()
    assert nvml.started == 0


def test_figures_take_the_place_of_the_same_gpu() -> None:
    node = Path("/dev/nvidia0")
    seen = Gpu(Vendor.NVIDIA, index=0, pci="0000:65:00.0", driver="nvidia", nodes=(node,))
    other = Gpu(Vendor.AMD, index=0, pci="0000:03:00.0")
    silent = Gpu(Vendor.NVIDIA, pci="0000:66:00.0", driver="nouveau")
    figure = Gpu(Vendor.NVIDIA, index=0, pci="0000:65:00.0", memory_total=1000, driver="nvidia")
    hidden = Gpu(Vendor.NVIDIA, index=1, pci="0000:70:00.0", memory_total=2000)
    merged = with_figures(Devices((seen, silent, other), ("a problem",)), [figure, hidden])
    assert merged == Devices(
        (
            hidden,
            Gpu(Vendor.NVIDIA, 0, "0000:65:00.0", driver="nvidia", memory_total=1000, nodes=(node,)),
            silent,
            other,
        ),
        ("a problem",),
    )


def test_the_library_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert load_nvml() is None
    there = ModuleType("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", there)
    assert load_nvml() is there

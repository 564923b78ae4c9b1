"""GPUs from a fake /proc, /dev and /sys, and the variables that choose among them."""

import os
from pathlib import Path

import pytest

from llamad.host.devices import Choice, Devices, Gpu, Vendor, count_gpus, device_environment, read_devices


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (None, {}),
        ("all", {}),
        (
            "none",
            {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": ""},
        ),
        (
            (0,),
            {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "CUDA_VISIBLE_DEVICES": "0",
                "HIP_VISIBLE_DEVICES": "0",
                "GGML_VK_VISIBLE_DEVICES": "0",
            },
        ),
        (
            (2, 0),
            {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "CUDA_VISIBLE_DEVICES": "2,0",
                "HIP_VISIBLE_DEVICES": "2,0",
                "GGML_VK_VISIBLE_DEVICES": "2,0",
            },
        ),
        (
            ("GPU-1234", 1),
            {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
                "CUDA_VISIBLE_DEVICES": "GPU-1234,1",
                "HIP_VISIBLE_DEVICES": "GPU-1234,1",
            },
        ),
    ],
)
def test_a_choice_becomes_the_variables_of_each_back_end(gpus: Choice, expected: dict[str, str]) -> None:
    assert device_environment(gpus) == expected


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def put_nvidia(root: Path, pci: str, minor: int, name: str = "NVIDIA H200") -> None:
    put(
        root / f"proc/driver/nvidia/gpus/{pci}/information",
        f"Model: \t\t {name}\nIRQ:   \t\t 120\nGPU UUID: \t GPU-{minor}\nVideo BIOS: \t \n"
        f"Bus Type: \t PCIe\nBus Location: \t {pci}\nDevice Minor: \t {minor}\n",
    )
    put(root / f"dev/nvidia{minor}")


def put_drm(root: Path, node: int, vendor: str, pci: str | None, driver: str = "amdgpu", **files: str) -> None:
    device = root / f"sys/class/drm/renderD{node}/device"
    put(device / "vendor", vendor + "\n")
    put(device / "uevent", f"DRIVER={driver}\n" + (f"PCI_SLOT_NAME={pci}\n" if pci else ""))
    for name, text in files.items():
        put(device / name, text + "\n")
    put(root / f"dev/dri/renderD{node}")


def put_kfd(root: Path, node: int, render_minor: int) -> None:
    put(
        root / f"sys/class/kfd/kfd/topology/nodes/{node}/properties",
        f"cpu_cores_count {0 if render_minor else 16}\ndrm_render_minor {render_minor}\n",
    )
    put(root / "dev/kfd")


def test_a_machine_without_gpus_has_none(tmp_path: Path) -> None:
    assert read_devices(root=tmp_path) == Devices()


def test_gpus_are_counted_where_the_kernel_shows_all_of_them(tmp_path: Path) -> None:
    assert count_gpus(root=tmp_path) is None  # nothing is shown at all, as in a sandbox
    for folder in ("proc/driver", "sys/class"):
        (tmp_path / folder).mkdir(parents=True)
    assert count_gpus(root=tmp_path) == 0
    put_nvidia(tmp_path, "0000:65:00.0", 0)
    put_drm(tmp_path, 128, "0x8086", "0000:00:02.0", "i915")
    put(tmp_path / "dev/nvidia-uvm")
    assert count_gpus(root=tmp_path) == 2
    put(tmp_path / "dev/nvidia1")
    assert count_gpus(root=tmp_path) is None  # a device that the driver's folder does not tell of


@pytest.mark.parametrize("node", ["dxg", "nvgpu", "nvhost-gpu"])
def test_gpus_that_only_their_driver_knows_are_not_counted(tmp_path: Path, node: str) -> None:
    for folder in ("proc/driver", "sys/class"):
        (tmp_path / folder).mkdir(parents=True)
    put(tmp_path / "dev" / node)
    assert count_gpus(root=tmp_path) is None


def test_a_list_of_gpus_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "proc/driver").mkdir(parents=True)
    put(tmp_path / "sys/class/drm")  # not a folder: refused to root as well
    assert count_gpus(root=tmp_path) is None


def test_this_machine_can_be_read() -> None:
    assert isinstance(read_devices(), Devices)


def test_nvidias_gpus_come_in_the_order_of_the_bus(tmp_path: Path) -> None:
    put_nvidia(tmp_path, "0000:65:00.0", 0)
    put_nvidia(tmp_path, "0000:0A:00.0", 1, "NVIDIA L4")
    put(tmp_path / "dev/nvidia-uvm")
    assert read_devices(root=tmp_path) == Devices(
        (
            Gpu(
                Vendor.NVIDIA,
                index=0,
                pci="0000:0a:00.0",
                name="NVIDIA L4",
                uuid="GPU-1",
                driver="nvidia",
                nodes=(tmp_path / "dev/nvidia1",),
            ),
            Gpu(
                Vendor.NVIDIA,
                index=1,
                pci="0000:65:00.0",
                name="NVIDIA H200",
                uuid="GPU-0",
                driver="nvidia",
                nodes=(tmp_path / "dev/nvidia0",),
            ),
        )
    )


def test_a_gpu_that_two_drivers_show_is_one(tmp_path: Path) -> None:
    put_nvidia(tmp_path, "0000:65:00.0", 0)
    put_drm(tmp_path, 128, "0x10de", "0000:65:00.0", "nvidia")
    assert [gpu.index for gpu in read_devices(root=tmp_path).gpus] == [0]


def test_a_gpu_of_nvidia_under_nouveau_is_shown_without_an_index(tmp_path: Path) -> None:
    put_drm(tmp_path, 128, "0x10de", "0000:65:00.0", "nouveau")
    (gpu,) = read_devices(root=tmp_path).gpus
    assert (gpu.vendor, gpu.driver, gpu.index) == (Vendor.NVIDIA, "nouveau", None)


def test_a_broken_information_file_still_shows_the_gpu(tmp_path: Path) -> None:
    put(tmp_path / "proc/driver/nvidia/gpus/0000:65:00.0/information", "nonsense\n")
    (gpu,) = read_devices(root=tmp_path).gpus
    assert gpu == Gpu(Vendor.NVIDIA, index=0, pci="0000:65:00.0", driver="nvidia")


def test_amds_gpus_are_numbered_as_rocm_numbers_them(tmp_path: Path) -> None:
    put_drm(
        tmp_path,
        128,
        "0x1002",
        "0000:03:00.0",
        mem_info_vram_total="25753026560",
        mem_info_vram_used="100",
        unique_id="b4dc1e8fd3f7ee8c",
        product_name="Radeon RX 7900 XTX",
    )
    put_drm(tmp_path, 129, "0x1002", "0000:01:00.0", mem_info_vram_total="odd")
    put_drm(tmp_path, 130, "0x1002", "0000:02:00.0")
    put_kfd(tmp_path, 0, 0)
    put_kfd(tmp_path, 1, 128)
    put_kfd(tmp_path, 10, 129)
    first, second, third = read_devices(root=tmp_path).gpus
    assert first == Gpu(
        Vendor.AMD,
        index=0,
        pci="0000:03:00.0",
        name="Radeon RX 7900 XTX",
        uuid="GPU-b4dc1e8fd3f7ee8c",
        driver="amdgpu",
        memory_total=25753026560,
        memory_used=100,
        nodes=(tmp_path / "dev/dri/renderD128",),
    )
    assert (second.index, second.pci, second.memory_total, second.uuid) == (1, "0000:01:00.0", None, None)
    assert (third.index, third.pci) == (2, "0000:02:00.0")  # unknown to ROCm: last


def test_others_are_shown_and_display_controllers_are_not(tmp_path: Path) -> None:
    put_drm(tmp_path, 128, "0x8086", "0000:00:02.0", "i915")
    put_drm(tmp_path, 129, "0x1af4", None, "virtio_gpu")
    put(tmp_path / "sys/class/drm/card0/device/vendor", "0x1a03\n")
    found = read_devices(root=tmp_path).gpus
    assert [(gpu.vendor, gpu.index, gpu.driver) for gpu in found] == [
        (Vendor.OTHER, None, "virtio_gpu"),
        (Vendor.INTEL, None, "i915"),
    ]


def test_what_keeps_a_gpu_from_use_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia(tmp_path, "0000:65:00.0", 0)
    put_drm(tmp_path, 128, "0x1002", "0000:03:00.0")
    assert read_devices(root=tmp_path).problems == (
        "/dev/nvidia-uvm is missing, and CUDA would use the CPU in silence: load the module nvidia-uvm",
        "/dev/kfd is missing, and ROCm finds no GPU: load the module amdgpu, or use a Vulkan build",
    )
    put(tmp_path / "dev/nvidia-uvm")
    put(tmp_path / "dev/kfd")
    assert read_devices(root=tmp_path).problems == ()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name == "nvidia0")
    assert read_devices(root=tmp_path).problems == (
        "/dev/dri/renderD128 may not be opened by this user: join the groups render and video",
        "/dev/kfd may not be opened by this user: join the groups render and video",
    )

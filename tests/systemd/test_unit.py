"""The unit files, as text: what systemd is asked for. Whether it obeys is shown in tests/lab."""

import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from llamad.config.model import GatewayConfig
from llamad.gateway.socketunit import SOCKET_UNIT_NAME

SYSTEMD = Path(__file__).parents[2] / "systemd"

# Each was tested on systemd 252, 257 and 262; the reasons are in the unit's comments.
SERVICE = {
    "Unit.StartLimitIntervalSec": ["0"],
    "Unit.Wants": ["network-online.target modprobe@nvidia.service modprobe@nvidia_uvm.service"],
    "Service.Type": ["notify"],
    "Service.NotifyAccess": ["main"],
    "Service.ExecStart": ["/usr/bin/llamad run --config /etc/llamad/llamad.yaml"],
    "Service.ExecReload": ["/usr/bin/llamad reload"],
    "Service.TimeoutStartSec": ["120s"],
    "Service.TimeoutStopSec": ["120s"],
    "Service.TimeoutAbortSec": ["15s"],
    "Service.WatchdogSec": ["30s"],
    "Service.Restart": ["always"],
    "Service.RestartSec": ["100ms"],
    "Service.RestartSteps": ["8"],
    "Service.RestartMaxDelaySec": ["2s"],
    "Service.RestartPreventExitStatus": ["CONFIG UNAVAILABLE"],
    "Service.KillMode": ["process"],
    "Service.ExecStopPost": ["/usr/bin/llamad reap"],
    "Service.OOMPolicy": ["continue"],
    "Service.OOMScoreAdjust": ["-500"],
    "Service.FileDescriptorStoreMax": ["4096"],
    "Service.SyslogIdentifier": ["llamad"],
    "Service.LogRateLimitIntervalSec": ["30s"],
    "Service.LogRateLimitBurst": ["20000"],
    "Service.User": ["llamad"],
    "Service.Group": ["llamad"],
    "Service.UMask": ["0077"],
    "Service.RuntimeDirectory": ["llamad"],
    "Service.RuntimeDirectoryMode": ["0750"],
    "Service.RuntimeDirectoryPreserve": ["restart"],
    "Service.StateDirectory": ["llamad"],
    "Service.StateDirectoryMode": ["0750"],
    "Service.CacheDirectory": ["llamad"],
    "Service.CacheDirectoryMode": ["0750"],
    "Service.LoadCredential": ["api-keys:/etc/llamad/api-keys"],
    "Service.SetCredential": ["api-keys:\\n"],
    "Service.LimitNOFILE": ["65536"],
    "Service.LimitMEMLOCK": ["infinity"],
    "Service.LimitCORE": ["0"],
    "Service.TasksMax": ["16384"],
    "Service.Delegate": ["cpu memory pids"],
    "Service.DelegateSubgroup": ["supervisor"],
    "Service.ProtectControlGroups": ["no"],
    "Service.NoNewPrivileges": ["yes"],
    "Service.CapabilityBoundingSet": [""],
    "Service.ProtectSystem": ["strict"],
    "Service.ProtectHome": ["yes"],
    "Service.ProtectClock": ["yes"],
    "Service.ProtectHostname": ["yes"],
    "Service.ProtectKernelLogs": ["yes"],
    "Service.ProtectKernelModules": ["yes"],
    "Service.ProtectKernelTunables": ["yes"],
    "Service.ProtectProc": ["invisible"],
    "Service.PrivateTmp": ["yes"],
    "Service.PrivateUsers": ["yes"],
    "Service.PrivateDevices": ["no"],
    "Service.DevicePolicy": ["closed"],
    "Service.DeviceAllow": [
        f"{device} rw"
        for device in (
            *("char-nvidia*", "char-drm", "char-kfd", "char-accel"),
            "/dev/dxg",
            *("/dev/nvmap", "/dev/nvsciipc", "char-*nvhost*", "char-host1x*", "char-nvgpu*"),
            *("char-*.gpu", "char-*.ga10b", "char-*.gv11b", "char-*.gp10b"),
            *("char-kgsl*", "/dev/mali0"),
        )
    ],
    "Service.LockPersonality": ["yes"],
    "Service.MemoryDenyWriteExecute": ["yes"],
    "Service.RemoveIPC": ["yes"],
    "Service.RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6"],
    "Service.RestrictNamespaces": ["yes"],
    "Service.RestrictRealtime": ["yes"],
    "Service.RestrictSUIDSGID": ["yes"],
    "Service.SystemCallArchitectures": ["native"],
    "Service.SystemCallFilter": ["@system-service", "~@privileged"],
    "Service.SystemCallErrorNumber": ["EPERM"],
    "Install.WantedBy": ["multi-user.target"],
}


def settings(path: Path) -> dict[str, list[str]]:
    """`Section.Key` -> its values in order."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


def table(path: Path) -> list[list[str]]:
    """The words of each line that is no comment."""
    return [line.split() for line in path.read_text().splitlines() if line and not line.startswith("#")]


UNITS = [SYSTEMD / "llamad.service", SYSTEMD / "llamad.socket", *sorted((SYSTEMD / "examples").glob("*.conf"))]


def test_the_service_asks_for_what_was_tested() -> None:
    found = settings(SYSTEMD / "llamad.service")
    assert {key: found.get(key) for key in SERVICE} == SERVICE
    assert set(found) - set(SERVICE) == {"Unit.Description", "Unit.After"}


def test_the_service_starts_after_what_it_needs() -> None:
    found = settings(SYSTEMD / "llamad.service")
    (after,) = found["Unit.After"]
    (wanted,) = found["Unit.Wants"]
    assert set(wanted.split()) < set(after.split())


# A line of /proc/devices, or a node: what people's accelerators are called, and what nobody wants let in.
DEVICES = {
    "nvidia-frontend": True,
    "nvidia": True,
    "nvidia-uvm": True,
    "nvidia-caps": True,
    "drm": True,
    "kfd": True,
    "accel": True,
    "nvhost": True,
    "host1x-fence": True,
    "57000000.gpu": True,
    "17000000.gpu": True,
    "17000000.ga10b": True,
    "17000000.gv11b": True,
    "17000000.gp10b": True,
    "kgsl-3d": True,
    "/dev/dxg": True,
    "/dev/nvmap": True,
    "/dev/mali0": True,
    "misc": False,
    "mem": False,
    "sd": False,
    "input": False,
    "tty": False,
    "/dev/kvm": False,
    "/dev/mem": False,
    "/dev/nvram": False,
}


@pytest.mark.parametrize("device", DEVICES)
def test_the_service_may_open_accelerators_and_nothing_else(device: str) -> None:
    """WSL2 and Jetson were left out: no GPU was found there, and nothing said why."""
    allowed = [value.split()[0] for value in settings(SYSTEMD / "llamad.service")["Service.DeviceAllow"]]
    name = device if device.startswith("/") else f"char-{device}"
    assert any(fnmatchcase(name, pattern) for pattern in allowed) is DEVICES[device]


def test_no_man_page_is_documented() -> None:
    """`systemd-analyze verify` fails where the page is not installed."""
    assert not [path.name for path in UNITS if "Documentation=" in path.read_text()]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_comments_stand_on_their_own_line(path: Path) -> None:
    for line in path.read_text().splitlines():
        assert line.startswith(("#", "[")) or not line or re.fullmatch(r"[A-Z][A-Za-z]+=[^#]*", line), line


def test_the_socket_is_the_gateway_port_of_the_default_configuration() -> None:
    found = settings(SYSTEMD / "llamad.socket")
    assert found["Socket.ListenStream"] == [str(address) for address in GatewayConfig().listen]
    assert found["Socket.FileDescriptorName"] == [SOCKET_UNIT_NAME]


def test_the_user_is_in_the_groups_of_gpus_and_the_groups_come_first() -> None:
    lines = [
        line.split() for line in (SYSTEMD / "llamad.sysusers").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    kinds = [line[0] for line in lines]
    assert kinds == ["g", "g", "u", "m", "m"]
    assert Counter(line[-1] for line in lines if line[0] == "m") == Counter(["video", "render"])


def test_the_directories_are_those_that_the_service_works_in() -> None:
    lines = [
        line.split() for line in (SYSTEMD / "llamad.tmpfiles").read_text().splitlines() if line[:1] not in ("", "#")
    ]
    assert {line[1]: (line[0], *line[2:5]) for line in lines} == {
        "/etc/llamad": ("d", "0755", "root", "root"),
        "/etc/llamad/conf.d": ("d", "0755", "root", "root"),
        "/etc/llamad/api-keys": ("f", "0640", "root", "llamad"),
        "/var/lib/llamad": ("d", "0750", "llamad", "llamad"),
        "/var/lib/llamad/models": ("d", "0770", "llamad", "llamad"),
    }


def test_each_example_says_where_it_goes() -> None:
    for path in (SYSTEMD / "examples").glob("*.conf"):
        assert f"# /etc/systemd/system/llamad.service.d/{path.name}" in path.read_text().splitlines()

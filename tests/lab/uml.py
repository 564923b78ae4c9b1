"""Debian with a kernel of its own: user-mode Linux, which has what a container shares with its host or cannot give:
controllers for memory and CPU, an OOM killer, and a clock that can be set. Slow, with one CPU; boots in some 5 seconds.
"""

import contextlib
import json
import platform
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.lab.installed import DROP_IN, SERVICE, Installed, lab_files
from tests.lab.machine import ENVIRONMENT, GuestError, cgroup_mount, ended, missing
from tests.lab.roots import kernel, root_of

MEMORY = "768M"
BOOT_LIMIT = 60.0
_GRACE = 10.0
_HERE = Path(__file__).parent
_AGENT = "/usr/local/lib/lab/agent.py"
_AGENT_UNIT = f"""[Service]
ExecStart=/usr/bin/python3 -I -S {_AGENT}
Environment={" ".join(ENVIRONMENT)}
OOMScoreAdjust=-1000
[Install]
WantedBy=multi-user.target
"""


def missing_for_kernel() -> str | None:
    """What this host lacks to boot user-mode Linux; None where it can."""
    if platform.machine() != "x86_64":
        return f"Debian has no user-mode Linux for {platform.machine()}"
    if shutil.which("mke2fs") is None:
        return "the lab needs mke2fs: sudo ./packaging/test --system"
    return missing()


class VirtualMachine:
    """A running user-mode Linux. Built by `virtual`, which also ends it. One command at a time."""

    def __init__(self, line: socket.socket, console: Path) -> None:
        self._line = line
        self._answers = line.makefile("rb")
        self._console = console

    def run(
        self, *command: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside. Raises GuestError when it fails, unless `check` is false."""
        request = json.dumps({"argv": command, "stdin": stdin or "", "timeout": timeout})
        self._line.settimeout(timeout + _GRACE)
        try:
            self._line.sendall(request.encode() + b"\n")
            answer = json.loads(self._answers.readline())
        except (OSError, ValueError) as error:
            raise GuestError(f"{' '.join(command)}: no answer ({error!r})\n{self._last_words()}") from None
        done = subprocess.CompletedProcess(command, answer["code"], answer["stdout"], answer["stderr"])
        if check and done.returncode != 0:
            raise GuestError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Put a file inside, in one step as a careful editor does. Folders are made."""
        script = 'mkdir -p "${1%/*}" && cat >"$1.new" && chmod "$2" "$1.new" && mv "$1.new" "$1"'
        content = text.decode() if isinstance(text, bytes) else text
        self.run("sh", "-c", script, "sh", path, f"{mode:o}", stdin=content)

    def wait_until_up(self) -> None:
        """Until the machine takes commands. Raises GuestError with its last words when it does not come up."""
        self._line.settimeout(BOOT_LIMIT)
        try:
            up = self._answers.readline()
        except OSError as error:
            up = repr(error).encode()
        if up != b"{}\n":
            raise GuestError(f"user-mode Linux does not come up: {up!r}\n{self._last_words()}")

    def close(self) -> None:
        """Let go of the line."""
        self._answers.close()
        self._line.close()

    def _last_words(self) -> str:
        return self._console.read_text(errors="backslashreplace")[-4000:]


class VirtualGuest(Installed):
    """llamad on user-mode Linux, on Debian forky."""

    def reset(self) -> None:
        """No service, and the unit as it was installed."""
        self.run("systemctl", "stop", SERVICE)
        self.run("rm", "-f", DROP_IN)
        self.run("systemctl", "daemon-reload")

    def group(self, server: str, file: str) -> str:
        """A file of the control group of a server's first replica."""
        return self.run("cat", f"/sys/fs/cgroup/system.slice/{SERVICE}/srv-{server}-0-0/{file}").strip()

    def kernel_log(self) -> str:
        """What the kernel told."""
        return self.run("journalctl", "--no-pager", "--dmesg", "-o", "cat")


@contextlib.contextmanager
def virtual(deb: Path) -> Iterator[VirtualGuest]:
    """Boot forky with the package installed and the lab's files on it, and end it after the block, whatever happens."""
    mount = cgroup_mount()
    assert mount is not None, "ask `missing_for_kernel` first"
    folder = Path(tempfile.mkdtemp(prefix="llamad-uml-"))
    cgroup = mount / folder.name
    cgroup.mkdir()
    with ended(cgroup, folder):
        image = folder / "disk"
        _make_image(folder / "files", deb, image)
        with _booted(cgroup, image, folder / "console") as machine:
            yield VirtualGuest(machine)


def _make_image(files: Path, deb: Path, image: Path) -> None:
    unit = "/etc/systemd/system/lab-agent.service"
    ours = {_AGENT: ((_HERE / "agent.py").read_bytes(), 0o644), unit: (_AGENT_UNIT.encode(), 0o644)}
    for path, (content, mode) in {**lab_files(), **ours}.items():
        target = files / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        target.chmod(mode)
    command = ["sh", str(_HERE / "uml-image.sh"), str(root_of("forky")), str(files), str(deb), str(image)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, timeout=120)
    if done.returncode != 0:
        raise GuestError(f"no image: {done.stdout}{done.stderr}")


@contextlib.contextmanager
def _booted(cgroup: Path, image: Path, console: Path) -> Iterator[VirtualMachine]:
    ours, theirs = socket.socketpair()
    with contextlib.closing(VirtualMachine(ours, console)) as machine, console.open("wb") as output:
        with theirs:
            fd = theirs.fileno()
            options: Sequence[str] = (f"mem={MEMORY}", "seccomp=auto", "ssl=null", f"ssl0=fd:{fd},fd:{fd}")
            process = subprocess.Popen(
                ["sh", str(_HERE / "uml-boot.sh"), str(cgroup), str(kernel()), str(image), *options],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(fd,),
            )
        try:
            machine.wait_until_up()
            yield machine
        finally:
            (cgroup / "cgroup.kill").write_text("1")
            process.wait(10)

"""A booted Debian in a container: boot, run commands, put files, end; nothing of it stays on the host."""

import contextlib
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

BOOT = Path(__file__).with_name("boot.sh")
END = Path(__file__).with_name("end.sh")
ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "HOME=/root")
BOOT_LIMIT = 30.0

_numbers = itertools.count()


class GuestError(AssertionError):
    """A command inside failed; says which, how, and what it wrote."""


def missing() -> str | None:
    """What this host lacks to boot a container, and what would bring it; None where it can."""
    if os.geteuid() != 0:
        return "the lab needs root: sudo ./packaging/test"
    absent = [tool for tool in ("systemd-nspawn", "mmdebstrap", "nsenter", "unshare") if shutil.which(tool) is None]
    if absent:
        return f"the lab needs {', '.join(absent)}: sudo ./packaging/test --system"
    if cgroup_mount() is None:
        return "the lab needs a cgroup2 hierarchy: mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified"
    return None


class Machine:
    """A running container. Built by `boot`, which also ends it."""

    def __init__(self, cgroup: Path, console: Path) -> None:
        self.cgroup = cgroup
        self._console = console
        self._leader: int | None = None

    @property
    def leader(self) -> int:
        """The host's pid of the container's PID 1."""
        if self._leader is None:
            self._leader = int((self.cgroup / "payload/init.scope/cgroup.procs").read_text().split()[0])
        return self._leader

    @property
    def files(self) -> Path:
        """The root of the container as the host sees it. Beware of absolute links in there: they lead to the host."""
        return Path(f"/proc/{self.leader}/root")

    def run(
        self, *command: str, check: bool = True, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root inside. Raises GuestError when it fails, unless `check` is false."""
        done = subprocess.run(
            self._inside(command),
            capture_output=True,
            text=True,
            errors="backslashreplace",
            timeout=timeout,
            check=False,
            input=stdin if stdin is not None else "",
        )
        if check and done.returncode != 0:
            raise GuestError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    @contextlib.contextmanager
    def background(self, *command: str) -> Iterator[subprocess.Popen[str]]:
        """A command that runs inside during the block; its stdin and stdout are pipes, closing stdin should end it."""
        with subprocess.Popen(
            self._inside(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.kill()

    def write(self, path: str, text: str | bytes, mode: int = 0o644) -> None:
        """Put a file inside, in one step as a careful editor does. Folders are made."""
        target = self.files / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_name(f".{target.name}.new")
        new.write_bytes(text.encode() if isinstance(text, str) else text)
        new.chmod(mode)
        new.rename(target)

    def copy(self, source: Path, path: str) -> None:
        """Put a file of the host inside."""
        target = self.files / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)

    def remove(self, path: str) -> None:
        """Remove a file or folder inside, if it is there."""
        target = self.files / path.lstrip("/")
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)

    def exists(self, path: str) -> bool:
        """Whether something has that name inside."""
        return os.path.lexists(self.files / path.lstrip("/"))

    def console(self) -> str:
        """What the container's PID 1 and nspawn wrote."""
        return self._console.read_text(errors="backslashreplace")

    def _inside(self, command: Sequence[str]) -> list[str]:
        join = f'echo $$ >"{self.cgroup}/payload/init.scope/cgroup.procs"; exec "$@"'
        enter = ["nsenter", "-t", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        return ["sh", "-c", join, "sh", *enter, "env", "-i", *ENVIRONMENT, *command]


@contextlib.contextmanager
def boot(root: Path, *options: str) -> Iterator[Machine]:
    """Boot the root file system (which is not written to) and end the container after the block, whatever happens.
    `options` are systemd-nspawn's. Takes about a second. Raises GuestError when it does not come up.
    """
    mount = cgroup_mount()
    assert mount is not None, "ask `missing` first"
    name = f"llamad-lab-{os.getpid()}-{next(_numbers)}"
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    here, console, cgroup = folder / "mount", folder / "console", mount / name
    here.mkdir()
    cgroup.mkdir()
    with ended(cgroup, folder), console.open("wb") as output:
        process = subprocess.Popen(
            ["sh", BOOT, cgroup, here, root, name, *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            machine = Machine(cgroup, console)
            _wait_until_up(machine, process)
            yield machine
        finally:
            (cgroup / "cgroup.kill").write_text("1")
            process.wait(10)


@contextlib.contextmanager
def ended(cgroup: Path, folder: Path) -> Iterator[None]:
    """After the block nothing is left of the container; nor is it when the tests themselves are killed: the one who
    clears up waits for the end of a pipe that this process holds.
    """
    with subprocess.Popen(["sh", END, cgroup, folder], stdin=subprocess.PIPE, start_new_session=True) as end:
        yield
        end.communicate(timeout=20)
        assert end.returncode == 0, f"{cgroup} or {folder} is left"


def until(condition: Callable[[], object], what: str, *, limit: float = 20, every: float = 0.05) -> None:
    """Wait for a condition with a bound. Raises GuestError that says what did not come."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise GuestError(f"not within {limit:g} s: {what}")
        time.sleep(every)


def _wait_until_up(machine: Machine, process: subprocess.Popen[bytes]) -> None:
    def is_up() -> bool:
        if process.poll() is not None:
            raise GuestError(f"the container ended: {machine.console()}")
        try:
            state = machine.run("systemctl", "is-system-running", check=False).stdout.strip()
        except (FileNotFoundError, IndexError):  # no PID 1 yet
            return False
        return state in ("running", "degraded")

    try:
        until(is_up, "the container's systemd is up", limit=BOOT_LIMIT)
    except GuestError as error:
        raise GuestError(f"{error}\n{machine.console()}") from None


def cgroup_mount() -> Path | None:
    """Where the host has its cgroup2 hierarchy."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(where)
    return None

"""Root file systems of the lab: Debian with the systemd that is to be tested, built once by mmdebstrap and kept in a
cache outside the repository ($LLAMAD_LAB_CACHE, /var/cache/llamad-lab).
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

_BASE = ("systemd", "systemd-sysv", "dbus", "procps", "iproute2", "python3")
_PYTHON = tuple(
    f"python3-{name}"
    for name in (
        "aiohttp",
        "httptools",
        "prometheus-client",
        "pydantic",
        "pythonjsonlogger",
        "rich",
        "sdnotify",
        "uvloop",
        "watchfiles",
        "yaml",
    )
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a root file system is made of; a changed recipe is another file system."""

    suite: str
    systemd: int
    packages: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name of its folder in the cache."""
        return f"{self.suite}-{_digest(self.suite, *self.packages)}"


RECIPES = {
    "bookworm": Recipe("bookworm", 252, (*_BASE, "python3-venv")),
    "trixie": Recipe("trixie", 257, (*_BASE, *_PYTHON)),
    "forky": Recipe("forky", 262, (*_BASE, *_PYTHON, "llama.cpp-tools")),
}


_KERNEL = ("forky", "user-mode-linux")


def cache_directory() -> Path:
    """Where root file systems and wheels are kept between runs."""
    return Path(os.environ.get("LLAMAD_LAB_CACHE") or "/var/cache/llamad-lab")


def root_of(suite: str) -> Path:
    """The root file system of a suite, built now if the cache has none. Raises CalledProcessError with mmdebstrap's
    words in `stderr`.
    """
    recipe = RECIPES[suite]
    with _locked(suite):
        return _made_once(recipe.key, f"{suite}-*", lambda target: _build(recipe, target))


def kernel() -> Path:
    """A folder to chroot into, with user-mode Linux at /usr/bin/linux.uml and the C library it needs. Raises
    CalledProcessError.
    """
    with _locked("kernel"):
        return _made_once(f"kernel-{_digest(*_KERNEL)}", "kernel-*", _extract_kernel)


def wheels() -> Path:
    """llamad's dependencies as wheels for Debian 12, where not all are packages. Raises CalledProcessError."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        dependencies = sorted(tomllib.load(file)["project"]["dependencies"])
    with _locked("wheels"):
        return _made_once(
            f"wheels-{_digest(*dependencies)}", "wheels-*", lambda target: _download(dependencies, target)
        )


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Two workers build nothing twice."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _made_once(name: str, outdated: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of the cache, made if it is not there; whole or not at all."""
    folder = cache_directory() / name
    if not folder.exists():
        for old in cache_directory().glob(outdated):
            shutil.rmtree(old)
        building = folder.with_name(f"{name}.building")
        make(building)
        building.rename(folder)
    return folder


def _build(recipe: Recipe, target: Path) -> None:
    _mmdebstrap("minbase", recipe.suite, recipe.packages, target)


def _extract_kernel(target: Path) -> None:
    suite, *packages = _KERNEL
    _mmdebstrap("extract", suite, packages, target)
    shutil.rmtree(target / "usr/lib/uml")  # modules
    for name in ("lib", "lib64"):
        if not (target / name).exists():
            (target / name).symlink_to(f"usr/{name}")
    for name in ("dev", "proc", "tmp"):
        (target / name).mkdir(exist_ok=True)


def _mmdebstrap(variant: str, suite: str, packages: Sequence[str], target: Path) -> None:
    mirror = _debian_mirror()
    _run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            f"--variant={variant}",
            f"--include={','.join(packages)}",
            '--aptopt=Acquire::Check-Valid-Until "false"',
            *(f"--aptopt={line}" for line in _proxies()),
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            suite,
            str(target),
            *([mirror] if mirror else []),
        ]
    )


def _download(dependencies: Sequence[str], folder: Path) -> None:
    """sdnotify is published as source only, and pip takes no source for another Python than its own."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    source = [one for one in dependencies if one.startswith("sdnotify")]
    platforms = [f"--platform=manylinux_2_{glibc}_{platform.machine()}" for glibc in (17, 28, 34)]
    platforms.append(f"--platform=manylinux2014_{platform.machine()}")
    folder.mkdir()
    binary = ["--python-version=3.11", "--only-binary=:all:", *platforms, f"--dest={folder}"]
    _run([*pip, "download", *binary, *(one for one in dependencies if one not in source)])
    _run([*pip, "wheel", "--no-deps", f"--wheel-dir={folder}", *source])


def _digest(*words: str) -> str:
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _debian_mirror() -> str | None:
    """The archive this machine's own apt uses, if it is Debian's; None leaves the choice to mmdebstrap."""
    given = os.environ.get("LLAMAD_LAB_MIRROR")
    if given:
        return given
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(ORIGIN)|$(LABEL)|$(REPO_URI)", "Identifier: Packages"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    found = [line.split("|", 2) for line in targets.splitlines()]
    return next((uri for origin, label, uri in found if origin == "Debian" and label == "Debian"), None)


def _proxies() -> Iterator[str]:
    """apt's own proxies: mmdebstrap does not read the machine's configuration."""
    shown = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    for line in shown.splitlines():
        if line.startswith(("Acquire::http::Proxy ", "Acquire::https::Proxy ")):
            yield line.removesuffix(";")


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)

"""The directories llamad works in: systemd's when it runs as a service, else those of the user who runs it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Directories:
    """`runtime` lives as long as the service, `state` for ever (models), `cache` may be emptied at any time."""

    runtime: Path
    state: Path
    cache: Path

    @property
    def models(self) -> Path:
        """Where relative model paths start unless `models_dir` says otherwise."""
        return self.state / "models"

    @property
    def control_socket(self) -> Path:
        """The control socket unless `control.socket` says otherwise."""
        return self.runtime / "control.sock"

    @property
    def ledger(self) -> Path:
        """Which children run, for the next llamad."""
        return self.runtime / "children.json"

    @property
    def servers(self) -> Path:
        """The private sockets of llama-servers."""
        return self.runtime / "servers"


def directories(environ: Mapping[str, str], *, uid: int) -> Directories:
    """Take systemd's RUNTIME_DIRECTORY, STATE_DIRECTORY and CACHE_DIRECTORY (the first of each colon-separated
    list), else `/run`, `/var/lib` and `/var/cache` for root, else the XDG base directories of the user.
    """
    home = Path(environ.get("HOME") or "/")
    if uid == 0:
        fallback = Directories(Path("/run/llamad"), Path("/var/lib/llamad"), Path("/var/cache/llamad"))
    else:
        run = environ.get("XDG_RUNTIME_DIR")
        fallback = Directories(
            Path(run) / "llamad" if run else Path(f"/tmp/llamad-{uid}"),  # made 0700 by whoever uses it
            Path(environ.get("XDG_DATA_HOME") or home / ".local/share") / "llamad",
            Path(environ.get("XDG_CACHE_HOME") or home / ".cache") / "llamad",
        )

    def pick(name: str, default: Path) -> Path:
        value = environ.get(name, "").split(":")[0]
        return Path(value) if value.startswith("/") else default

    return Directories(
        pick("RUNTIME_DIRECTORY", fallback.runtime),
        pick("STATE_DIRECTORY", fallback.state),
        pick("CACHE_DIRECTORY", fallback.cache),
    )


def own_directories() -> Directories:
    """The directories of this process."""
    return directories(os.environ, uid=os.geteuid())

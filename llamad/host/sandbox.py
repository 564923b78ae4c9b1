"""What the unit's sandbox hides from the service, and what to do about a file that it cannot read."""

import os
import pwd
from collections.abc import Mapping
from pathlib import Path

HIDDEN: Mapping[str, str] = {
    "/home": "ProtectHome=yes",
    "/root": "ProtectHome=yes",
    "/run/user": "ProtectHome=yes",
    "/tmp": "PrivateTmp=yes",
    "/var/tmp": "PrivateTmp=yes",
}
"""Folders of which the service sees nothing, and the unit's setting that hides them (systemd.exec(5))."""


def sandboxed(environ: Mapping[str, str]) -> bool:
    """Whether this process is a service (systemd.exec(5), INVOCATION_ID)."""
    return "INVOCATION_ID" in environ


def hidden_by(path: Path) -> str | None:
    """The setting that hides `path` from the service."""
    return next((setting for folder, setting in HIDDEN.items() if path.is_relative_to(folder)), None)


def hidden_hint(path: Path, environ: Mapping[str, str]) -> str | None:
    """What to do where this process is the service and its sandbox hides `path`. An ordinary user is not allowed into
    a hidden folder, root finds it empty.
    """
    setting = hidden_by(path) if sandboxed(environ) else None
    return f"the service's sandbox hides that folder ({setting}): put the model into models_dir" if setting else None


def unreadable_hint(path: Path, environ: Mapping[str, str]) -> str:
    """What to do where this process is not allowed to read `path`."""
    return hidden_hint(path, environ) or f"the user {_own_name()} needs to read it and to enter its folders"


def denied_hint(error: OSError) -> str | None:
    """What to do about a file of the configuration that this process is not allowed to read; None for other errors."""
    return f"the user {_own_name()} needs to read it" if isinstance(error, PermissionError) else None


def _own_name() -> str:
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"with id {uid}"

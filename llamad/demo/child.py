"""`llamad run` as a child of the demo: the real daemon, in a folder of its own that is thrown away."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from llamad.host.files import read_end

_SYSTEMD = (
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "FDSTORE",
    "CREDENTIALS_DIRECTORY",
    "JOURNAL_STREAM",
    "INVOCATION_ID",
)
"""Of the service the demo may run in: not meant for the llamad inside it."""
_PR_SET_PDEATHSIG = 1
END_TIMEOUT = 20.0
"""Seconds between SIGTERM and SIGKILL; the demo's own configuration makes llamad need less."""

_libc = ctypes.CDLL(None)


class Daemon:
    """A llamad that runs `folder/llamad.yaml` for as long as the `with` block lasts. Its log is `folder/llamad.log`,
    its runtime, state and cache directories are below `folder` too.
    """

    def __init__(
        self, folder: Path, environ: Mapping[str, str], *, program: Sequence[str] = (sys.executable, "-m", "llamad")
    ) -> None:
        self._program = program
        self.control_socket = folder / "run" / "control.sock"
        self._config = folder / "llamad.yaml"
        self._log = folder / "llamad.log"
        self._environ = {
            **{name: value for name, value in environ.items() if not name.startswith(_SYSTEMD)},
            "RUNTIME_DIRECTORY": str(folder / "run"),
            "STATE_DIRECTORY": str(folder / "state"),
            "CACHE_DIRECTORY": str(folder / "cache"),
            "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), environ.get("PYTHONPATH")])),
        }
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        for name in ("RUNTIME_DIRECTORY", "STATE_DIRECTORY", "CACHE_DIRECTORY"):
            Path(self._environ[name]).mkdir(mode=0o700, exist_ok=True)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*self._program, "run", "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                start_new_session=True,  # Ctrl-C is for the demo, which ends this in order
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - the demo has no threads
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def ended(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Return its exit status once it has ended."""
        return self._process.wait()

    def last_lines(self, number: int = 20) -> str:
        """The end of its log, as it may help who has to understand why it failed."""
        text = read_end(self._log, 16384).decode(errors="replace")
        return "\n".join(text.splitlines()[-number:])


def _end_with_parent() -> None:
    """In the child, before exec: a demo that was killed takes its llamad with it (prctl(2))."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

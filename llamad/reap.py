"""`llamad reap`, for ExecStopPost=: when llamad does not come back, what it left must not stay behind."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress

from llamad.errors import ExitCode
from llamad.host import journal
from llamad.host.cgroup import Groups, own_group
from llamad.host.dirs import own_directories
from llamad.servers.ledger import read_ledger
from llamad.servers.leftovers import end_recorded

log = logging.getLogger(__name__)
KEEP_MARK = "keep"
"""Left in the runtime directory by `llamad upgrade`: the next llamad takes the servers over."""
STOPPING_MARK = "stopping"
"""Left there by a llamad that was told to stop: if it dies on the way, nobody comes back."""


def comes_back(environ: Mapping[str, str], *, keep: bool, stopping: bool) -> bool:
    """Whether systemd starts llamad again, by what it tells ExecStopPost= (systemd.exec(5)). Pure."""
    if keep:
        return True
    if stopping or environ.get("SERVICE_RESULT", "success") == "success":
        return False
    return not (environ.get("EXIT_CODE") == "exited" and environ.get("EXIT_STATUS") == str(int(ExitCode.CONFIG)))


def reap() -> int:
    """End every server that is left, unless llamad is started again and takes them over. Returns the exit code."""
    journal.setup("auto", "info", environ=os.environ, stream=sys.stderr)
    directories = own_directories()
    keep_mark = directories.runtime / KEEP_MARK
    keep, stopping = keep_mark.exists(), (directories.runtime / STOPPING_MARK).exists()
    with suppress(OSError):
        keep_mark.unlink(missing_ok=True)
    if comes_back(os.environ, keep=keep, stopping=stopping):
        log.info("llamad will be back: its servers go on", extra={"event": "reap"})
        return ExitCode.OK
    for name, group in Groups(own_group()).existing().items():
        if group.populated():
            log.warning("ended what was left of %s", name, extra={"event": "reap"})
        group.kill()
        group.remove()
    asyncio.run(end_recorded(list(read_ledger(directories.ledger).records)))
    return ExitCode.OK

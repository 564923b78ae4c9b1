"""`llamad reap`, for ExecStopPost=: when llamad does not come back, what it left must not stay behind."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import nullcontext

from llamad.errors import NO_RESTART, ExitCode, LlamadError
from llamad.host import journal
from llamad.host.cgroup import Groups, own_group
from llamad.host.dirs import Directories, own_directories
from llamad.host.lock import lock_file, only_one
from llamad.host.users import become_owner_of
from llamad.servers.ledger import read_ledger
from llamad.servers.leftovers import end_groups, end_recorded

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
    is_final = environ.get("EXIT_STATUS") in {str(int(code)) for code in NO_RESTART}
    return not (environ.get("EXIT_CODE") == "exited" and is_final)


def reap() -> int:
    """End every server that is left, unless llamad is started again and takes them over. Returns the exit code: 1 where
    something could not be ended, or where a llamad runs whose servers these are. Root does it as the user of that
    llamad, who wrote down what there is to end.
    """
    journal.setup("auto", "info", environ=os.environ, stream=sys.stderr)
    directories = own_directories()
    try:
        become_owner_of(directories.runtime)
        is_used = lock_file(directories).exists()  # made by root, it would keep the service's user from making it
        with only_one(directories) if is_used else nullcontext():
            return _reap(directories)
    except LlamadError as error:
        log.error("nothing was ended: %s", error.message, extra={"event": "reap"})
    except OSError as error:  # it cannot become the owner, or that one may not enter
        log.error("nothing was ended: %s", error, extra={"event": "reap"})
    return ExitCode.FAILED


def _reap(directories: Directories) -> int:
    keep_mark = directories.runtime / KEEP_MARK
    keep, stopping = keep_mark.exists(), (directories.runtime / STOPPING_MARK).exists()
    try:
        keep_mark.unlink(missing_ok=True)
    except OSError as error:
        log.warning("cannot remove %s, it will hold again: %s", keep_mark, error.strerror, extra={"event": "reap"})
    if comes_back(os.environ, keep=keep, stopping=stopping):
        log.info("llamad will be back: its servers go on", extra={"event": "reap"})
        return ExitCode.OK
    return ExitCode.OK if asyncio.run(_end_all(directories)) else ExitCode.FAILED


async def _end_all(directories: Directories) -> bool:
    """First what may end in order, then whatever lives on in a group."""
    ended = await end_recorded(read_ledger(directories.ledger).records, directories.servers)
    return await end_groups(Groups(own_group()).existing(), ()) and ended

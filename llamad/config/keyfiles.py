"""Where the gateway's API keys are, when the configuration names no file of them.

The unit has `LoadCredential=api-keys:/etc/llamad/api-keys`, which systemd reads at a start of the service only. So the
file itself is read where it is the one that the credential was made from: they are equal at the start. Then a key that
was taken out of it is out with the next reload. The credential counts where it comes from elsewhere, or where the file
cannot be read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamad.host.files import read_bytes

KEYS_CREDENTIAL = "api-keys"
MAX_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of API keys as it was read; `instead_of` is the one that should have been read, and why it was not."""

    path: Path
    data: bytes
    instead_of: tuple[Path, OSError] | None = None


def where_keys_are(file: Path, environ: Mapping[str, str], service_user: str | None = None) -> tuple[Path, ...]:
    """The files that may hold the keys for the configuration FILE, the first that can be read counts. For a service
    call it once, at its start; `service_user` is for root who checks the file on behalf of the service. It reads.
    """
    beside, folder = file.absolute().parent / KEYS_CREDENTIAL, environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return () if service_user is None else (beside,)
    credential = Path(folder, KEYS_CREDENTIAL)
    try:
        is_its_source = _text(beside) == _text(credential)
    except OSError:  # whoever reads the keys says so
        is_its_source = False
    return (beside, credential) if is_its_source else (credential,)


def _text(path: Path) -> bytes:
    """What it holds, without the line end that the unit's empty credential has; nothing where there is no such file."""
    try:
        return read_bytes(path, most=MAX_BYTES).strip()
    except FileNotFoundError:
        return b""


def read_key_file(paths: tuple[Path, ...]) -> KeyFile | None:
    """The first of these files that can be read; None where none is there. OSError where one that is there cannot be
    read, and no other can.
    """
    failed: tuple[Path, OSError] | None = None
    for path in paths:
        try:
            return KeyFile(path, read_bytes(path, most=MAX_BYTES), failed)
        except OSError as error:
            if failed is None or not isinstance(error, FileNotFoundError):
                failed = path, error
    if failed is not None and not isinstance(failed[1], FileNotFoundError):
        raise OSError(failed[1].errno, failed[1].strerror, str(failed[0]))
    return None

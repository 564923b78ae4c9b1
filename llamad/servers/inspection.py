"""A last look at the program and the model before a start: what would fail anyway is named without trying."""

import errno
import os
from pathlib import Path

from llamad.host.files import status
from llamad.host.gguf import GgufError, read_header
from llamad.host.sandbox import unreadable_hint
from llamad.servers.board import Failure
from llamad.servers.command import Launch


def inspect(launch: Launch) -> Failure | None:
    """Why a start is pointless, or None. It reads the disk: call it in a thread."""
    if (there := _fault_of(launch.binary)) is not None:
        hint = "install llama.cpp, or set llama_server:"
        return _permanent("binary-missing", f"{launch.binary} {there}", hint)
    return None if launch.model is None else _inspect_model(launch.model)


def _fault_of(binary: Path) -> str | None:
    try:
        status(binary)
    except FileNotFoundError:
        return "is not there"
    except OSError as error:
        return f"cannot be looked at: {error.strerror}"
    return None if os.access(binary, os.X_OK) else "is not executable"


def _inspect_model(model: Path) -> Failure | None:
    try:
        read_header(model)
    except FileNotFoundError:
        return _permanent(
            "model-missing", f"the model {model} is not there", "put it there, or mend model: or models_dir:"
        )
    except IsADirectoryError:
        return _permanent("model-missing", f"the model {model} is a folder", "model: names a .gguf file in it")
    except PermissionError:
        return _permanent(
            "model-unreadable", f"the model {model} may not be read by llamad", unreadable_hint(model, os.environ)
        )
    except OSError as error:
        why = f"the model {model} cannot be read: {error.strerror}"
        if error.errno == errno.EINVAL:  # no disk will make a file of a pipe
            return _permanent("model-unreadable", why, "model: names a .gguf file")
        return Failure("model-unreadable", why, "look at the disk")
    except GgufError as error:
        return _permanent("model-corrupt", f"the model {model} is not usable: {error}", "fetch it again")
    return None


def _permanent(cause: str, message: str, hint: str) -> Failure:
    return Failure(cause, message, hint, permanent=True)

"""Folders for sockets."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_folder() -> Iterator[Path]:
    """A folder whose name leaves room for a unix socket's, gone at the end."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="lt-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)

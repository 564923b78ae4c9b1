"""Builders for the tests of the configuration: a folder with models, a llama-server that only has a help text."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from llamad.config.loader import Loaded, load
from llamad.config.problems import told
from llamad.host.dirs import Directories
from tests.builders import gguf

HELP = Path(__file__).with_name("llama-server-help.txt")
"""What a real llama-server (of 2026-10) prints to `--help`."""


def a_program(path: Path, script: str) -> Path:
    """An executable shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@dataclass(frozen=True, slots=True)
class Place:
    """A machine's worth of folders below one."""

    root: Path

    @property
    def dirs(self) -> Directories:
        """Where llamad works."""
        return Directories(self.root / "run", self.root / "state", self.root / "cache")

    @property
    def file(self) -> Path:
        """The configuration's first file."""
        return self.root / "etc" / "llamad.yaml"

    @property
    def machine(self) -> Path:
        """What the kernel shows: two GPUs."""
        return self.root / "machine"

    @property
    def environ(self) -> dict[str, str]:
        """PATH has llama-server, and nothing else of the machine's."""
        return {"PATH": str(self.root / "bin")}

    def write(self, text: str, *, drop_in: str | None = None) -> Path:
        """Write the first file, or a drop-in."""
        path = self.file if drop_in is None else self.file.parent / "conf.d" / drop_in
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def load(self, text: str | None = None, **environ: str) -> Loaded:
        """Load the files, after writing `text` as the first one."""
        if text is not None:
            self.write(text)
        return load(self.file, self.dirs, environ=self.environ | environ, machine=self.machine)

    def lines(self, loaded: Loaded) -> list[str]:
        """Its problems as `LINE:COL: path: message`, with the folder as `~~`."""
        etc = f"{self.file.parent}/"
        return [
            line.removeprefix(etc).removeprefix("llamad.yaml:").replace(str(self.root), "~~")
            for line in told(loaded.problems)
        ]


def a_place(root: Path) -> Place:
    """A place with a llama-server and a few models in it."""
    place = Place(root)
    models = place.dirs.models
    for folder in (models, models / "folder", root / "bin"):
        folder.mkdir(parents=True)
    for path in ("proc/driver/nvidia/gpus/0000:01:00.0", "proc/driver/nvidia/gpus/0000:02:00.0", "sys/class"):
        (place.machine / path).mkdir(parents=True)
    for name in ("m.gguf", "big-00001-of-00003.gguf", "big-00002-of-00003.gguf"):
        (models / name).write_bytes(gguf(tensors=1))
    (models / "short.gguf").write_bytes(gguf(tensors=2)[:-33])
    (models / "text.gguf").write_text("<!doctype html>")
    a_program(root / "bin" / "llama-server", f"exec /bin/cat {shlex.quote(str(HELP))}")
    return place

"""Builders for the things tests need many of."""

import shlex
import struct
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llamad.config.model import LimitsConfig
from llamad.config.optionfiles import NamedFile, Use
from llamad.servers.command import Launch

FAKE_LLAMA = Path(__file__).with_name("fake_llama.py")


def fake_binary(folder: Path, *, name: str = "llama-server", **misbehaviour: object) -> Path:
    """A program in `folder` that is the fake llama-server, misbehaving as asked: `fake_binary(tmp_path, die="start",
    exit_code=3)` sets FAKE_DIE and FAKE_EXIT_CODE (tests/fake_llama.py names them all). What a process has in its own
    environment goes before.
    """
    lines = [
        f'export FAKE_{key.upper()}="${{FAKE_{key.upper()}-{_inside_quotes(str(value))}}}"'
        for key, value in misbehaviour.items()
    ]
    command = f'exec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(FAKE_LLAMA))} "$@"'
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines, command, ""]))
    path.chmod(0o755)
    return path


def _inside_quotes(text: str) -> str:
    return "".join("\\" + one if one in '"\\$`}' else one for one in text)


def a_launch(name: str = "a", **changes: Any) -> Launch:
    """What a replica of server `name` runs."""
    launch = Launch(
        binary=Path("/usr/bin/llama-server"),
        arguments=("--model", f"/models/{name}.gguf"),
        environment=(),
        credentials=(),
        port=None,
        limits=LimitsConfig(),
        model=Path(f"/models/{name}.gguf"),
        gpus_asked=False,
    )
    launch = replace(launch, **changes)
    files = () if launch.model is None else (NamedFile(launch.model, Use.MODEL),)
    return launch if launch.files else replace(launch, files=files)


def gguf_text(text: str) -> bytes:
    """A string as GGUF has it."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_value(value: object) -> bytes:
    """Type and value of a metadata entry: bool, int (u32), float (f32), str, list, or bytes as they are."""
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + gguf_text(value)
        case bytes():
            return value
        case [str(), *_]:
            return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(gguf_text(str(one)) for one in value)
        case list():
            return struct.pack(f"<IIQ{len(value)}I", 9, 4, len(value), *value)
    raise TypeError(value)


def gguf(metadata: Mapping[str, object] | None = None, *, tensors: int = 0, data: bytes | None = None) -> bytes:
    """A GGUF file, version 3: `tensors` tensors of 32 bytes each, and their data unless given."""
    out = b"GGUF" + struct.pack("<IQQ", 3, tensors, len(metadata or {}))
    for key, value in (metadata or {}).items():
        out += gguf_text(key) + gguf_value(value)
    for i in range(tensors):
        out += gguf_text(f"blk.{i}.weight") + struct.pack("<IQIQ", 1, 8, 0, 32 * i)
    out += bytes(-len(out) % 32)
    return out + (bytes(32 * tensors) if data is None else data)

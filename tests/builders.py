"""Builders for the things tests need many of."""

import shlex
import sys
from pathlib import Path

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

"""Runs inside the virtual machine: does what the tests ask for over its serial line.

A request is a line with a JSON object: `argv`, `stdin`, and `timeout` in seconds; the answer is one with `code` (124:
it took too long), `stdout` and `stderr`. The first line says that the machine is up.
"""

import json
import os
import subprocess
import tty
from typing import Any

LINE = "/dev/ttyS0"


def answer(request: dict[str, Any]) -> dict[str, object]:
    """What a command does."""
    try:
        done = subprocess.run(
            request["argv"],
            input=request["stdin"],
            timeout=request["timeout"],
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return {"code": 124, "stdout": "", "stderr": str(error)}
    except OSError as error:
        return {"code": 127, "stdout": "", "stderr": str(error)}
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


def main() -> None:
    """Until the machine ends."""
    fd = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(fd)
    with open(fd, "rb", closefd=False) as requests, open(fd, "wb", closefd=False) as answers:
        answers.write(b"{}\n")
        answers.flush()
        for line in requests:
            answers.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
            answers.flush()


if __name__ == "__main__":
    main()

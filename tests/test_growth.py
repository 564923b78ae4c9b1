"""Nothing is kept per restart: the growth guard of tests/bench, shorter, in a process of its own."""

import subprocess
import sys
from pathlib import Path


def test_restarts_leave_no_descriptor_no_task_and_no_bytes() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "tests.bench.growth", "150"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.startswith("150 restarts: +0 descriptors, +0 tasks")

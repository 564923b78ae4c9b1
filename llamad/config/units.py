"""Durations and sizes as an operator writes them, and as the code keeps them: seconds (float) and bytes (int)."""

import re

_DURATION = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_STEPS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
_MAX_SECONDS = 366 * 86400.0
_MAX_BYTES = 1 << 60


def parse_duration(value: object) -> float:
    """Read `500ms`, `30s`, `5m`, `1h`, `2d` or a number of seconds; returns seconds. ValueError says what is wrong."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is no duration: write 500ms, 30s, 5m, 1h, or a number of seconds")
        seconds = float(match[1]) * _DURATION[match[2]]
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{value!r} is out of range: from 0 to 366 days")
    return seconds


def parse_size(value: object) -> int:
    """Read `512M`, `20G` (powers of 1024; `iB` or `B` may follow) or bytes. ValueError says what is wrong."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", value) if isinstance(value, str) else None
        if match is None:
            raise ValueError(f"{value!r} is no size: write 512M, 20G, or a number of bytes")
        size = int(float(match[1]) * _SIZE[match[2]])
    if not 0 <= size <= _MAX_BYTES:
        raise ValueError(f"{value!r} is out of range: from 0 to {_MAX_BYTES >> 40}T")
    return size


def format_duration(seconds: float) -> str:
    """A duration for a person: `350ms`, `4.2s`, `3m 20s`, `2h 5m`, `3d 4h`."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    whole = round(seconds)
    size, unit, below, small = next(step for step in _STEPS if whole >= step[0])
    rest = whole % size // below
    return f"{whole // size}{unit}" + (f" {rest}{small}" if rest else "")


def format_wait(seconds: float) -> str:
    """When something comes, for a person: `in 4.2s`, `at once`."""
    return f"in {format_duration(seconds)}" if seconds >= 0.001 else "at once"


def format_size(size: int) -> str:
    """A size for a person: powers of 1024, one digit where it helps: `1.5G`, `512M`, `900`."""
    for unit in ("T", "G", "M", "K"):
        if size >= _SIZE[unit]:
            return f"{size / _SIZE[unit]:.1f}".removesuffix(".0") + unit
    return str(size)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.config.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("500ms", 0.5),
        ("30s", 30),
        ("5m", 300),
        ("1h", 3600),
        ("2d", 172800),
        ("1.5 h", 5400),
        (7, 7),
        (0.25, 0.25),
        ("0s", 0),
    ],
)
def test_durations(value: object, seconds: float) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["", "5", "s", "5 min", "-1s", "1h30m", True, None, [1], "1e3s"])
def test_no_durations(value: object) -> None:
    with pytest.raises(ValueError, match="is no duration: write 500ms, 30s, 5m, 1h, or a number of seconds"):
        parse_duration(value)


@pytest.mark.parametrize("value", [-1, "367d", float("nan"), float("inf")])
def test_durations_out_of_range(value: object) -> None:
    with pytest.raises(ValueError, match="is out of range: from 0 to 366 days"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("512M", 512 << 20),
        ("20G", 20 << 30),
        ("1.5GiB", 3 << 29),
        ("7 KB", 7168),
        ("9B", 9),
        ("9", 9),
        (9, 9),
        ("2T", 2 << 40),
    ],
)
def test_sizes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "M", "5X", "-5", True, None, 1.5, "20g"])
def test_no_sizes(value: object) -> None:
    with pytest.raises(ValueError, match="is no size: write 512M, 20G, or a number of bytes"):
        parse_size(value)


@pytest.mark.parametrize("value", [-1, 1 << 61, "9999999T"])
def test_sizes_out_of_range(value: object) -> None:
    with pytest.raises(ValueError, match="is out of range: from 0 to 1048576T"):
        parse_size(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.35, "350ms"),
        (4.2, "4.2s"),
        (30, "30s"),
        (60, "1m"),
        (200, "3m 20s"),
        (7500, "2h 5m"),
        (273600, "3d 4h"),
        (86400, "1d"),
    ],
)
def test_a_duration_for_a_person(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(900, "900"), (1536, "1.5K"), (512 << 20, "512M"), (3 << 29, "1.5G"), (1 << 40, "1T")]
)
def test_a_size_for_a_person(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, 1 << 60))
def test_a_size_as_shown_is_a_size_as_written(size: int) -> None:
    assert abs(parse_size(format_size(size)) - size) <= size * 0.06

"""Several servers' metrics as one valid exposition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.gateway.merge import merge
from tests.expositions import read_exposition, value

LLAMA = """\
# HELP llamacpp:prompt_tokens_total Number of prompt tokens processed.
# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 17
# HELP llamacpp:n_busy_slots_per_decode Average number of busy slots.
# TYPE llamacpp:n_busy_slots_per_decode counter
llamacpp:n_busy_slots_per_decode 1.5
# HELP llamacpp:requests_processing Number of requests processing.
# TYPE llamacpp:requests_processing gauge
llamacpp:requests_processing 2
"""
A, B = {"server": "a", "replica": "0"}, {"server": "b", "replica": "1"}


def lines(text: str) -> list[str]:
    """What one server's text becomes."""
    data = merge([({"server": "a"}, text)])
    read_exposition(data)
    return data.decode().splitlines()


def test_two_servers_share_their_families() -> None:
    data = merge([(A, LLAMA), (B, LLAMA.replace(" 17", " 18"))])
    samples = read_exposition(data)
    assert value(samples, "llamacpp:prompt_tokens_total", **A) == 17
    assert value(samples, "llamacpp:prompt_tokens_total", **B) == 18
    assert value(samples, "llamacpp:requests_processing", **B) == 2
    text = data.decode()
    assert text.count("# TYPE llamacpp:n_busy_slots_per_decode counter\n") == 1
    assert 'llamacpp:n_busy_slots_per_decode{server="a",replica="0"} 1.5\n' in text  # its own name is kept


def test_nothing_gives_nothing() -> None:
    assert merge([]) == b""
    assert merge([(A, ""), (B, "# TYPE x gauge\n")]) == b""


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        ("x 1", 'x{server="a"} 1'),
        ("x{} 1", 'x{server="a"} 1'),
        ('x{a="b"} 1 1700000000', 'x{server="a",a="b"} 1'),
        ('x{a="b",} NaN', 'x{server="a",a="b"} NaN'),
        ('x{a="\\"},{",b="\\\\"} +Inf', 'x{server="a",a="\\"},{",b="\\\\"} +Inf'),
        ('x{server="mine",a="server=\\"no\\""} 1', 'x{server="a",exported_server="mine",a="server=\\"no\\""} 1'),
    ],
)
def test_labels_are_added(sample: str, expected: str) -> None:
    assert lines(sample + "\n") == ["# TYPE x untyped", expected]


@pytest.mark.parametrize(
    "line",
    [
        "x",
        "x one",
        "x 1_0",
        "x ١",
        "1x 1",
        'x{a="b} 1',
        "x{a=b} 1",
        'x{a="\\x"} 1',
        "x 1 2 3",
        "llamad_up 1",
        "\x00",
        "{} 1",
    ],
)
def test_lines_that_make_no_sense_are_left_out(line: str) -> None:
    assert lines(f"{line}\ny 2\n") == ["# TYPE y untyped", 'y{server="a"} 2']


def test_a_series_is_there_once() -> None:
    assert lines("x 1\nx 2\n") == ["# TYPE x untyped", 'x{server="a"} 1']


def test_families_are_grouped_and_described_once_whatever_the_server_does() -> None:
    text = (
        "x 1\n# TYPE x gauge\n# HELP x one\n# HELP x two\ny 1\n# TYPE y counter\n" + 'x{a="b"} 2\n# TYPE z histogram\n'
    )
    out = lines(text + 'z_bucket{le="+Inf"} 1\n# HELP x_\\y a\\b\\nc\\\\d\n# HELP q a\\b\\nc\\\\d\nq 1\n')
    assert out[:2] == ["# HELP x one", "# TYPE x untyped"]
    assert "# HELP q a\\\\b\\nc\\\\d" in out
    assert "# TYPE z_bucket untyped" in out


def test_added_labels_are_escaped() -> None:
    samples = read_exposition(merge([({"server": 'a"\\\n'}, "x 1\n")]))
    assert value(samples, "x", server='a"\\\n') == 1


@given(st.lists(st.text(max_size=80) | st.sampled_from(LLAMA.splitlines()), max_size=10))
def test_whatever_servers_write_the_result_is_valid(written: list[str]) -> None:
    read_exposition(merge([(A, "\n".join(written)), (B, LLAMA)]))

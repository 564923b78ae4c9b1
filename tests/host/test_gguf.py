"""GGUF headers: what is read, and that nothing hostile or broken costs anything."""

import os
import struct
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.host.gguf import MAX_KEPT, MAX_STRING, GgufError, Header, Part, read_header, split_part
from tests.builders import gguf, gguf_text

WHOLE = {
    "general.architecture": "llama",
    "general.name": "A Model",
    "general.type": "model",
    "general.file_type": 15,
    "llama.context_length": 8192,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.add_bos": True,
    "tokenizer.ggml.tokens": ["<s>", "</s>", "é"] * 40_000,
    "tokenizer.ggml.scores": [0] * 1000,
    "tokenizer.chat_template": "{{ messages }}" * 500,
    "split.count": 3,
}


def a_file(folder: Path, content: bytes, name: str = "m.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_a_whole_header(tmp_path: Path) -> None:
    assert read_header(a_file(tmp_path, gguf(WHOLE, tensors=5))) == Header(
        version=3,
        tensors=5,
        architecture="llama",
        name="A Model",
        kind="model",
        quantization="Q4_K_M",
        context_length=8192,
        chat_template=True,
        split_count=3,
    )


def test_a_header_with_nothing_in_it_is_valid(tmp_path: Path) -> None:
    assert read_header(a_file(tmp_path, b"GGUF" + struct.pack("<IQQ", 2, 0, 0))) == Header(version=2, tensors=0)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (0, "F32"),
        (7, "Q8_0"),
        (18, "Q6_K"),
        (25, "IQ4_NL"),
        (32, "BF16"),
        (38, "MXFP4_MOE"),
        (99, "type 99"),
        (1025, "F16"),
    ],
)
def test_file_types_by_name(tmp_path: Path, number: int, name: str) -> None:
    assert read_header(a_file(tmp_path, gguf({"general.file_type": number}))).quantization == name


def test_values_of_another_type_than_expected_are_not_taken(tmp_path: Path) -> None:
    odd = {"general.name": 3, "general.file_type": "x", "llama.context_length": True, "general.architecture": "llama"}
    assert read_header(a_file(tmp_path, gguf(odd))) == Header(version=3, tensors=0, architecture="llama")


def test_long_texts_are_cut(tmp_path: Path) -> None:
    header = read_header(a_file(tmp_path, gguf({"general.name": "n" * 100_000, "general.type": "model"})))
    assert header.name == "n" * MAX_KEPT
    assert header.kind == "model"


def head(tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def array(kind: int, count: int) -> bytes:
    return gguf_text("a") + struct.pack("<IIQ", 9, kind, count)


BROKEN: list[tuple[str, bytes, str]] = [
    ("empty", b"", "it is empty"),
    ("short", b"GG", "it is no GGUF file: it begins with 'GG'"),
    ("magic", b"GGML\3\0\0\0", "it is no GGUF file: it begins with 'GGML'"),
    ("html", b"\n<!DOCTYPE html><html>", "it is a web page, not a model: the download saved an error or login page"),
    (
        "lfs",
        b"version https://git-lfs.github.com/spec/v1\n",
        "it is a git-lfs pointer, not the model itself: run git lfs pull",
    ),
    (
        "big-endian",
        b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
        "it is big-endian (GGUF version 3), made for another kind of machine",
    ),
    ("v1", head(version=1), "it is GGUF version 1, versions 2 and 3 are known"),
    ("v9", head(version=9), "it is GGUF version 9, versions 2 and 3 are known"),
    ("header-cut", head()[:20], "it is cut short: it ends inside its header, after 20 bytes"),
    ("tensors", head(tensors=1 << 60), "it claims to have 1152921504606846976 tensors; at most 262144 are read"),
    ("keys", head(keys=1 << 60), "it claims to have 1152921504606846976 metadata keys; at most 16384 are read"),
    ("no-keys", head(keys=3), "it is cut short: it ends inside its header, after 24 bytes"),
    ("key-size", head(keys=1) + struct.pack("<Q", 1 << 40), "a key is 1099511627776 bytes long, at byte 32"),
    ("key-text", head(keys=1) + struct.pack("<Q", 2) + b"\xff\xff", "it has a key that is no text: b'\\xff\\xff'"),
    ("twice", head(keys=2) + (gguf_text("a") + struct.pack("<IB", 0, 1)) * 2, "it has the key b'a' twice"),
    ("type", head(keys=1) + gguf_text("a") + struct.pack("<I", 13), "the key 'a' has the unknown type 13"),
    (
        "string-size",
        head(keys=1) + gguf_text("a") + struct.pack("<IQ", 8, MAX_STRING + 1),
        f"the value of a is {MAX_STRING + 1} bytes long, at byte 45",
    ),
    (
        "string-cut",
        head(keys=1) + gguf_text("a") + struct.pack("<IQ", 8, 99),
        "it is cut short: it ends inside its header, after 45 bytes",
    ),
    ("array-huge", head(keys=1) + array(4, 1 << 62), "it is cut short: it ends inside its header, after 49 bytes"),
    ("array-strings", head(keys=1) + array(8, 1 << 62), "the array 'a' makes more than 4000000 strings"),
    ("array-cut", head(keys=1) + array(8, 100), "it is cut short: it ends inside its header, after 49 bytes"),
    (
        "array-string",
        head(keys=1) + array(8, 1) + struct.pack("<Q", 1 << 63) + b"x",
        "it has a text of 9223372036854775808 bytes",
    ),
    (
        "array-string-cut",
        head(keys=1) + array(8, 1) + struct.pack("<Q", 1 << 20),
        "it is cut short: it ends inside its header, after 57 bytes",
    ),
    ("nested", head(keys=1) + array(9, 1), "the array 'a' has the unknown type 9"),
    ("alignment", gguf({"general.alignment": 3}), "its alignment of 3 is no power of two"),
    ("dimensions", head(tensors=1) + gguf_text("t") + struct.pack("<I", 5), "tensor 0 has 5 dimensions"),
    ("no-data", gguf(tensors=2, data=b""), "it is cut short: it has 128 bytes, its last tensor begins at 160"),
]


@pytest.mark.parametrize(("content", "says"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_what_is_broken_is_named(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(GgufError) as caught:
        read_header(a_file(tmp_path, content))
    assert str(caught.value) == says


def test_a_header_that_never_ends_is_given_up(tmp_path: Path) -> None:
    path = a_file(tmp_path, head(keys=1) + array(0, 1 << 30))
    os.truncate(path, (1 << 30) + 1000)
    with pytest.raises(GgufError, match="its header is longer than 128 MiB"):
        read_header(path)


def test_a_file_that_shrinks_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = a_file(tmp_path, gguf(WHOLE))
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: real(fd, count, at)[:100])
    with pytest.raises(GgufError, match="became shorter"):
        read_header(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    with pytest.raises(OSError, match="it is a named pipe"):
        read_header(tmp_path / "fifo.gguf")
    with pytest.raises(IsADirectoryError):
        read_header(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_header(tmp_path / "nothing")


def test_a_file_that_changed_is_read_anew(tmp_path: Path) -> None:
    path = a_file(tmp_path, gguf({"general.name": "one"}))
    assert read_header(path).name == "one"
    a_file(tmp_path, gguf({"general.name": "three"}))
    assert read_header(path).name == "three"


@given(
    st.lists(st.tuples(st.integers(4, 200), st.integers(0, 255)), min_size=1, max_size=4),
    st.integers(0, 250),
)
def test_bytes_at_random_never_break_the_reader(changes: list[tuple[int, int]], length: int) -> None:
    whole = bytearray(gguf({"general.architecture": "llama", "a": [1, 2], "b": ["x", "y"], "c": 1.0}, tensors=2))
    for at, value in changes:
        whole[at] = value
    with tempfile.NamedTemporaryFile(suffix=".gguf") as file:
        file.write(whole[:length])
        file.flush()
        with suppress(GgufError):
            assert read_header(Path(file.name)).version in (2, 3)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("big-00002-of-00003.gguf", Part("big", 2, 3)),
        ("a-00001-of-00002-00001-of-00004.gguf", Part("a-00001-of-00002", 1, 4)),
        ("big.gguf", None),
        ("-00001-of-00002.gguf", None),
        ("big-00001-of-00002.GGUF", None),
        ("big-00001-of-2.gguf", None),
        ("big-0000\u0661-of-00002.gguf", None),
    ],
)
def test_the_name_of_a_part_of_a_split_model(name: str, part: Part | None) -> None:
    assert split_part(name) == part
    if part is not None:
        assert part.file_name == name

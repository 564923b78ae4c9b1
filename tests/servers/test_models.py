"""What lies in a folder of models, and what servers say they serve."""

import os
from pathlib import Path

import pytest

from llamad.host.gguf import Header
from llamad.servers import models
from llamad.servers.models import Kind, ModelFile, ModelsFolderError, Served, scan, served, served_by_file
from tests.builders import gguf

LLAMA = gguf({"general.architecture": "llama", "llama.context_length": 4096, "general.file_type": 2})


def put(folder: Path, *names: str, content: bytes = LLAMA) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def by_name(folder: Path) -> dict[str, ModelFile]:
    return {one.name: one for one in scan(folder)}


def test_models_in_folders_by_path(tmp_path: Path) -> None:
    put(tmp_path, "b.gguf", "sub/deep/a.GGUF", "notes.txt", ".hidden/c.gguf")
    found = scan(tmp_path)
    assert [str(one.path.relative_to(tmp_path)) for one in found] == ["b.gguf", "sub/deep/a.GGUF"]
    first = found[0]
    assert (first.name, first.kind, first.size, first.parts) == ("b", Kind.MODEL, len(LLAMA), (tmp_path / "b.gguf",))
    assert first.problem is None
    assert first.header == Header(3, 0, architecture="llama", quantization="Q4_0", context_length=4096)


def test_a_folder_that_is_not_there_has_no_models(tmp_path: Path) -> None:
    assert scan(tmp_path / "later") == []


def test_a_folder_that_is_none_is_named(tmp_path: Path) -> None:
    put(tmp_path, "file")
    with pytest.raises(ModelsFolderError) as caught:
        scan(tmp_path / "file")
    assert caught.value.message == f"cannot read {tmp_path}/file: Not a directory"


def test_a_closed_folder_below_is_in_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "closed/a.gguf", "b.gguf")
    real = os.scandir

    def closed(path: Path) -> object:
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", closed)  # root may read everything, so the file system cannot play this
    found = by_name(tmp_path)
    assert found["closed"].problem == "this folder cannot be read: Permission denied"
    assert found["b"].problem is None


def test_broken_and_unreadable_files_are_marked(tmp_path: Path) -> None:
    put(tmp_path, "bad.gguf", content=b"nonsense")
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "gone.gguf").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.gguf")
    found = by_name(tmp_path)
    assert {name: one.problem for name, one in found.items()} == {
        "bad": "it is no GGUF file: it begins with 'nons'",
        "loop": "it cannot be read: Too many levels of symbolic links",
        "gone": "it is a link to a file that is not there",
        "fifo": "it cannot be read: it is a named pipe, not a file",
    }
    assert [found[name].size for name in ("bad", "loop", "fifo")] == [8, 0, 0]


def test_links_are_followed_but_no_folder_twice(tmp_path: Path) -> None:
    put(tmp_path, "blobs/x", "models/real.gguf")
    (tmp_path / "models/link.gguf").symlink_to("../blobs/x")
    (tmp_path / "models/again").symlink_to(tmp_path)
    (tmp_path / "models/self").symlink_to(".")
    (tmp_path / "elsewhere").symlink_to("models")
    assert sorted(one.name for one in scan(tmp_path / "models")) == ["link", "real"]
    assert sorted(one.name for one in scan(tmp_path)) == ["link", "real"]


def test_depth_and_count_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "1/2/3/4/5/in.gguf", "1/2/3/4/5/6/out.gguf")
    assert [one.name for one in scan(tmp_path)] == ["in"]
    put(tmp_path, *(f"many/{i:03}.gguf" for i in range(30)))
    monkeypatch.setattr(models, "MAX_ENTRIES", 20)
    assert 1 <= len(scan(tmp_path)) < 20


def test_a_split_model_is_one(tmp_path: Path) -> None:
    put(tmp_path, *(f"big-0000{i}-of-00003.gguf" for i in (1, 2, 3)))
    (one,) = scan(tmp_path)
    assert (one.name, one.path, one.size) == ("big", tmp_path / "big-00001-of-00003.gguf", 3 * len(LLAMA))
    assert [path.name[4:9] for path in one.parts] == ["00001", "00002", "00003"]
    assert one.problem is None
    assert one.header is not None


def test_parts_of_a_split_model_that_are_missing(tmp_path: Path) -> None:
    put(tmp_path, "big-00002-of-00003.gguf", "huge-00001-of-99999.gguf")
    found = by_name(tmp_path)
    assert found["big"].problem == "of 3 parts, these are missing: 00001, 00003"
    assert found["big"].path == tmp_path / "big-00001-of-00003.gguf"
    assert found["big"].header is None
    assert found["huge"].problem == (
        "of 99999 parts, these are missing: 00002, 00003, 00004, 00005, 00006 and 99993 more"
    )


def test_parts_that_do_not_fit(tmp_path: Path) -> None:
    put(tmp_path, "a-00001-of-00002.gguf", content=gguf({"split.count": 5}))
    put(tmp_path, "a-00002-of-00002.gguf", "b-00001-of-00002.gguf", "c-00003-of-00002.gguf")
    put(tmp_path, "b-00002-of-00002.gguf", content=b"")
    put(tmp_path, "d-00001-of-00001.gguf", content=gguf({"split.count": 1}))
    assert {name: one.problem for name, one in by_name(tmp_path).items()} == {
        "a": "its first part speaks of 5 parts, its name of 2",
        "b": "part 2: it is empty",
        "c": "part 3 of 2 makes no sense",
        "d": None,
    }


def test_a_model_knows_what_lies_beside_it(tmp_path: Path) -> None:
    put(tmp_path, "v/a.gguf", "v/b.gguf", "v/mmproj-F16.gguf", "v/a.jinja", "v/any.jinja", "other.gguf")
    put(tmp_path, "v/vision.gguf", content=gguf({"general.architecture": "clip"}))
    put(tmp_path, "v/tool.gguf", content=gguf({"general.type": "mmproj"}))
    put(tmp_path, "v/lora.gguf", content=gguf({"general.type": "adapter"}))
    found = by_name(tmp_path)
    kinds = {name: one.kind.value for name, one in found.items() if one.kind is not Kind.MODEL}
    assert kinds == {"mmproj-F16": "projector", "vision": "projector", "tool": "projector", "lora": "adapter"}
    assert [path.name for path in found["a"].projectors] == ["mmproj-F16.gguf", "tool.gguf", "vision.gguf"]
    assert [path.name for path in found["a"].templates] == ["a.jinja", "any.jinja"]
    assert [path.name for path in found["b"].templates] == ["any.jinja"]
    assert found["other"].projectors == found["other"].templates == found["lora"].projectors == ()


MODELS_JSON = {
    "object": "list",
    "data": [{"id": "m", "aliases": ["m", "default"], "meta": {"n_ctx": 512, "n_params": 134515008, "ftype": "Q4_1"}}],
}
PROPS_JSON = {
    "default_generation_settings": {"n_ctx": 2048, "params": {}},
    "total_slots": 4,
    "model_alias": "m",
    "model_path": "/m/a.gguf",
    "model_ftype": "Q4_1",
    "modalities": {"vision": True, "audio": False},
}


def test_what_a_server_says_it_serves() -> None:
    assert served(MODELS_JSON, PROPS_JSON) == Served(
        ("m", "default"), "server", 2048, 4, "/m/a.gguf", "Q4_1", 134515008, ("vision",)
    )
    assert served(MODELS_JSON, None) == Served(("m", "default"), "server", 512, None, None, "Q4_1", 134515008)
    assert served(None, PROPS_JSON) == Served(("m",), "server", 2048, 4, "/m/a.gguf", "Q4_1", None, ("vision",))


@pytest.mark.parametrize("models_json", [None, [], "x", {}, {"data": 3}, {"data": [3]}, {"data": [{"id": 3}]}])
@pytest.mark.parametrize("props_json", [None, [], 3, {}])
def test_answers_that_make_no_sense_say_nothing(models_json: object, props_json: object) -> None:
    assert served(models_json, props_json) is None


def test_odd_answers_are_taken_for_what_is_right_in_them() -> None:
    odd = {"total_slots": True, "model_path": 3, "modalities": [], "default_generation_settings": {"n_ctx": -1}}
    assert served({"data": [{"id": "m", "aliases": "x", "meta": 3}]}, odd) == Served(("m",), "server")
    assert served({}, {"total_slots": 2}) == Served((), "server", slots=2)


def test_a_flood_of_names_is_bounded() -> None:
    found = served({"data": [{"id": f"{i}" * 1000, "aliases": [f"{i}-{j}" for j in range(99)]} for i in range(99)]}, {})
    assert found is not None
    assert len(found.names) == models.MAX_NAMES
    assert max(map(len, found.names)) == models.MAX_TEXT


def test_the_file_speaks_where_the_server_does_not() -> None:
    header = Header(3, 1, quantization="Q8_0", context_length=4096)
    assert served_by_file(Path("/m/a.gguf"), header) == Served(("a",), "file", 4096, None, "/m/a.gguf", "Q8_0")
    split = Path("/m/big-00001-of-00003.gguf")
    assert served_by_file(split, None) == Served(("big",), "file", path=str(split))

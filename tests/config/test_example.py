"""The configuration that gets installed as /etc/llamad/llamad.yaml."""

import re
from pathlib import Path

from llamad.config.model import Config, ServerConfig
from tests.builders import gguf
from tests.config.files import a_place

EXAMPLE = (Path(__file__).parents[2] / "packaging" / "llamad.yaml").read_text()


def test_it_has_no_problem_and_says_the_defaults(tmp_path: Path) -> None:
    place = a_place(tmp_path)
    loaded = place.load(EXAMPLE)
    assert place.lines(loaded) == []
    assert loaded.config == Config(models_dir=place.dirs.models)


def test_its_server_has_no_problem_once_uncommented(tmp_path: Path) -> None:
    place = a_place(tmp_path)
    (place.dirs.models / "Qwen3-8B-Q4_K_M.gguf").write_bytes(gguf())
    head, _, tail = EXAMPLE.partition("\nservers:\n")
    loaded = place.load(f"{head}\nservers:\n" + "\n".join(line.removeprefix("#") for line in tail.splitlines()))
    assert place.lines(loaded) == []
    assert loaded.config is not None
    assert loaded.config.servers["qwen"] == ServerConfig(
        name="qwen",
        model=place.dirs.models / "Qwen3-8B-Q4_K_M.gguf",
        aliases=("default",),
        args={"ctx_size": 8192, "n_gpu_layers": 99, "flash_attn": "auto", "jinja": True},
        env={"LLAMA_ARG_THREADS": "8"},
    )


def test_it_tells_of_every_key() -> None:
    keys = {*Config.model_fields, *ServerConfig.model_fields} - {"name"}
    missing = {key for key in keys if not re.search(rf"\b{key}:|\b{key}\b", EXAMPLE)}
    assert missing == set()

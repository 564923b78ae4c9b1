"""What is said of an option that a binary does not know."""

import pytest

from llamad.config.helptext import OptionTable, parse_help
from llamad.config.renames import advice, nearest
from tests.config.files import HELP

NEW = parse_help(HELP.read_text())
MINIMAL = "--model M   x\n--host H   x\n--port P   x\n--ctx-size N   x\n"
OLD = parse_help(MINIMAL + "--mlock   x\n--no-mmap   x\n--draft-max N   x\n-md, --model-draft F   x\n--webui   x\n")


@pytest.mark.parametrize(
    ("table", "key", "said"),
    [
        (NEW, "no_mmap", "write load_mode: none"),
        (NEW, "mlock", "write load_mode: mlock, or load_mode: mmap+mlock"),
        (NEW, "--direct-io", "write load_mode: dio"),
        (NEW, "n_ctx", "write ctx_size"),
        (NEW, "num_gpu", "write n_gpu_layers"),
        (NEW, "max-tokens", "write n_predict"),
        (NEW, "type_k", "write cache_type_k"),
        (NEW, "spec_draft_ngl", "write n_gpu_layers_draft"),
        (NEW, "system_prompt_file", "it went out of llama.cpp: the client sends the system prompt with each request"),
        (NEW, "defrag", None),
        (OLD, "spec_draft_n_max", "write draft_max"),
        (OLD, "spec_draft_model", "write model_draft"),
        (OLD, "ui", "write webui"),
        (OLD, "load_mode", "this build is older than load_mode: write mmap: false, or mlock: true"),
        (OLD, "spec_draft_p_min", None),
    ],
)
def test_known_renames_in_both_directions(table: OptionTable, key: str, said: str | None) -> None:
    assert advice(table, key) == said


def test_what_a_build_has_removed_is_not_advised() -> None:
    assert advice(NEW, "draft_n_max") is None
    assert advice(NEW, "draft_max") == "write spec_draft_n_max"


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("ctx_sise", "--ctx-size"),
        ("--flash-atn", "--flash-attn"),
        ("flashattn", "--flash-attn"),
        ("size_ctx", "--ctx-size"),
        ("n_gpu_layer", "--n-gpu-layers"),
        ("temprature", "--temperature"),
        ("rope_frq_base", "--rope-freq-base"),
        ("tensro_split", "--tensor-split"),
        ("no_jinj", "--no-jinja"),
    ],
)
def test_a_slip_is_recognised(key: str, near: str) -> None:
    assert nearest(NEW, key) == near


@pytest.mark.parametrize(
    "key",
    ["no_mmap", "mmap", "top_m", "min_k", "cache_type", "cpu_layers", "fim-qwen-8b-default", "draft", "no_ctx_size",
     "xx", "embd-bge-small-en-default", "image_mid_tokens", "ngll", "-vv", "tool_call_parser", "tensorsplitting_rows",
     "keep_alive", "roop-frek-basis", "x" * 1_000_000],
)  # fmt: skip
def test_what_may_mean_something_else_is_no_guess(key: str) -> None:
    """A wrong guess that is followed does harm: no-mmproj switches vision off, top-p is not top-k."""
    assert nearest(NEW, key) is None

"""The environment of a llama-server."""

from pathlib import Path

import pytest

from llamad.config.helptext import parse_help
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.problems import Finding, ProblemKind
from llamad.config.variables import (
    inherited,
    variable_files,
    variable_problems,
    with_cache,
    with_paths,
    without_options,
)
from tests.config.files import HELP

TABLE = parse_help(HELP.read_text())
MINIMAL = "--model M   x\n--host H   x\n--port P   x\n--ctx-size N   x\n"
CACHE = Path("/cache")


def findings(env: dict[str, str], given: dict[str, str] | None = None, own: set[str] | None = None) -> list[Finding]:
    return list(variable_problems(TABLE, env, given or {}, frozenset(env if own is None else own)))


@pytest.mark.parametrize(
    "env",
    [
        {"LLAMA_ARG_THREADS": "8", "LLAMA_ARG_CTX_SIZE": "4096"},
        {"LLAMA_ARG_FLASH_ATTN": "on", "LLAMA_ARG_N_GPU_LAYERS": "all", "LLAMA_ARG_TENSOR_SPLIT": "3,1"},
        {"LLAMA_ARG_JINJA": "enabled", "LLAMA_ARG_MMPROJ_AUTO": "0", "LLAMA_ARG_NO_KV_OFFLOAD": "whatever"},
        {"HF_TOKEN": "x", "ANYTHING": "y", "GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"},
        {"LLAMA_ARG_HOST": "told of elsewhere"},
    ],
)
def test_variables_that_the_binary_reads(env: dict[str, str]) -> None:
    assert findings(env) == []


@pytest.mark.parametrize(
    ("name", "value", "message", "hint", "at_key"),
    [
        ("LLAMA_ARG_CTX_SISE", "1", "llama-server reads no such variable", "did you mean LLAMA_ARG_CTX_SIZE?", True),
        ("LLAMA_ARG_N_CTX", "1", "llama-server reads no such variable", "in args: write ctx_size", True),
        ("LLAMA_ARG_C", "1", "llama-server reads no such variable", "write LLAMA_ARG_CTX_SIZE", True),
        ("LLAMA_ARG_SEED", "1", "llama-server reads no such variable", "it has no variable: write seed in args", True),
        ("llama_arg_ctx_size", "1", "llama-server reads no such variable", "write LLAMA_ARG_CTX_SIZE", True),
        ("LLAMA_ARG_NO_MMAP", "1", "llama-server reads no such variable", "in args: write load_mode: none", True),
        ("LLAMA_ARG_NO_HOST_AT_ALL", "1", "llama-server reads no such variable", None, True),
        ("LLAMA_ARG_NO_CTX_SIZE", "1", "llama-server reads no such variable", None, True),
        ("LLAMA_ARG_THREADS", "many", "takes a whole number, not 'many'", None, False),
        ("LLAMA_ARG_FLASH_ATTN", "2", "takes on, off or auto, not '2'", None, False),
        (
            "LLAMA_ARG_JINJA", "yes", "is a flag: on, enabled, true, 1 or off, disabled, false, 0, not 'yes'",
            None, False
        ),
        (
            "LLAMA_ARG_CHAT_TEMPLATE_KWARGS", "{", "takes JSON, and this is none: Expecting property name enclosed in "
            "double quotes: line 1 column 2 (char 1)", None, False
        ),
        (
            "LLAMA_ARG_DRAFT_MAX", "1", "llama-server no longer has this option",
            "use --spec-draft-n-max or --spec-ngram-mod-n-max", True
        ),
    ],
)  # fmt: skip
def test_a_wrong_variable(name: str, value: str, message: str, hint: str | None, *, at_key: bool) -> None:
    assert findings({name: value}) == [Finding(("env", name), message, hint, at_key)]


def test_a_build_whose_help_names_no_variable_is_not_asked_for_any() -> None:
    table = parse_help(MINIMAL)
    assert list(variable_problems(table, {"LLAMA_ARG_X": "1"}, {}, frozenset({"LLAMA_ARG_X"}))) == []


def test_an_option_that_is_given_twice() -> None:
    """llama.cpp takes the one on the command line: what a server says in `env` would not count."""
    env, given = {"LLAMA_ARG_CTX_SIZE": "1"}, {"--ctx-size": "args.c"}
    [found] = findings(env, given)
    assert (found.message, found.hint) == (
        "is the same option as args.c", "llama-server would take the one on its command line: write it once"
    )  # fmt: skip
    assert findings(env, given, own=set()) == []


def test_an_option_that_will_go_is_a_remark() -> None:
    table = parse_help(MINIMAL + "--mlock   DEPRECATED in favor of `--load-mode`: x (env: LLAMA_ARG_MLOCK)\n")
    [found] = variable_problems(table, {"LLAMA_ARG_MLOCK": "1"}, {}, frozenset())
    assert (found.kind, found.hint) == (ProblemKind.REMARK, "--load-mode takes its place")


def test_the_files_that_variables_name() -> None:
    env = {"LLAMA_ARG_MMPROJ": "p.gguf", "LLAMA_ARG_LOG_FILE": "/x.log", "LLAMA_ARG_MODEL": "m", "OTHER": "/x"}
    assert list(variable_files(TABLE, env, Path("/models"))) == [
        (("env", "LLAMA_ARG_MMPROJ"), NamedFile(Path("/models/p.gguf"), Use.READ)),
        (("env", "LLAMA_ARG_LOG_FILE"), NamedFile(Path("/x.log"), Use.WRITTEN)),
    ]
    assert with_paths(TABLE, env, Path("/models")) == env | {
        "LLAMA_ARG_MMPROJ": "/models/p.gguf", "LLAMA_ARG_MODEL": "/models/m"
    }  # fmt: skip


@pytest.mark.parametrize("name", ["LLAMA_CACHE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"])
def test_a_cache_of_the_operators_own_stays(name: str) -> None:
    """LLAMA_CACHE goes before all others: set over HF_HOME it would mean a second download."""
    assert with_cache({name: "/own"}, CACHE) == {name: "/own"}
    assert with_cache({name: ""}, CACHE)["LLAMA_CACHE"] == "/cache"


def test_llamads_own_cache_otherwise() -> None:
    assert with_cache({"A": "b"}, CACHE) == {"A": "b", "LLAMA_CACHE": "/cache"}


def test_what_is_inherited_and_what_a_question_gets() -> None:
    assert inherited({"PATH": "/bin", "LLAMA_ARG_X": "1", "LLAMAD_SOCKET": "/s"}) == {"PATH": "/bin"}
    assert without_options({"LD_LIBRARY_PATH": "/l", "LLAMA_ARG_X": "1", "LLAMA_API_KEY": "k"}) == {
        "LD_LIBRARY_PATH": "/l"
    }

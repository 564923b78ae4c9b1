"""Options of llama-server that an operator cannot give, because llamad decides them, or should think about. Pure."""

import re
from collections.abc import Iterator, Mapping, Sequence

from llamad.config.helptext import bare
from llamad.config.problems import Finding, ProblemKind
from llamad.config.values import ArgValue

_ADDRESS = "llamad decides where a server listens: use `port:` and `host:` beside `args:`"
_SOURCE = "the model is named by `model:` or `hf_repo:` beside `args:`"
_KEY = "llamad's own servers are asked without a key: clients are asked for theirs by gateway.api_keys_file"
_SECRET = "a secret on a command line is seen by every process: use `env_credentials:`"
_ROUTER = "llamad runs one model per server, not llama-server's router"
_PROBES = "llamad asks the server for its health over plain HTTP at the usual paths"
_EXITS = "it makes llama-server print something and end"
_RUNS = "whoever may ask this server can run commands and read files as llamad's user"
_RUNS_HINT = "leave it out unless every client is trusted"

OWNED: Mapping[str, str] = {
    **dict.fromkeys(("--host", "--port"), _ADDRESS),
    **dict.fromkeys(
        ("-m", "--model", "-mu", "--model-url", "-dr", "--docker-repo", "-hf", "-hfr", "--hf-repo"), _SOURCE
    ),
    **dict.fromkeys(("--api-key", "--api-key-file"), _KEY),
    **dict.fromkeys(("-hft", "--hf-token"), _SECRET),
    **dict.fromkeys(("--models-dir", "--models-preset", "--models-max", "--models-autoload"), _ROUTER),
    **dict.fromkeys(("--no-models-autoload",), _ROUTER),
    **dict.fromkeys(("--api-prefix", "--ssl-key-file", "--ssl-cert-file"), _PROBES),
    **dict.fromkeys(("-h", "--help", "--usage", "--version", "-cl", "--cache-list"), _EXITS),
    **dict.fromkeys(("--list-devices", "--completion-bash"), _EXITS),
}
"""Options that are llamad's own, by every spelling -> why they cannot be given."""

OWNED_ENV: Mapping[str, str] = {
    **dict.fromkeys(("LLAMA_ARG_HOST", "LLAMA_ARG_PORT"), _ADDRESS.replace("args:", "env:")),
    **dict.fromkeys(
        ("LLAMA_ARG_MODEL", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO", "LLAMA_ARG_HF_REPO"),
        _SOURCE.replace("args:", "env:"),
    ),
    **dict.fromkeys(("LLAMA_API_KEY", "LLAMA_ARG_API_KEY_FILE"), _KEY),
    **dict.fromkeys(
        (
            "LLAMA_ARG_MODELS_DIR",
            "LLAMA_ARG_MODELS_PRESET",
            "LLAMA_ARG_MODELS_MAX",
            "LLAMA_ARG_MODELS_AUTOLOAD",
            "LLAMA_ARG_NO_MODELS_AUTOLOAD",
        ),
        _ROUTER,
    ),
    **dict.fromkeys(("LLAMA_ARG_API_PREFIX", "LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE"), _PROBES),
}
"""The same by environment variable."""

_RISKY = ("tools", "agent", "ag", "mcp-servers-config", "mcp-servers-json")
_RISKY_ENV = ("LLAMA_ARG_TOOLS", "LLAMA_ARG_AGENT", "LLAMA_ARG_MCP_SERVERS_CONFIG", "LLAMA_ARG_MCP_SERVERS_JSON")
_OFF = (None, False, "", "0", "off", "false", "disabled", "none")
_OWNED_BARE = {bare(spelling): reason for spelling, reason in OWNED.items()}


def is_owned(key: str) -> bool:
    """Whether a key of `args` is llamad's own option."""
    return bare(key) in _OWNED_BARE


def spelled(word: str) -> str:
    """The option that a word of a command line begins with, as llama-server reads it; `=VALUE` and a value in the same
    word are left off.
    """
    option = re.split(r"[=\s]", word, maxsplit=1)[0]
    return option.replace("_", "-") if option.startswith("--") else option


def owned_findings(
    args: Mapping[str, ArgValue], extra_args: Sequence[str], env: Mapping[str, str]
) -> Iterator[Finding]:
    """What can be said of these without the binary: options that are llamad's own, those without a value, and those
    that should be thought about.
    """
    for key, value in args.items():
        if is_owned(key):
            yield Finding(("args", key), "is llamad's own option", _OWNED_BARE[bare(key)], kind=ProblemKind.TEXT)
        elif value is None:
            yield Finding(("args", key), "has no value: write one, or leave the key out", kind=ProblemKind.TEXT)
        elif bare(key) in _RISKY and value not in _OFF:
            yield _risk("args", key)
    for index, word in enumerate(extra_args):
        option = spelled(word)
        if option in OWNED:
            message = f"{option} is llamad's own option"
            yield Finding(("extra_args", index), message, OWNED[option], kind=ProblemKind.TEXT)
        elif word.startswith("-") and option.lstrip("-") in _RISKY:
            yield _risk("extra_args", index)
    for name, value in env.items():
        if name in _RISKY_ENV and value not in _OFF:
            yield _risk("env", name)


def _risk(*path: str | int) -> Finding:
    return Finding(path, _RUNS, _RUNS_HINT, kind=ProblemKind.REMARK)

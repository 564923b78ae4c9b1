"""Options by the names they had, have, or have elsewhere: what to write where a binary does not know one. Pure.

A guess at what was meant is made only where it cannot mean something else: a typing error in a word, words in another
order. `no-mmap` is not `no-mmproj`, which would switch vision off.
"""

import re
from collections.abc import Mapping

from llamad.config.helptext import OptionTable, bare

_RENAMED: tuple[tuple[str, ...], ...] = (
    ("draft-max", "draft-n", "draft", "spec-draft-n-max"),
    ("draft-min", "draft-n-min", "spec-draft-n-min"),
    ("draft-p-min", "spec-draft-p-min"),
    ("draft-p-split", "spec-draft-p-split"),
    ("model-draft", "md", "spec-draft-model"),
    ("hf-repo-draft", "hfd", "hfrd", "spec-draft-hf"),
    ("n-gpu-layers-draft", "gpu-layers-draft", "ngld", "spec-draft-ngl"),
    ("device-draft", "devd", "spec-draft-device"),
    ("threads-draft", "td", "spec-draft-threads"),
    ("threads-batch-draft", "tbd", "spec-draft-threads-batch"),
    ("cache-type-k-draft", "ctkd", "spec-draft-type-k"),
    ("cache-type-v-draft", "ctvd", "spec-draft-type-v"),
    ("override-tensor-draft", "otd", "spec-draft-override-tensor"),
    ("cpu-moe-draft", "cmoed", "spec-draft-cpu-moe"),
    ("n-cpu-moe-draft", "ncmoed", "spec-draft-n-cpu-moe"),
    ("webui", "ui"),
    ("no-webui", "no-ui"),
    ("webui-config", "ui-config"),
    ("webui-config-file", "ui-config-file"),
    ("webui-mcp-proxy", "ui-mcp-proxy"),
    ("swa-checkpoints", "ctx-checkpoints"),
    ("embeddings", "embedding"),
    ("reranking", "rerank"),
    ("top-nsigma", "top-n-sigma"),
    ("typical", "typical-p"),
    ("temp", "temperature"),
    ("sampling-seq", "sampler-seq"),
    # what other programs call them (llama-cpp-python, ollama, LM Studio, text-generation-webui)
    ("n-ctx", "num-ctx", "context-size", "context-length", "ctx-len", "max-model-len", "ctx-size"),
    ("n-threads", "num-thread", "num-threads", "threads"),
    ("n-threads-batch", "threads-batch"),
    ("n-batch", "num-batch", "batch-size"),
    ("n-ubatch", "ubatch-size"),
    ("num-gpu", "ngpu-layers", "gpu-offload", "n-gpu-layers"),
    ("max-tokens", "num-predict", "n-predict"),
    ("n-parallel", "num-parallel", "parallel"),
    ("n-keep", "num-keep", "keep"),
    ("type-k", "kv-cache-type-k", "cache-type-k"),
    ("type-v", "kv-cache-type-v", "cache-type-v"),
    ("flash-attention", "flash-attn"),
    ("offload-kqv", "kv-offload"),
    ("model-alias", "served-model-name", "alias"),
    ("lora-path", "lora-adapter", "lora"),
    ("clip-model-path", "mmproj-path", "mmproj"),
    ("chat-format", "chat-template"),
    ("logits-all", "all-logits"),
)
"""Names of one option, of which a binary knows some: any of those says the same."""

_LOAD_MODE: Mapping[str, str] = {
    "mmap": "load_mode: mmap (true), or load_mode: none (false)",
    "no-mmap": "load_mode: none",
    "use-mmap": "load_mode: mmap (true), or load_mode: none (false)",
    "mlock": "load_mode: mlock, or load_mode: mmap+mlock",
    "use-mlock": "load_mode: mlock, or load_mode: mmap+mlock",
    "direct-io": "load_mode: dio",
    "dio": "load_mode: dio",
    "no-direct-io": "load_mode: auto",
    "ndio": "load_mode: auto",
}
"""What became values of --load-mode (llama.cpp, pull request 20834)."""

_GONE: Mapping[str, str] = {
    **dict.fromkeys(
        ("log-format", "log-enable", "log-new", "log-append", "log-test", "logdir", "ld", "simple-io"),
        "it went out of llama.cpp in 2024: llamad keeps what a server says (llamad logs)",
    ),
    **dict.fromkeys(
        ("system-prompt-file", "spf"), "it went out of llama.cpp: the client sends the system prompt with each request"
    ),
    **dict.fromkeys(
        ("grp-attn-n", "gan", "grp-attn-w", "gaw"), "it went out of llama.cpp: see rope_scaling and the yarn options"
    ),
    **dict.fromkeys(("tfs", "penalize-nl"), "it went out of llama.cpp, with the sampler it was for"),
    **dict.fromkeys(
        ("ctx-size-draft", "cd"), "it went out of llama.cpp: the draft model's context is that of the model"
    ),
    "spec-replace": "it went out of llama.cpp: draft model and model need the same vocabulary",
    "defrag-thold": "it went out of llama.cpp: leave it out",
    "dt": "it went out of llama.cpp: leave it out",
    "slots-endpoint-disable": "write slots: false",
    "memory-f32": "write cache_type_k: f32 and cache_type_v: f32",
    **dict.fromkeys(
        ("low-vram", "no-mul-mat-q", "mul-mat-q", "mmq"), "it went out of llama.cpp, which decides that by itself"
    ),
}
"""What is gone -> why, or what does the same."""

_LONGEST = 100
"""Characters of a name that is compared letter by letter."""
_BY_NAME = {name: group for group in _RENAMED for name in group}


def advice(options: OptionTable, key: str) -> str | None:
    """What to write in the place of an option that the binary does not know; None where nobody can tell."""
    name = bare(key)
    for other in _BY_NAME.get(name, ()):
        found = options.find(other)
        if other != name and found is not None and not found.removed:
            return f"write {_key(other)}"
    if name in _LOAD_MODE and options.find("load-mode") is not None:
        return f"write {_LOAD_MODE[name]}"
    if name in ("load-mode", "lm") and (options.find("mmap") or options.find("no-mmap")) is not None:
        return "this build is older than load_mode: write mmap: false, or mlock: true"
    return _GONE.get(name)


def _key(name: str) -> str:
    return name.replace("-", "_")


def nearest(options: OptionTable, key: str) -> str | None:
    """The long spelling of an option of the binary that `key` must be a slip of, with its dashes."""
    long = (spelling for spelling in options.spellings if spelling.startswith("--"))
    there = {spelling: option for spelling in long if (option := options.find(spelling)) and not option.removed}
    return nearest_of(bare(key), {bare(spelling): spelling for spelling in there})


def nearest_of(wanted: str, names: Mapping[str, str]) -> str | None:
    """What the key of `names` stands for that `wanted` must be a slip of."""
    plain = bare(wanted.lower().replace(" ", "-"))
    found = {name: rate for name in names if (rate := _distance(plain, bare(name))) is not None}
    near = min(found, key=lambda name: (found[name], -len(name)), default=None)
    return None if near is None else names[near]


def _distance(wanted: str, name: str) -> int | None:
    """How far two names are apart, in typing errors; None where they may mean different things."""
    if wanted.startswith("no-") is not name.startswith("no-") or len(wanted) > _LONGEST:
        return None
    mine, other = wanted.split("-"), name.split("-")
    if "".join(mine) == "".join(other):
        return 0
    if sorted(mine) == sorted(other) and len(mine) > 1:
        return 1
    if len(mine) != len(other):
        return None
    pairs = [(one, two) for one, two in zip(mine, other, strict=True) if one != two]
    slips = [_slips(one, two) for one, two in pairs]
    if len(pairs) > 2 or any(slip > _allowed(*pair) for slip, pair in zip(slips, pairs, strict=True)):
        return None
    return sum(slips)


def _allowed(one: str, two: str) -> int:
    """The typing errors that may be between two words: none in a short one, where each letter tells (top-k, top-p)."""
    if min(len(one), len(two)) < 3 or max(len(one), len(two)) < 4 or re.search(r"\d", one + two):
        return 0
    return 1 if max(len(one), len(two)) < 6 else 2


def _slips(one: str, two: str) -> int:
    """Letters too many, missing, wrong, or swapped with the next (Damerau-Levenshtein, restricted)."""
    before: list[int] = []
    row = list(range(len(two) + 1))
    for i, left in enumerate(one, 1):
        last, before = before, row
        row = [i]
        for j, right in enumerate(two, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (left != right))
            if i > 1 and j > 1 and left == two[j - 2] and one[i - 2] == right:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]

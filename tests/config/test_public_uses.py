"""Options as people use them: from public command lines, compose files and issue threads (llama.cpp, llama-swap, guides
and forum posts of 2025 and 2026), in the form they have in a configuration. None of them may be refused.
"""

from pathlib import Path

import pytest

from llamad.config.argv import argument_problems, arguments
from llamad.config.helptext import OptionTable, parse_help
from llamad.config.loader import Loaded
from tests.config.files import HELP, Place, a_place
from tests.fakes.options import HELP_FILE

USES = {
    "n_gpu_layers: 99": "--n-gpu-layers 99",
    "ngl: -1": "--n-gpu-layers -1",
    "n_gpu_layers: all": "--n-gpu-layers all",
    "ctx-size: 131072": "--ctx-size 131072",
    "c: 0": "--ctx-size 0",
    "np: 1": "--parallel 1",
    "fa: on": "--flash-attn on",
    "flash_attn: 1": "--flash-attn on",
    "flash-attn: auto": "--flash-attn auto",
    "{ctk: q8_0, ctv: q8_0}": "--cache-type-k q8_0 --cache-type-v q8_0",
    "{b: 4096, ub: 4096}": "--batch-size 4096 --ubatch-size 4096",
    "jinja: true": "--jinja",
    "no-webui: true": "--no-webui",
    "webui: off": "--no-webui",
    "no_context_shift: true": "--no-context-shift",
    "no-warmup: true": "--no-warmup",
    "mmproj-offload: false": "--no-mmproj-offload",
    "kv_offload: false": "--no-kv-offload",
    "cont-batching: yes": "--cont-batching",
    "swa-full: true": "--swa-full",
    "kv-unified: true": "--kv-unified",
    "n-cpu-moe: 20": "--n-cpu-moe 20",
    "cpu_moe: true": "--cpu-moe",
    'ot: "blk\\\\.(3|4|5|6|7)\\\\.ffn_.*=CUDA0,exps=CPU"': r"--override-tensor blk\.(3|4|5|6|7)\.ffn_.*=CUDA0,exps=CPU",
    "override-tensor: ['.ffn_(up|down)_exps.=CPU', 'output=CUDA0']": (
        "--override-tensor .ffn_(up|down)_exps.=CPU,output=CUDA0"
    ),
    "{ts: '3.5,1', sm: layer, mg: 0}": "--main-gpu 0 --split-mode layer --tensor-split 3.5,1",
    "tensor_split: [24, 12]": "--tensor-split 24,12",
    "device: [CUDA0, CUDA1]": "--device CUDA0,CUDA1",
    "device: none": "--device none",
    "rpc: '10.0.0.2:50052,10.0.0.3:50052'": "--rpc 10.0.0.2:50052,10.0.0.3:50052",
    "numa: numactl": "--numa numactl",
    "{load_mode: mlock, lazy_mode: on}": "--lazy-mode on --load-mode mlock",
    "{threads: 32, tb: -1, prio: 2, poll: 0, cpu-mask: '0xFF', cpu-range: 0-7}": (
        "--cpu-mask 0xFF --cpu-range 0-7 --poll 0 --prio 2 --threads 32 --threads-batch -1"
    ),
    "{temp: 0.6, top-p: 0.95, top-k: 20, min-p: 0.0, presence-penalty: 1.5, seed: 3407}": (
        "--min-p 0 --presence-penalty 1.5 --seed 3407 --temperature 0.6 --top-k 20 --top-p 0.95"
    ),
    "samplers: top_k;top_p;min_p;temperature": "--samplers top_k;top_p;min_p;temperature",
    "{dry-multiplier: 0.8, dry-sequence-breaker: none}": "--dry-multiplier 0.8 --dry-sequence-breaker none",
    "logit-bias: 151667-inf": "--logit-bias 151667-inf",
    "{rope-scaling: yarn, rope-scale: 4, yarn-orig-ctx: 32768}": (
        "--rope-scale 4 --rope-scaling yarn --yarn-orig-ctx 32768"
    ),
    "override-kv: 'qwen3moe.expert_used_count=int:16'": "--override-kv qwen3moe.expert_used_count=int:16",
    "chat-template: chatml": "--chat-template chatml",
    "chat-template-kwargs: {enable_thinking: false}": '--chat-template-kwargs {"enable_thinking":~false}',
    """chat-template-kwargs: '{"reasoning_effort": "high"}'""": '--chat-template-kwargs {"reasoning_effort":~"high"}',
    "{reasoning-format: deepseek, reasoning-budget: 0, reasoning: off}": (
        "--reasoning off --reasoning-budget 0 --reasoning-format deepseek"
    ),
    "{cache-ram: -1, cache-reuse: 256, ctx-checkpoints: 32}": ("--cache-ram -1 --cache-reuse 256 --ctx-checkpoints 32"),
    "{spec-type: draft-mtp, spec-draft-n-max: 2, spec-draft-p-min: 0.75}": (
        "--spec-draft-n-max 2 --spec-draft-p-min 0.75 --spec-type draft-mtp"
    ),
    "{embeddings: true, pooling: mean}": "--embeddings --pooling mean",
    "log_file: /dev/null": "--log-file /dev/null",
    "reranking: true": "--reranking",
    "slots: true": "--slots",
    "{timeout: 600, threads-http: 8, sleep-idle-seconds: 300}": (
        "--sleep-idle-seconds 300 --threads-http 8 --timeout 600"
    ),
    "{fit: off, fit-target: [1024, 512]}": "--fit off --fit-target 1024,512",
    "{log-verbosity: 4, log-colors: true, log-timestamps: true}": "--log-timestamps --log-colors on --log-verbosity 4",
    "{alias: 'qwen3,qwen', tags: fast}": "--alias qwen3,qwen --tags fast",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return a_place(tmp_path_factory.mktemp("place"))


def loaded(place: Place, args: str, more: str = "") -> Loaded:
    text = args if args.startswith("{") else f"{{{args}}}"
    return place.load(f"servers:\n  a:\n    model: m.gguf\n    args: {text}\n{more}")


@pytest.mark.parametrize("use", USES)
def test_an_option_as_people_use_it(place: Place, use: str) -> None:
    """`~` stands for a space within a word."""
    found = loaded(place, use)
    assert place.lines(found) == []
    assert found.config is not None
    server = found.config.servers["a"]
    words = arguments(found.binaries["a"].options, server.args, server.extra_args, place.dirs.models)
    assert words == tuple(word.replace("~", " ") for word in USES[use].split())


@pytest.mark.parametrize(
    "env",
    [
        {"LLAMA_ARG_CTX_SIZE": "8192", "LLAMA_ARG_N_GPU_LAYERS": "99", "LLAMA_ARG_ENDPOINT_METRICS": "1"},
        {"LLAMA_ARG_N_PARALLEL": "2", "LLAMA_ARG_FLASH_ATTN": "1", "LLAMA_ARG_CACHE_TYPE_K": "q8_0"},
        {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1", "GGML_CUDA_NO_PINNED": "1", "HSA_OVERRIDE_GFX_VERSION": "10.3.0"},
        {"HF_HOME": "/data/hf", "HF_HUB_ENABLE_HF_TRANSFER": "1", "LLAMA_ARG_NO_KV_OFFLOAD": "1"},
    ],
)
def test_variables_as_people_set_them(place: Place, env: dict[str, str]) -> None:
    assert place.lines(loaded(place, "", "    env: {" + ", ".join(f'{k}: "{v}"' for k, v in env.items()) + "}")) == []


def test_a_command_line_as_it_is_written_elsewhere(place: Place) -> None:
    words = ["-ngl", "99", "-c", "32768", "-fa", "1", "-ctk", "q8_0", "-np", "4", "--jinja", "-ot", "exps=CPU",
             "--chat-template-kwargs", '{"enable_thinking": false}', "-lv", "4", "--temp", "0.7"]  # fmt: skip
    more = "    extra_args: [" + ", ".join(repr(word) for word in words) + "]"
    assert place.lines(loaded(place, "", more)) == []


@pytest.mark.parametrize("table", [parse_help(HELP.read_text()), parse_help(Path(HELP_FILE).read_text())])
def test_every_option_of_a_help_can_be_given(table: OptionTable) -> None:
    """With a value of the kind that it asks for."""
    for option in table.options:
        if option.removed or option.argument is None:
            continue
        value = option.choices[0] if option.choices else "1"
        if option.arity == 2 or "/" in option.name:
            continue
        if option.argument in ("FNAME", "PATH", "FILE", "DIR"):
            value = "/x"
        found = argument_problems(table, {option.name: value}, ())
        assert all(one.kind.value == "remark" for one in found), found

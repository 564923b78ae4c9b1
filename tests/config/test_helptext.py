import pytest

from llamad.config.helptext import Option, OptionTable, bare, parse_help
from tests.config.files import HELP

MINIMAL = (
    "----- common params -----\n\n-m,    --model FNAME   x\n--host HOST   x\n--port PORT   x\n-c,    --ctx-size N   x\n"
)


@pytest.fixture(scope="module")
def table() -> OptionTable:
    return parse_help(HELP.read_text())


def option(table: OptionTable, key: str) -> Option:
    found = table.find(key)
    assert found is not None
    return found


def test_every_entry_of_a_real_help_is_read(table: OptionTable) -> None:
    heads = [line for line in HELP.read_text().splitlines() if line.startswith("-") and not line.startswith("---")]
    assert len(table.options) == len(heads) == 257
    assert all(word.startswith("-") for one in table.options for word in (*one.spellings, *one.negations))


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "flash-attn",
            Option(
                ("-fa", "--flash-attn"),
                argument="[on|off|auto]",
                choices=("on", "off", "auto"),
                words=("on", "off", "auto"),
                env="LLAMA_ARG_FLASH_ATTN",
            ),
        ),
        ("c", Option(("-c", "--ctx-size"), argument="N", env="LLAMA_ARG_CTX_SIZE", whole=True)),
        ("jinja", Option(("--jinja",), ("--no-jinja",), env="LLAMA_ARG_JINJA")),
        (
            "kv_offload",
            Option(("-kvo", "--kv-offload"), ("-nkvo", "--no-kv-offload"), env="LLAMA_ARG_KV_OFFLOAD"),
        ),
        (
            "webui",
            Option(("--ui", "--webui"), ("--no-ui", "--no-webui"), env="LLAMA_ARG_UI"),
        ),
        ("no-host", Option(("--no-host",), env="LLAMA_ARG_NO_HOST")),
        ("cpu-strict", Option(("--cpu-strict",), argument="<0|1>", choices=("0", "1"))),
        (
            "rope-scaling",
            Option(
                ("--rope-scaling",),
                argument="{none,linear,yarn}",
                choices=("none", "linear", "yarn"),
                env="LLAMA_ARG_ROPE_SCALING_TYPE",
            ),
        ),
        ("device", Option(("-dev", "--device"), argument="<dev1,dev2,..>", env="LLAMA_ARG_DEVICE", separator=",")),
        ("list-devices", Option(("--list-devices",))),
        (
            "cache-type-k",
            Option(
                ("-ctk", "--cache-type-k"),
                argument="TYPE",
                choices=("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"),
                env="LLAMA_ARG_CACHE_TYPE_K",
            ),
        ),
        ("control-vector-layer-range", Option(("--control-vector-layer-range",), argument="START END")),
        (
            "draft-max",
            Option(
                ("--draft", "--draft-n", "--draft-max"),
                argument="N",
                env="LLAMA_ARG_DRAFT_MAX",
                removed="use --spec-draft-n-max or --spec-ngram-mod-n-max",
            ),
        ),
    ],
)
def test_an_entry(table: OptionTable, key: str, expected: Option) -> None:
    assert table.find(key) == expected


def test_words_that_an_option_takes_beside_others(table: OptionTable) -> None:
    assert option(table, "n-gpu-layers").words == ("auto", "all")
    assert option(table, "lazy-mode").words == ("on", "auto", "off")
    assert option(table, "lazy-mode").choices is None


def test_what_follows_an_option(table: OptionTable) -> None:
    assert [
        option(table, key).arity for key in ("jinja", "ctx-size", "override-tensor", "control-vector-layer-range")
    ] == [
        0,
        1,
        1,
        2,
    ]


@pytest.mark.parametrize("key", ["ctx-size", "ctx_size", "--ctx-size", "--ctx_size", "c", "-c"])
def test_any_spelling_finds_an_option(table: OptionTable, key: str) -> None:
    assert option(table, key).name == "--ctx-size"


def test_a_word_of_a_command_line_is_taken_as_the_binary_takes_it(table: OptionTable) -> None:
    assert table.find_word("--ctx_size") is table.find_word("-c") is table.find("c")
    assert [table.find_word(word) for word in ("ctx-size", "-ctx-size", "--c", "-ctx_size")] == [None] * 4


def test_names_and_negations(table: OptionTable) -> None:
    assert option(table, "ngl").name == "--n-gpu-layers"
    assert option(table, "kvo").negation == "--no-kv-offload"
    assert option(table, "metrics").negation is None
    assert [table.negates(key) for key in ("nkvo", "kvo", "nothing")] == [True, False, False]


@pytest.mark.parametrize(
    ("key", "separator"),
    [
        ("tensor-split", ","), ("device", ","), ("lora", ","), ("override-kv", ","), ("spec-type", ","),
        ("fit-target", ","), ("samplers", ";"), ("ctx-size", None), ("mmproj", None), ("rope-scaling", None),
    ],
)  # fmt: skip
def test_what_stands_between_several_values(table: OptionTable, key: str, separator: str | None) -> None:
    assert option(table, key).separator == separator


@pytest.mark.parametrize(
    "words",
    [
        "apply LoRA adapter (can be repeated to use multiple adapters)",
        "advanced option to override model metadata by key. may be specified multiple times.",
        "an input file (repeat to specify multiple files)",
        "canonical speculative stage entry; repeat for a supported two-stage chain.",
    ],
)
def test_what_older_builds_gather(words: str) -> None:
    assert option(parse_help(f"{MINIMAL}--some FNAME   {words}\n"), "some").repeats


def test_whole_numbers_are_told_by_their_default(table: OptionTable) -> None:
    keys = ("ctx-size", "top-k", "temp", "rope-scale", "seed", "min-p", "timeout")
    assert [option(table, key).whole for key in keys] == [True, True, False, False, False, False, True]
    assert all(option(table, key).numeric for key in (*keys, "sleep-idle-seconds", "main-gpu", "poll"))


def test_an_option_that_lists_all_it_takes(table: OptionTable) -> None:
    kinds = option(table, "spec-type").choices
    assert kinds is not None
    assert kinds[:3] == ("none", "draft-simple", "draft-eagle3")
    assert option(table, "device").choices is None


def test_what_is_json(table: OptionTable) -> None:
    assert {one.name for one in table.options if one.json} == {
        "--json-schema", "--webui-config", "--mcp-servers-json", "--chat-template-kwargs"
    }  # fmt: skip


LOOSE = """usage: llama-server [options]

general:

  -h,    --help, --usage          print usage and exit
         --version                show version and build info
  -fa, --flash-attn (auto|on|off|0|1)
                                  set Flash Attention (default: on)
  -mqkv,  --merge-qkv,            merge Q,K,V (default: 0)
         --embedding(s)           restrict to only support embedding use case
         --numa TYPE              attempt optimizations that help on some NUMA systems
                                    - distribute: spread execution evenly over all nodes
                                  --not an option
  -nkvo, --no-kv-offload          disable KV offload
  -m,    --model FNAME            model path
         --host HOST              ip address to listen (default: 127.0.0.1)
         --port PORT              port to listen (default: 8080)
  -c,    --ctx-size N             size of the prompt context (default: 0)
"""


def test_the_help_of_ik_llama_and_of_older_builds() -> None:
    """Two spaces before each option, seven more in the place of a short one; descriptions from column 35."""
    table = parse_help(LOOSE)
    assert table.loose
    assert [one.spellings for one in table.options] == [
        ("-h", "--help", "--usage"), ("--version",), ("-fa", "--flash-attn"), ("-mqkv", "--merge-qkv"),
        ("--embedding", "--embeddings"), ("--numa",), ("-nkvo", "--no-kv-offload"), ("-m", "--model"),
        ("--host",), ("--port",), ("-c", "--ctx-size"),
    ]  # fmt: skip
    assert option(table, "fa").choices == ("auto", "on", "off", "0", "1")
    assert option(table, "numa").words == ("distribute",)
    assert (option(table, "mqkv").argument, option(table, "m").argument) == (None, "FNAME")


def test_todays_help_is_not_loose(table: OptionTable) -> None:
    assert not table.loose


def test_the_first_entry_of_a_spelling_counts() -> None:
    table = parse_help(MINIMAL + "--model OTHER   x\n")
    assert option(table, "model").argument == "FNAME"


@pytest.mark.parametrize("text", ["", "hello\n", "usage: ls [OPTION]\n  --all  x\n", "-\n- x\n", "-----\n"])
def test_another_programs_help_makes_no_sense(text: str) -> None:
    with pytest.raises(ValueError, match="its --help tells of no --model"):
        parse_help(text)


def test_llama_cli_is_not_llama_server() -> None:
    with pytest.raises(ValueError, match="tells of no --host"):
        parse_help("-m,    --model FNAME                    model path to load\n")


KOBOLD = """usage: koboldcpp.py [-h] [--model [filenames ...]] [--port [portnumber]] [--host [ipaddr]]
options:
  -h, --help            show this help message and exit
  --model [filenames ...], -m [filenames ...]
                        Model file to load.
  --port [portnumber]   Port to listen on.
  --host [ipaddr]       Host IP to listen on.
  --contextsize [256 to 262144]
                        Controls the memory allocated for maximum context size.
"""


def test_another_server_is_not_llama_server() -> None:
    """koboldcpp's help, as argparse prints it, has the same words."""
    with pytest.raises(ValueError, match="tells of no --ctx-size"):
        parse_help(KOBOLD)


def test_a_description_before_any_option_is_passed_over() -> None:
    assert len(parse_help(" " * 40 + "words\n" + MINIMAL).options) == 4


def test_bare() -> None:
    assert bare("--ctx_size") == bare("ctx-size") == "ctx-size"

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.config.argv import argument_files, argument_problems, arguments, given_options
from llamad.config.helptext import OptionTable, parse_help
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.owned import owned_findings
from llamad.config.problems import Finding, ProblemKind
from llamad.config.values import ArgValue
from tests.config.files import HELP

TABLE = parse_help(HELP.read_text())
MODELS = Path("/models")
OLD = parse_help("--model M   x\n--host H   x\n--port P   x\n--ctx-size N   x\n--no-mmap   do not map\n")


def words(args: dict[str, ArgValue], *extra: str, table: OptionTable = TABLE) -> tuple[str, ...]:
    assert argument_problems(table, args, extra) == []
    return arguments(table, args, extra, MODELS)


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({}, ""),
        ({"ctx_size": 8192}, "--ctx-size 8192"),
        ({"ctx-size": 8192}, "--ctx-size 8192"),
        ({"--ctx-size": 8192}, "--ctx-size 8192"),
        ({"c": 8192}, "--ctx-size 8192"),
        ({"ctx_size": "8192"}, "--ctx-size 8192"),
        ({"ctx_size": None}, ""),
        ({"seed": -1}, "--seed -1"),
        ({"temp": 0.5}, "--temperature 0.5"),
        ({"top_k": 40, "min_p": 0.05}, "--min-p 0.05 --top-k 40"),
        ({"ctx_size": 1e3}, "--ctx-size 1000"),
        ({"ctx_size": "1e3"}, "--ctx-size 1000"),
        ({"ctx_size": " 8192 "}, "--ctx-size 8192"),
        ({"tensor_split": (3, 1)}, "--tensor-split 3,1"),
        ({"tensor_split": (3,)}, "--tensor-split 3"),
        ({"tensor_split": "3,1"}, "--tensor-split 3,1"),
        ({"device": ("CUDA0", "CUDA1")}, "--device CUDA0,CUDA1"),
        ({"override_tensor": ("a=CPU", "b=CUDA0")}, "--override-tensor a=CPU,b=CUDA0"),
        ({"override_kv": ("a=int:1", "b=bool:true")}, "--override-kv a=int:1,b=bool:true"),
        ({"spec_type": ("ngram-mod", "draft-mtp")}, "--spec-type ngram-mod,draft-mtp"),
        ({"samplers": ("top_k", "temperature")}, "--samplers top_k;temperature"),
        ({"logit_bias": ("1+1", "2-1")}, "--logit-bias 1+1 --logit-bias 2-1"),
        ({"dry_sequence_breaker": (":", "*")}, "--dry-sequence-breaker : --dry-sequence-breaker *"),
        ({"mmproj": "p.gguf"}, "--mmproj /models/p.gguf"),
        ({"mmproj": "/p.gguf"}, "--mmproj /p.gguf"),
        ({"lora_scaled": ("a.gguf:0.5", "b:1.gguf:2")}, "--lora-scaled /models/a.gguf:0.5,/models/b:1.gguf:2"),
        ({"log_file": "/var/log/x"}, "--log-file /var/log/x"),
        ({"chat_template_kwargs": {"b": [1, None], "a": False}}, '--chat-template-kwargs {"a":~false,~"b":~[1,~null]}'),
        ({"chat_template_kwargs": '{"a":~1}'}, '--chat-template-kwargs {"a":~1}'),
        ({"json_schema": {"type": "object"}}, '--json-schema {"type":~"object"}'),
        ({"n_gpu_layers": "all"}, "--n-gpu-layers all"),
        ({"flash_attn": True}, "--flash-attn on"),
        ({"flash_attn": False}, "--flash-attn off"),
        ({"flash_attn": "auto"}, "--flash-attn auto"),
        ({"flash_attn": 1}, "--flash-attn on"),
        ({"flash_attn": "disabled"}, "--flash-attn off"),
        ({"fit": False}, "--fit off"),
        ({"lazy_mode": True}, "--lazy-mode on"),
        ({"cpu_strict": True}, "--cpu-strict 1"),
        ({"poll_batch": False}, "--poll-batch 0"),
        ({"rope_scaling": "yarn"}, "--rope-scaling yarn"),
        ({"cache_type_k": "q8_0"}, "--cache-type-k q8_0"),
        ({"jinja": True}, "--jinja"),
        ({"jinja": False}, "--no-jinja"),
        ({"jinja": None}, ""),
        ({"no_jinja": True}, "--no-jinja"),
        ({"no-jinja": False}, "--jinja"),
        ({"nkvo": True}, "--no-kv-offload"),
        ({"metrics": True}, "--metrics"),
        ({"metrics": False}, ""),
        ({"lora": ("a.gguf", "/b.gguf")}, "--lora /models/a.gguf,/b.gguf"),
        ({"override_kv": "a=int:1"}, "--override-kv a=int:1"),
        ({"control_vector_layer_range": (1, 20)}, "--control-vector-layer-range 1 20"),
        ({"control_vector_layer_range": "1 20"}, "--control-vector-layer-range 1 20"),
        ({"alias": "x"}, "--alias x"),
    ],
)
def test_from_typed_values_to_words(args: dict[str, ArgValue], expected: str) -> None:
    """`~` stands for a space within a word."""
    args = {key: value.replace("~", " ") if isinstance(value, str) else value for key, value in args.items()}
    assert words(args) == tuple(word.replace("~", " ") for word in expected.split())


def test_args_have_an_order_of_their_own_and_extra_args_come_last_as_they_are() -> None:
    """A mapping has no order: writing its keys in another one changes nothing, and so restarts nothing."""
    args: dict[str, ArgValue] = {"temp": 1, "ctx_size": 2, "jinja": True, "gpt_oss_20b_default": True}
    expected = ("--gpt-oss-20b-default", "--jinja", "--ctx-size", "2", "--temperature", "1", "--verbose", "-ngl", "3")
    assert words(args, "--verbose", "-ngl", "3") == expected
    assert words(dict(reversed(args.items())), "--verbose", "-ngl", "3") == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ctx_size": 8192}, {"ctx-size": "8192"}),
        ({"c": 8192}, {"--ctx_size": 8192.0}),
        ({"flash_attn": True}, {"fa": "on"}),
        ({"jinja": False}, {"no_jinja": True}),
        ({"tensor_split": (3, 1)}, {"ts": "3,1"}),
        ({"chat_template_kwargs": {"a": 1, "b": 2}}, {"chat_template_kwargs": {"b": 2, "a": 1}}),
    ],
)
def test_two_ways_of_writing_one_value_are_one(one: dict[str, ArgValue], other: dict[str, ArgValue]) -> None:
    assert words(one) == words(other)


def test_a_value_with_spaces_stays_one_word() -> None:
    assert words({"reasoning_budget_message": "stop now"})[1] == "stop now"


@pytest.mark.parametrize(("value", "expected"), [(True, ()), (False, ("--no-mmap",)), (None, ())])
def test_a_flag_that_an_older_build_knows_by_its_negation_only(value: ArgValue, expected: tuple[str, ...]) -> None:
    assert words({"mmap": value}, table=OLD) == expected


def test_no_opposite_is_made_of_an_option_that_takes_a_value() -> None:
    table = parse_help("--model M   x\n--host H   x\n--port P   x\n--ctx-size N   x\n--no-tools LIST   x\n")
    assert argument_problems(table, {"tools": "x"}, ())[0].message == "llama-server has no such option"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"flash_attn": "maybe"}, "takes on, off or auto, not 'maybe'"),
        ({"cache_type_k": True}, "takes f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0 or q5_1, not true"),
        ({"ctx_size": "8k"}, "takes a whole number, not '8k': write 8192"),
        ({"ctx_size": "1_000"}, "takes a whole number, not '1_000'"),
        ({"ctx_size": "nan"}, "takes a whole number, not 'nan'"),
        ({"ctx_size": False}, "takes a whole number, not false"),
        ({"ctx_size": 0.5}, "takes a whole number, not 0.5"),
        ({"ctx_size": 1 << 40}, "takes a whole number, not 1099511627776"),
        ({"seed": "abc"}, "takes a number, not 'abc'"),
        ({"sleep_idle_seconds": "5m"}, "takes a number, not '5m'"),
        (
            {"spec_type": ("draft-mtp", "draft")},
            "takes none, draft-simple, draft-eagle3, draft-mtp, draft-dflash, draft-dspark, ngram-simple, ngram-map-k, "
            "ngram-map-k4v, ngram-mod or ngram-cache, not 'draft'",
        ),
        ({"n_gpu_layers": "most"}, "takes a number or one of auto, all, not 'most'"),
        ({"jinja": "yes"}, "is a flag: true or false, not 'yes'"),
        ({"jinja": (True,)}, "is a flag: true or false, not a list"),
        ({"alias": True}, "takes a value (STRING), not true: write it in quotes if it is meant as text"),
        ({"ctx_size": (1024, 512)}, "takes one value, not a list: llama-server would keep the last one only"),
        ({"ctx_size": {"a": 1}}, "takes a whole number, not a mapping"),
        ({"ctx_size": (1, (2, 3))}, "takes a whole number, not a list"),
        ({"chat_template_kwargs": True}, "takes a value (STRING), not true: write it in quotes if it is meant as text"),
        (
            {"chat_template_kwargs": "{a: 1}"},
            "takes JSON, and this is none: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        ),
        ({"json_schema": '{"a": NaN}'}, "takes JSON, and this is none: NaN is no number of JSON"),
        ({"json_schema": "[" * 100_000}, "takes JSON, and this is nested too deep"),
        ({"mmproj": ""}, "is empty: write a path, or leave the key out"),
        ({"log_file": "x.log"}, "must be an absolute path, not 'x.log': llama-server writes there"),
        ({"slot_save_path": "slots"}, "must be an absolute path, not 'slots': llama-server writes there"),
        ({"lora": ()}, "an empty list says nothing: leave the key out"),
        ({"control_vector_layer_range": (1, 2, 3)}, "takes two values (START END), not a list"),
        ({"control_vector_layer_range": 1}, "takes two values (START END), not 1"),
    ],
)
def test_a_wrong_value(args: dict[str, ArgValue], message: str) -> None:
    [key] = args
    hint = "write it as a YAML mapping, without quotes" if TABLE.find(key).json else None  # type: ignore[union-attr]
    assert argument_problems(TABLE, args, ()) == [Finding(("args", key), message, hint, at_key=False)]
    with pytest.raises(ValueError, match=r".") as caught:
        arguments(TABLE, args, (), MODELS)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("NGL", "did you mean ngl?"),
        ("Ctx_Size", "did you mean ctx_size?"),
        ("ctx size", "did you mean ctx-size?"),
        ("--ctx-size 8192", "write --ctx-size: 8192"),
        ("ctx-size=8192", "write ctx-size: 8192"),
        ("no_mmap", "write load_mode: none"),
        ("", None),
        ("frobnicate", None),
    ],
)
def test_what_is_advised_for_an_unknown_option(key: str, hint: str | None) -> None:
    assert argument_problems(TABLE, {key: 1}, ()) == [Finding(("args", key), "llama-server has no such option", hint)]


def test_an_unknown_option_has_no_words() -> None:
    with pytest.raises(ValueError, match="ctx_sise: llama-server has no such option"):
        arguments(TABLE, {"ctx_sise": 1}, (), MODELS)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--verbose"], []),
        (["--ctx_size", "5"], []),
        (["--seed", "-1"], []),
        (["--control-vector-layer-range", "1", "20", "-v"], []),
        (["--logit-bias", "1+1", "--logit-bias", "2+1", "--jinja", "--jinja"], []),
        (["--temp", "--verbose"], [(1, "--temp takes a number, not '--verbose'")]),
        (["-1"], [(0, "llama-server has no option -1")]),
        (["--frobnicate", "x", "-v"], [(0, "llama-server has no option --frobnicate")]),
        (["--verbos"], [(0, "llama-server has no option --verbos", "did you mean --verbose?")]),
        (["--LORA"], [(0, "llama-server has no option --LORA", "did you mean --lora?")]),
        (["--no-mmap"], [(0, "llama-server has no option --no-mmap", "write load_mode: none")]),
        (["-v", "x"], [(1, "'x' follows no option that takes a value")]),
        (
            ["\u2014ctx-size", "5"],
            [(0, "'\u2014ctx-size' begins with a dash of typography, not with a hyphen", 'write "--ctx-size"')],
        ),
        (["\u2013c", "5"], [(0, "'\u2013c' begins with a dash of typography, not with a hyphen", 'write "-c"')]),
        ([" --ctx-size", "5"], [(0, "' --ctx-size' has a space too many", 'write "--ctx-size"')]),
        (["--ctx-size ", "5"], [(0, "'--ctx-size ' has a space too many", 'write "--ctx-size"')]),
        (["--temp"], [(0, "--temp is followed by no value")]),
        (["--control-vector-layer-range", "1"], [(1, "1 is followed by no value")]),
        (["--ctx-size 8192"], [(0, "'--ctx-size 8192' is two words in one", 'write two: "--ctx-size", "8192"')]),
        (["--alias my model"], [(0, "'--alias my model' is two words in one", 'write two: "--alias", "my model"')]),
        (["--temp=5"], [(0, "llama-server takes no --temp=VALUE", 'write two words: "--temp", "VALUE"')]),
        (
            ["-ot", "a=CPU", "--override-tensor", "b=CPU"],
            [
                (
                    2,
                    "--override-tensor is given twice: llama-server would keep the last one only",
                    "write it once, its values joined by ','",
                )
            ],
        ),
        (
            ["-c", "1", "-c", "2"],
            [(2, "-c is given twice: llama-server would keep the last one only", "write it once")],
        ),
        (["--chat-template-kwargs", "{}"], []),
        (["--log-file", "x"], [(1, "--log-file must be an absolute path, not 'x': llama-server writes there")]),
        (
            ["--draft", "5"],
            [(0, "llama-server no longer has --draft", "use --spec-draft-n-max or --spec-ngram-mod-n-max")],
        ),
    ],
)
def test_extra_args(extra: list[str], expected: list[tuple[int, str] | tuple[int, str, str]]) -> None:
    findings = [Finding(("extra_args", one[0]), one[1], one[2] if len(one) == 3 else None) for one in expected]
    assert argument_problems(TABLE, {}, extra) == findings


IK = """usage: llama-server [options]

general:

  -h,    --help, --usage          print usage and exit
  -fa, --flash-attn (auto|on|off|0|1)
                                  set Flash Attention (default: on)
  -mla,  --mla-use                enable MLA (default: 3)
  -no-fmoe, --no-fused-moe        disable fused MoE (default: enabled)
  -mqkv,  --merge-qkv,            merge Q,K,V (default: 0)
         --embedding(s)           restrict to only support embedding use case
         --lora FNAME             apply LoRA adapter (can be repeated to use multiple adapters)
         --lora-scaled FNAME S    apply LoRA adapter with user defined scaling S (can be repeated to
                                  use multiple adapters)
         --numa TYPE              attempt optimizations that help on some NUMA systems
                                    - distribute: spread execution evenly over all nodes
         --chat-template-kwargs JSON
                                  sets additional params for the json template parser
         --no-mmap                do not memory-map model
  -m,    --model FNAME            model path
         --host HOST              ip address to listen (default: 127.0.0.1)
         --port PORT              port to listen (default: 8080)
  -c,    --ctx-size N             size of the prompt context (default: 0)
"""
"""As ik_llama.cpp prints it (common/common.cpp, gpt_params_print_usage): not all that it takes, nor every value."""


def test_a_help_of_the_kind_that_leaves_options_out() -> None:
    table = parse_help(IK, "/opt/ik/llama-server")
    assert table.loose
    args: dict[str, ArgValue] = {
        "flash_attn": True, "mla_use": 3, "no_fused_moe": True, "merge_qkv": True, "mmap": False, "embeddings": True,
        "lora": ("a", "b"), "lora_scaled": ("c", 0.5), "chat_template_kwargs": {"a": 1},
    }  # fmt: skip
    assert words(args, "-rtr", "-amb", "512", "-ot", "x=CPU", "-ot", "y=CPU", "-ser", "3", table=table) == (
        "--embeddings", "--merge-qkv", "--mla-use", "3", "--no-fused-moe", "--no-mmap",
        "--chat-template-kwargs", '{"a": 1}', "--flash-attn", "on", "--lora", "/models/a", "--lora", "/models/b",
        "--lora-scaled", "/models/c", "0.5", "-rtr", "-amb", "512", "-ot", "x=CPU", "-ot", "y=CPU", "-ser", "3",
    )  # fmt: skip
    unlisted = Finding(
        ("args", "amb"),
        "/opt/ik/llama-server has no such option",
        "its --help does not list all it has: write what is not listed in extra_args",
    )
    assert argument_problems(table, {"amb": 512}, ()) == [unlisted]


def test_the_files_that_arguments_name() -> None:
    args: dict[str, ArgValue] = {
        "mmproj": "p.gguf", "lora": ("a.gguf", "/b.gguf"), "lora_scaled": "c.gguf:0.5,d.gguf",
        "slot_save_path": "/slots", "path": "www", "log_prompts_dir": "/prompts",
        "ctx_size": 1, "grammar_file": None, "hf_file": "x.gguf", "nonsense": "y", "model": "z.gguf",
    }  # fmt: skip
    extra = ["-md", "draft.gguf", "--grammar-file", "/g", "--ctx-size", "5", "-m", "z", "--media-path"]
    found = list(argument_files(TABLE, args, extra, MODELS))
    assert found == [
        (("args", "mmproj"), NamedFile(Path("/models/p.gguf"), Use.READ)),
        (("args", "lora", 0), NamedFile(Path("/models/a.gguf"), Use.READ)),
        (("args", "lora", 1), NamedFile(Path("/b.gguf"), Use.READ)),
        (("args", "lora_scaled"), NamedFile(Path("/models/c.gguf"), Use.READ)),
        (("args", "lora_scaled"), NamedFile(Path("/models/d.gguf"), Use.READ)),
        (("args", "slot_save_path"), NamedFile(Path("/slots"), Use.FILLED)),
        (("args", "path"), NamedFile(Path("/models/www"), Use.FOLDER)),
        (("args", "log_prompts_dir"), NamedFile(Path("/prompts"), Use.MADE)),
        (("extra_args", 1), NamedFile(Path("/models/draft.gguf"), Use.READ)),
        (("extra_args", 3), NamedFile(Path("/g"), Use.READ)),
    ]
    assert arguments(TABLE, {}, extra[:4], MODELS) == ("-md", "/models/draft.gguf", "--grammar-file", "/g")
    old = parse_help(IK)
    pair: dict[str, ArgValue] = {"lora_scaled": ("c", 0.5)}
    assert [named.path for _, named in argument_files(old, pair, (), MODELS)] == [MODELS / "c"]
    assert [named.path for _, named in argument_files(old, {"lora_scaled": "c 0.5"}, (), MODELS)] == [MODELS / "c"]


def test_an_option_that_will_go_is_a_remark() -> None:
    table = parse_help(
        IK.replace("attempt optimizations", "DEPRECATED in favor of `--load-mode`: attempt optimizations")
    )
    remark = "llama.cpp will drop this option", "--load-mode takes its place"
    for args, extra, path in ({"numa": "x"}, [], ("args", "numa")), ({}, ["--numa", "x"], ("extra_args", 0)):
        assert argument_problems(table, args, extra) == [Finding(path, *remark, kind=ProblemKind.REMARK)]


def test_what_is_given_and_where() -> None:
    args: dict[str, ArgValue] = {"c": 1, "no_jinja": True, "nonsense": 1}
    assert given_options(TABLE, args, ["-a", "x", "nonsense"]) == {
        "--alias": "extra_args.0", "--ctx-size": "args.c", "--jinja": "args.no_jinja"
    }  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from([option.name.lstrip("-") for option in TABLE.options] + ["x", "no-x"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.integers() | st.text()).map(tuple)
        | st.dictionaries(st.text(), st.integers()),
        max_size=4,
    )
)
def test_what_has_no_problem_has_words_that_have_none(args: dict[str, ArgValue]) -> None:
    args = {key: value for key, value in args.items() if not list(owned_findings({key: value}, (), {}))}
    if not argument_problems(TABLE, args, ()):
        assert argument_problems(TABLE, {}, arguments(TABLE, args, (), MODELS)) == []

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamad.config.argv import OWNED, OWNED_ENV, Finding, argument_problems, arguments, owned_findings
from llamad.config.helptext import OptionTable, parse_help
from llamad.config.values import ArgValue
from tests.config.files import HELP

TABLE = parse_help(HELP.read_text())
OLD = parse_help("--model M   x\n--host H   x\n--port P   x\n--no-mmap   do not map\n")


def words(args: dict[str, ArgValue], *extra: str, table: OptionTable = TABLE) -> tuple[str, ...]:
    assert argument_problems(table, args, extra) == []
    return arguments(table, args, extra)


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
        ({"top_k": 40, "min_p": 0.05}, "--top-k 40 --min-p 0.05"),
        ({"n_gpu_layers": "all"}, "--n-gpu-layers all"),
        ({"flash_attn": True}, "--flash-attn on"),
        ({"flash_attn": False}, "--flash-attn off"),
        ({"flash_attn": "auto"}, "--flash-attn auto"),
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
        ({"lora": ("a.gguf", "b.gguf")}, "--lora a.gguf --lora b.gguf"),
        ({"override_kv": "a=int:1"}, "--override-kv a=int:1"),
        ({"control_vector_layer_range": (1, 20)}, "--control-vector-layer-range 1 20"),
        ({"control_vector_layer_range": "1 20"}, "--control-vector-layer-range 1 20"),
        ({"alias": "x"}, "--alias x"),
    ],
)
def test_from_typed_values_to_words(args: dict[str, ArgValue], expected: str) -> None:
    assert words(args) == tuple(expected.split())


def test_the_order_is_the_one_written_and_extra_args_come_last() -> None:
    assert words({"temp": 1, "ctx_size": 2}, "--verbose", "-ngl", "3") == (
        "--temperature",
        "1",
        "--ctx-size",
        "2",
        "--verbose",
        "-ngl",
        "3",
    )


def test_a_value_with_spaces_stays_one_word() -> None:
    assert words({"reasoning_budget_message": "stop now"})[1] == "stop now"


@pytest.mark.parametrize(("value", "expected"), [(True, ()), (False, ("--no-mmap",)), (None, ())])
def test_a_flag_that_an_older_build_knows_by_its_negation_only(value: ArgValue, expected: tuple[str, ...]) -> None:
    assert words({"mmap": value}, table=OLD) == expected


def test_no_opposite_is_made_of_an_option_that_takes_a_value() -> None:
    table = parse_help("--model M   x\n--host H   x\n--port P   x\n--no-tools LIST   x\n")
    assert argument_problems(table, {"tools": "x"}, ())[0].message == "the binary knows no such option"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"flash_attn": "maybe"}, "takes on, off or auto, not 'maybe'"),
        ({"cache_type_k": True}, "takes f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0 or q5_1, not true"),
        ({"ctx_size": "8k"}, "takes a number, not '8k'"),
        ({"ctx_size": "1_000"}, "takes a number, not '1_000'"),
        ({"ctx_size": "nan"}, "takes a number, not 'nan'"),
        ({"ctx_size": False}, "takes a number, not false"),
        ({"n_gpu_layers": "most"}, "takes a number or one of auto, all, not 'most'"),
        ({"jinja": "yes"}, "is a flag: true or false, not 'yes'"),
        ({"jinja": (True,)}, "is a flag: true or false, not a list"),
        ({"alias": True}, "takes a value (STRING), not true: write it in quotes if it is meant as text"),
        ({"lora": ()}, "an empty list says nothing: leave the key out"),
        ({"control_vector_layer_range": (1, 2, 3)}, "takes two values (START END), not a list"),
        ({"control_vector_layer_range": 1}, "takes two values (START END), not 1"),
    ],
)
def test_a_wrong_value(args: dict[str, ArgValue], message: str) -> None:
    [key] = args
    assert argument_problems(TABLE, args, ()) == [Finding(key, message, at_key=False)]
    with pytest.raises(ValueError, match=r".") as caught:
        arguments(TABLE, args, ())
    assert str(caught.value) == message


def test_an_unknown_option_has_no_words() -> None:
    with pytest.raises(ValueError, match="ctx_sise: the binary knows no such option"):
        arguments(TABLE, {"ctx_sise": 1}, ())


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        (["--verbose"], []),
        (["--ctx_size", "5"], []),
        (["--seed", "-1"], []),
        (["--temp", "--verbose"], []),
        (["--control-vector-layer-range", "1", "20", "-v"], []),
        (["-1"], [Finding(0, "the binary knows no option -1")]),
        (["--frobnicate", "x", "-v"], [Finding(0, "the binary knows no option --frobnicate")]),
        (["--verbos"], [Finding(0, "the binary knows no option --verbos", "did you mean --verbose?")]),
        (["-v", "x"], [Finding(1, "'x' follows no option that takes a value")]),
        (["--control-vector-layer-range", "1"], [Finding(1, "1 is followed by no value")]),
        (
            ["--temp=5"],
            [Finding(0, "llama-server takes no --temp=VALUE", 'write two words: "--temp", "VALUE"')],
        ),
        (
            ["--draft", "5"],
            [
                Finding(
                    0,
                    "this build of llama-server has removed --draft",
                    "use --spec-draft-n-max or --spec-ngram-mod-n-max",
                )
            ],
        ),
    ],
)
def test_extra_args(extra: list[str], expected: list[Finding]) -> None:
    assert argument_problems(TABLE, {}, extra) == expected


def test_owned_options_are_refused_without_a_binary_and_not_told_twice() -> None:
    args: dict[str, ArgValue] = {"host": "x", "--api-key": "s", "m": "x", "no_models_autoload": True}
    extra = ["--host", "h", "--hf_repo", "x", "--api-prefix=/x", "-v"]
    assert [(one.path, one.at_key) for one in owned_findings(args, extra)] == [
        (("args", "host"), True),
        (("args", "--api-key"), True),
        (("args", "m"), True),
        (("args", "no_models_autoload"), True),
        (("extra_args", 0), True),
        (("extra_args", 2), True),
        (("extra_args", 4), True),
    ]
    assert argument_problems(TABLE, args, extra[:4]) == []
    assert argument_problems(OLD, {}, ["--api-key", "x"]) == []


def test_what_is_owned_is_known_by_all_its_spellings() -> None:
    """A build that gives an owned option another spelling has to be noticed here."""
    missing = set()
    for spelling in OWNED:
        option = TABLE.find_word(spelling)
        assert option is not None, spelling
        missing |= {*option.spellings, *option.negations} - set(OWNED)
    assert missing == set()


def test_what_is_owned_as_a_variable_is_an_owned_options() -> None:
    by_env = {option.env: option for option in TABLE.options if option.env}
    assert all(by_env[name].name in OWNED for name in OWNED_ENV)


@given(
    st.dictionaries(
        st.sampled_from([option.name.lstrip("-") for option in TABLE.options] + ["x", "no-x"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.integers() | st.text()).map(tuple),
        max_size=4,
    )
)
def test_what_has_no_problem_has_words_that_have_none(args: dict[str, ArgValue]) -> None:
    args = {key: value for key, value in args.items() if not owned_findings({key: value}, ())}
    if not argument_problems(TABLE, args, ()):
        assert argument_problems(TABLE, {}, arguments(TABLE, args, ())) == []

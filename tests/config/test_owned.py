"""Options that are llamad's own, and those that should be thought about."""

from llamad.config.argv import argument_problems
from llamad.config.helptext import parse_help
from llamad.config.owned import OWNED, OWNED_ENV, owned_findings
from llamad.config.problems import Finding, ProblemKind
from llamad.config.values import ArgValue
from llamad.config.variables import option_of
from tests.config.files import HELP

TABLE = parse_help(HELP.read_text())
OLD = parse_help("--model M   x\n--host H   x\n--port P   x\n--ctx-size N   x\n--no-mmap   do not map\n")


def test_owned_options_are_refused_without_a_binary_and_not_told_twice() -> None:
    args: dict[str, ArgValue] = {"host": "x", "--api-key": "s", "m": "x", "no_models_autoload": True}
    extra = ["--host", "h", "--hf_repo", "x", "--api-prefix=/x", "-v"]
    assert [(one.path, one.at_key) for one in owned_findings(args, extra, {})] == [
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
    options = [option_of(TABLE, name) for name in OWNED_ENV]
    assert all(option is not None and option.name in OWNED for option in options)


def test_two_words_in_one_do_not_hide_what_is_owned() -> None:
    [found] = owned_findings({}, ["--host 0.0.0.0"], {})
    assert found.message == "--host is llamad's own option"


def test_a_key_without_a_value() -> None:
    """YAML reads `no_jinja:` as null: what was meant is not known."""
    [found] = owned_findings({"no_jinja": None, "jinja": False}, (), {})
    assert found == Finding(
        ("args", "no_jinja"), "has no value: write one, or leave the key out", kind=ProblemKind.TEXT
    )


def test_what_lets_clients_run_commands_is_a_remark() -> None:
    args: dict[str, ArgValue] = {"tools": "all", "agent": False, "mcp_servers_json": {"a": 1}}
    env = {"LLAMA_ARG_AGENT": "1", "LLAMA_ARG_TOOLS": "", "LLAMA_ARG_THREADS": "1"}
    found = list(owned_findings(args, ["-ag", "--mcp-servers-config", "/x", "tools"], env))
    assert [one.path for one in found] == [
        ("args", "tools"), ("args", "mcp_servers_json"), ("extra_args", 0), ("extra_args", 1),
        ("env", "LLAMA_ARG_AGENT"),
    ]  # fmt: skip
    assert {one.kind for one in found} == {ProblemKind.REMARK}
    assert found[0].message == "whoever may ask this server can run commands and read files as llamad's user"

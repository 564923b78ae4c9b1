"""From a server's configuration to what is executed."""

from pathlib import Path
from typing import Any

import pytest

from llamad.config.model import LimitsConfig
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.options import Binary, parse_help
from llamad.host.address import TcpAddress, UnixAddress
from llamad.servers.command import Launch, build_launch, child_environment
from tests.builders import a_launch
from tests.stories import a_server

HELP = (Path(__file__).parents[1] / "config" / "llama-server-help.txt").read_text()
BINARY = Binary(Path("/opt/llama-server"), 1, 2, parse_help(HELP))
OLD = Binary(
    Path("/opt/llama-server"),
    1,
    2,
    parse_help(
        "".join(line for line in HELP.splitlines(keepends=True) if "--alias" not in line and "--metrics" not in line)
    ),
)


def arguments(binary: Binary = BINARY, **config: Any) -> tuple[str, ...]:
    return a_launch_of(binary, **config).arguments


def a_launch_of(binary: Binary = BINARY, index: int = 0, **config: Any) -> Launch:
    return build_launch(a_server(**config), index, binary, Path("/models"))


def test_the_model_comes_first_and_llamads_own_options_last() -> None:
    assert arguments(args={"ctx_size": 4096}) == (
        "--model", "/models/a.gguf", "--ctx-size", "4096", "--alias", "a", "--metrics"
    )  # fmt: skip


def test_a_repository_in_the_place_of_a_model() -> None:
    launch = a_launch_of(model=None, hf_repo="org/name:Q4_0")
    assert launch.arguments[:2] == ("--hf-repo", "org/name:Q4_0")
    assert launch.model is None


@pytest.mark.parametrize(
    "config", [{"args": {"alias": "me"}}, {"extra_args": ("-a", "me")}, {"extra_args": ("--alias", "me")}]
)
def test_an_alias_of_the_operators_own_stays(config: dict[str, Any]) -> None:
    words = arguments(**config)
    assert sum(word in ("-a", "--alias") for word in words) == 1
    assert "me" in words


def test_what_the_operator_said_by_a_variable_is_said() -> None:
    """llama.cpp takes the command line before a variable: what llamad adds would go before the operator's word."""
    assert "--alias" not in arguments(env={"LLAMA_ARG_ALIAS": "me"})
    assert "--metrics" not in arguments(env={"LLAMA_ARG_ENDPOINT_METRICS": "0"})


def test_the_files_that_a_start_needs() -> None:
    launch = a_launch_of(
        args={"mmproj": "p.gguf"}, extra_args=("--grammar-file", "/g"), env={"LLAMA_ARG_LOG_FILE": "/x", "A": "b"}
    )
    assert launch.files == (
        NamedFile(Path("/models/a.gguf"), Use.MODEL),
        NamedFile(Path("/models/p.gguf"), Use.READ),
        NamedFile(Path("/g"), Use.READ),
        NamedFile(Path("/x"), Use.WRITTEN),
    )
    assert "/models/p.gguf" in launch.arguments


def test_the_order_and_the_spelling_of_args_are_no_part_of_the_launch() -> None:
    one = a_launch_of(args={"ctx_size": 8192, "jinja": True, "lora": ("a", "b")})
    assert one == a_launch_of(args={"lora": "a,b", "no_jinja": False, "ctx-size": "8192"})
    assert one != a_launch_of(args={"lora": "b,a", "no_jinja": False, "ctx-size": "8192"})


def test_metrics_are_asked_for_once() -> None:
    assert arguments(args={"metrics": True}).count("--metrics") == 1
    assert arguments(extra_args=("--metrics",)).count("--metrics") == 1


def test_a_build_that_does_not_know_llamads_options_gets_none() -> None:
    assert arguments(OLD) == ("--model", "/models/a.gguf")


def test_replicas_have_a_port_and_gpus_of_their_own() -> None:
    server = a_server(port=9000, host="::1", replicas=2, gpus=((0,), (1,)))
    first, second = (build_launch(server, index, BINARY, Path("/models")) for index in range(2))
    assert (first.port, second.port) == (TcpAddress("::1", 9000), TcpAddress("::1", 9001))
    assert dict(first.environment)["CUDA_VISIBLE_DEVICES"] == "0"
    assert dict(second.environment)["CUDA_VISIBLE_DEVICES"] == "1"


@pytest.mark.parametrize(("gpus", "asked"), [(None, False), ("none", False), ("all", True), (((0,),), True)])
def test_whether_gpus_are_asked_for(gpus: Any, *, asked: bool) -> None:
    assert a_launch_of(gpus=gpus).gpus_asked is asked


@pytest.mark.parametrize(
    ("config", "given"),
    [
        ({"gpus": "all"}, 1),
        ({"gpus": ((0,),)}, 1),
        ({"gpus": "none"}, 0),
        ({}, 0),
        ({"gpus": "all", "env": {"LLAMA_ARG_N_GPU_LAYERS": "9"}}, 0),
    ],
)
def test_only_who_is_told_of_layers_warns_that_there_is_no_gpu(config: dict[str, Any], given: int) -> None:
    assert " ".join(arguments(**config)).count("--n-gpu-layers auto") == given


@pytest.mark.parametrize(
    "config", [{"args": {"n_gpu_layers": 7}}, {"args": {"ngl": 7}}, {"extra_args": ("-ngl", "7")}], ids=str
)
def test_layers_of_the_operators_own_stay(config: dict[str, Any]) -> None:
    words = arguments(gpus="all", **config)
    assert "auto" not in words
    assert "7" in words


def test_a_build_whose_layers_are_a_number_is_told_nothing() -> None:
    old = "\n".join(line for line in HELP.splitlines() if "'auto', or 'all' (default: auto)" not in line)
    assert "auto" not in arguments(Binary(Path("/o"), 1, 2, parse_help(old)), gpus="all")


@pytest.mark.parametrize(
    ("launch", "uses"),
    [
        (a_launch(), False),
        (a_launch(arguments=("--rpc", "h:1")), True),
        (a_launch(environment=(("LLAMA_ARG_RPC", "h:1"),)), True),
    ],
)
def test_whether_it_works_with_other_hosts(launch: Launch, *, uses: bool) -> None:
    assert launch.uses_rpc is uses


def test_env_goes_before_what_llamad_chose() -> None:
    launch = a_launch_of(gpus=((0,),), env={"CUDA_VISIBLE_DEVICES": "3"})
    assert dict(launch.environment)["CUDA_VISIBLE_DEVICES"] == "3"


def test_the_address_is_a_socket_or_a_port() -> None:
    launch = a_launch()
    assert launch.argv(UnixAddress(Path("/run/x.sock")))[-2:] == ["--host", "/run/x.sock"]
    assert launch.argv(TcpAddress("127.0.0.1", 81))[-4:] == ["--host", "127.0.0.1", "--port", "81"]
    assert launch.argv(UnixAddress(Path("/run/x.sock")))[0] == "/usr/bin/llama-server"


def test_a_secret_is_named_in_the_launch_and_never_in_its_words() -> None:
    launch = a_launch_of(env_credentials={"HF_TOKEN": "hf"})
    assert launch.credentials == (("HF_TOKEN", "hf"),)
    assert not any("hf" in word for word in launch.argv(TcpAddress("h", 1)))


def test_equal_launches_have_one_fingerprint_and_any_change_another() -> None:
    launches = [
        a_launch(),
        a_launch(binary=Path("/x")),
        a_launch(arguments=("--x",)),
        a_launch(environment=(("A", "b"),)),
        a_launch(port=TcpAddress("h", 1)),
        a_launch(limits=LimitsConfig(cpu_weight=5)),
    ]
    assert len({launch.fingerprint for launch in launches}) == len(launches)
    assert a_launch().fingerprint == launches[0].fingerprint


def test_a_policy_is_no_part_of_the_launch() -> None:
    plain, tuned = (a_launch_of(idle_timeout=t, aliases=al) for t, al in ((None, ()), (5.0, ("x",))))
    assert plain == tuned


def test_a_child_inherits_all_but_what_would_leak_or_interfere() -> None:
    inherited = {
        "PATH": "/bin",
        "LLAMA_ARG_CTX_SIZE": "1",
        "LLAMA_API_KEY": "k",
        "CREDENTIALS_DIRECTORY": "/c",
        "LLAMAD_SOCKET": "/s",
        "JOURNAL_STREAM": "1:2",
        "INVOCATION_ID": "x",
        "A": "inherited",
    }
    launch = a_launch(environment=(("A", "own"), ("LLAMA_ARG_THREADS", "8")))
    environment = child_environment(launch, inherited, {"HF_TOKEN": "t"}, cache=Path("/cache"))
    assert environment == {
        "LLAMA_CACHE": "/cache",
        "PATH": "/bin",
        "A": "own",
        "LLAMA_ARG_THREADS": "8",
        "HF_TOKEN": "t",
    }
    home = {"HF_HOME": "/x"}
    assert child_environment(a_launch(), home, {}, cache=Path("/c")) == home
    assert child_environment(a_launch(), {}, home, cache=Path("/c")) == home
    own = a_launch(environment=(("HF_HUB_CACHE", "/x"),))
    assert child_environment(own, {}, {}, cache=Path("/c")) == {"HF_HUB_CACHE": "/x"}

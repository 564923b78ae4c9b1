from pathlib import Path

import pytest

from llamad.config import options
from llamad.config.files import read_disk
from llamad.config.loader import load
from llamad.config.model import (
    Config,
    GatewayConfig,
    HealthPolicy,
    LimitsConfig,
    LogConfig,
    QueueConfig,
    RestartPolicy,
    ServerConfig,
    StopPolicy,
)
from llamad.config.problems import Problem, ProblemKind
from llamad.host.address import TcpAddress, UnixAddress
from tests.config.files import Place, a_place, a_program
from tests.config.test_options import MINIMAL

EXAMPLE = """\
llama_server: llama-server
models_dir: null
log: {level: info, format: auto}
gateway:
  listen: 127.0.0.1:8080
  api_keys_file: null
  insecure: false
  max_body: 64M
  queue: {size: 512, timeout: 120s}
  access_log: errors
  cors_origins: []
  hosts: []
  memory_budget: {}
control:
  socket: null
startup: settle
defaults: {}
servers:
  qwen:
    model: m.gguf
    aliases: [default]
    gpus: [0]
    args:
      ctx_size: 8192
      n_gpu_layers: 99
      flash_attn: on
      jinja: true
    extra_args: ["--verbose"]
    env: {LLAMA_ARG_THREADS: "8"}
    port: null
    host: 127.0.0.1
    replicas: 1
    start: always
    idle_timeout: null
    replace: stop-first
    restart: {initial_delay: 1s, factor: 2, max_delay: 30s, jitter: 0.1, max_retries: 5, reset_after: 60s,
      retry_failed_every: 5m}
    health: {interval: 5s, timeout: 2s, load_stall_timeout: 5m, hang_timeout: 60s, failures: 3}
    stop: {drain_timeout: 30s, term_timeout: 10s}
    max_concurrent: null
    group: null
    memory: null
    evictable: null
    limits: {memory_max: null, memory_high: null, cpu_weight: null}
    env_credentials: {}
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return a_place(tmp_path)


def config_of(place: Place, text: str) -> Config:
    """What a file without problems says."""
    loaded = place.load(text)
    assert place.lines(loaded) == []
    assert loaded.config is not None
    return loaded.config


def server_of(place: Place, text: str, name: str = "a") -> ServerConfig:
    return config_of(place, text).servers[name]


def test_everything_written_out_is_the_same_as_the_defaults(place: Place) -> None:
    config = config_of(place, EXAMPLE)
    qwen = ServerConfig(
        name="qwen",
        model=place.dirs.models / "m.gguf",
        aliases=("default",),
        gpus=((0,),),
        args={"ctx_size": 8192, "n_gpu_layers": 99, "flash_attn": True, "jinja": True},
        extra_args=("--verbose",),
        env={"LLAMA_ARG_THREADS": "8"},
    )
    assert config == Config(models_dir=place.dirs.models, servers={"qwen": qwen})


def test_the_defaults_are_those_of_the_contract() -> None:
    config = Config(models_dir=Path("/m"), servers={"a": ServerConfig(name="a")})
    assert config.log == LogConfig(level="info", format="auto")
    assert config.gateway == GatewayConfig(
        listen=(TcpAddress("127.0.0.1", 8080),),
        api_keys_file=None,
        insecure=False,
        max_body=64 * 1024 * 1024,
        queue=QueueConfig(size=512, timeout=120.0),
        access_log="errors",
        cors_origins=(),
        hosts=(),
        memory_budget={},
    )
    server = config.servers["a"]
    assert server.restart == RestartPolicy(
        initial_delay=1, factor=2, max_delay=30, jitter=0.1, max_retries=5, reset_after=60, retry_failed_every=300
    )
    assert server.health == HealthPolicy(interval=5, timeout=2, load_stall_timeout=300, hang_timeout=60, failures=3)
    assert server.stop == StopPolicy(drain_timeout=30, term_timeout=10)
    assert server.limits == LimitsConfig()
    assert (server.port, server.host, server.replicas, server.start) == (None, "127.0.0.1", 1, "always")
    assert (server.replace, server.idle_timeout, server.evictable) == ("stop-first", None, None)


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "---\n", "servers:\n", "servers: {}\ngateway:\ndefaults:\n", "\ufeff"]
)
def test_an_empty_file_is_an_empty_configuration(place: Place, text: str) -> None:
    assert config_of(place, text) == Config(models_dir=place.dirs.models)


def test_values_become_what_they_mean(place: Place) -> None:
    config = config_of(
        place,
        """
gateway:
  listen: ["127.0.0.1:80", "[::1]:81", "unix:/run/x.sock"]
  access_log: off
  memory_budget: {0: 22G, host: 1.5G}
  cors_origins: ["*"]
  hosts: [llm.example.org, "*.lan", "*", "fe80::1", 10.0.0.1]
control: {socket: /run/c.sock}
servers:
  a:
    model: m.gguf
    replicas: 2
    gpus: [[0], [GPU-5f3a]]
    memory: {0: 6G, host: 512M}
    restart: {max_retries: null, retry_failed_every: null, factor: 1.5}
    limits: {memory_max: 20G, cpu_weight: 200}
    args: {temp: 0.5, tensor_split: [3, 1], seed: -1, chat_template_kwargs: {a: {b: on}}}
  b: {hf_repo: "org/name:Q4_K_M", start: on-demand, idle_timeout: 90}
  c: {url: "http://gpu2:8080", aliases: [far away]}
""",
    )
    assert config.gateway.listen == (
        TcpAddress("127.0.0.1", 80),
        TcpAddress("::1", 81),
        UnixAddress(Path("/run/x.sock")),
    )
    assert config.gateway.access_log == "off"
    assert config.gateway.memory_budget == {0: 22 << 30, "host": 3 << 29}
    assert config.control.socket == Path("/run/c.sock")
    a, b, c = config.servers.values()
    assert (a.gpus_of(0), a.gpus_of(1)) == ((0,), ("GPU-5f3a",))
    assert a.memory == {0: 6 << 30, "host": 512 << 20}
    assert (a.restart.max_retries, a.restart.retry_failed_every, a.restart.factor) == (None, None, 1.5)
    assert (a.limits.memory_max, a.limits.cpu_weight) == (20 << 30, 200)
    kwargs = {"a": {"b": True}}
    assert a.args == {"temp": 0.5, "tensor_split": (3, 1), "seed": -1, "chat_template_kwargs": kwargs}
    assert (b.hf_repo, b.idle_timeout, b.may_make_way) == ("org/name:Q4_K_M", 90.0, True)
    assert (c.external, c.model, c.may_make_way) == (True, None, False)


def test_a_gateway_can_be_turned_off(place: Place) -> None:
    assert config_of(place, "gateway: {listen: null}").gateway.listen == ()


def test_relative_paths_start_at_their_own_place(place: Place) -> None:
    (place.root / "etc" / "conf.d").mkdir(parents=True)
    (place.root / "etc" / "models").symlink_to(place.dirs.models)
    (place.root / "etc" / "conf.d" / "key").write_text("s3cret")
    (place.root / "etc" / "keys").write_text("ann:s3cret")
    place.write("servers: {b: {url: 'http://x:1', api_key_file: key}}", drop_in="b.yaml")
    config = config_of(place, "models_dir: models\ngateway: {api_keys_file: keys}\nservers: {a: {model: m.gguf}}")
    assert config.models_dir == place.root / "etc" / "models"
    assert config.servers["a"].model == place.root / "etc" / "models" / "m.gguf"
    assert config.gateway.api_keys_file == place.root / "etc" / "keys"
    assert config.servers["b"].api_key_file == place.root / "etc" / "conf.d" / "key"


def test_an_absolute_model_stays_where_it_is(place: Place) -> None:
    model = place.dirs.models / "m.gguf"
    assert server_of(place, f"models_dir: /\nservers: {{a: {{model: {model}}}}}").model == model


def test_defaults_go_under_every_server(place: Place) -> None:
    config = config_of(
        place,
        """
defaults:
  restart: {factor: 3, jitter: 0}
  args: {ctx_size: 1, jinja: true, temp: 1}
  env: {A: "1", B: "1", C: "1"}
  aliases: []
  memory: null
  start: on-demand
  idle_timeout: 5m
servers:
  a:
    model: m.gguf
    restart: {factor: 4}
    args: {ctx-size: 2, jinja: null}
    env: {B: "2", C: null}
  b: {model: m.gguf, restart: , start: always}
  c: {url: "http://x:1"}
""",
    )
    a, b, c = config.servers.values()
    assert (a.restart.factor, a.restart.jitter) == (4, 0)
    assert a.args == {"ctx-size": 2, "temp": 1}
    assert a.env == {"A": "1", "B": "2"}
    assert (a.start, a.idle_timeout) == ("on-demand", 300.0)
    assert (b.restart.factor, b.start, b.idle_timeout) == (3, "always", None)
    assert c == ServerConfig(name="c", url="http://x:1")


def test_a_server_with_a_model_of_its_own_ignores_that_of_the_defaults(place: Place) -> None:
    config = config_of(place, "defaults: {hf_repo: org/x}\nservers: {a: {model: m.gguf}, b: {}, c:}")
    assert [one.hf_repo for one in config.servers.values()] == [None, "org/x", "org/x"]


def test_merges_and_anchors(place: Place) -> None:
    config = config_of(
        place,
        """
servers:
  a: &a
    model: m.gguf
    args: {ctx_size: 1}
  b:
    <<: *a
    args: {ctx_size: 2}
  c:
    <<: [{replicas: 2}, *a, {replicas: 3}]
""",
    )
    assert config.servers["b"].args == {"ctx_size": 2}
    assert (config.servers["c"].replicas, config.servers["c"].args) == (2, {"ctx_size": 1})


def test_servers_stand_in_the_order_of_the_files(place: Place) -> None:
    place.write("servers: {b: {model: m.gguf}}", drop_in="20.yaml")
    place.write("servers: {c: {model: m.gguf}}", drop_in="10.yaml")
    assert list(config_of(place, "servers: {z: {model: m.gguf}, a: {model: m.gguf}}").servers) == ["z", "a", "c", "b"]


def test_drop_ins_in_name_order(place: Place) -> None:
    place.write("servers: {b: {model: m.gguf}}\nlog: {level: debug}\ngateway: {queue: {size: 3}}", drop_in="20.yaml")
    place.write("servers: {c: {model: m.gguf}}\nlog: {level: error, format: json}", drop_in="10.yaml")
    place.write("nonsense", drop_in=".40.yaml")
    place.write("", drop_in="50.yaml")
    loaded = place.load("servers: {a: {model: m.gguf}}\ngateway: {max_body: 1M}")
    assert place.lines(loaded) == []
    assert loaded.config is not None
    assert set(loaded.config.servers) == {"a", "b", "c"}
    assert loaded.config.log == LogConfig(level="debug", format="json")
    assert (loaded.config.gateway.max_body, loaded.config.gateway.queue.size) == (1 << 20, 3)
    assert [file.name for file in loaded.files.contents] == ["llamad.yaml", "10.yaml", "20.yaml", "50.yaml"]


def test_a_drop_in_by_another_ending_is_told_of(place: Place) -> None:
    place.write("nonsense", drop_in="30.yml")
    place.write("nonsense", drop_in=".31.yml")
    loaded = place.load("servers: {a: {model: m.gguf}}")
    assert place.lines(loaded) == ["conf.d/30.yml:1:1: is not read: drop-ins end in .yaml"]
    assert [(one.kind, one.server) for one in loaded.problems] == [(ProblemKind.WORLD, None)]
    assert loaded.config is not None


def test_a_server_in_two_files_names_both_places(place: Place) -> None:
    second = place.write("servers:\n  a: {model: m.gguf}\n", drop_in="a.yaml")
    loaded = place.load("servers:\n  b: {model: m.gguf}\n  a: {model: m.gguf}\n")
    assert loaded.config is None
    assert [str(one) for one in loaded.problems] == [
        f"{second}:2:3: servers.a: the server is also in {place.file}:3:3: give one of them another name"
    ]


def test_servers_of_a_wrong_kind_in_one_of_two_files(place: Place) -> None:
    place.write("servers: [a]\n", drop_in="a.yaml")
    assert place.lines(place.load("servers: {b: {model: m.gguf}}")) == [
        "conf.d/a.yaml:1:10: servers: must be a mapping (key: value), not a list"
    ]
    place.write("servers: {b: {model: m.gguf}}", drop_in="a.yaml")
    assert place.lines(place.load("servers: b")) == ["1:10: servers: must be a mapping (key: value), not 'b'"]


def test_problems_come_in_the_order_of_reading(place: Place) -> None:
    place.write("x: 1", drop_in="a.yaml")
    place.write("y: 1", drop_in="b.yaml")
    lines = place.lines(place.load("b: 1\nz: 1"))
    assert [line.split(": unknown")[0] for line in lines] == [
        "1:1: b",
        "2:1: z",
        "conf.d/a.yaml:1:1: x",
        "conf.d/b.yaml:1:1: y",
    ]


def test_binaries_and_problems_by_server(place: Place) -> None:
    loaded = place.load(
        """
servers:
  a: {model: m.gguf, args: {ctx_sise: 1}}
  b: {model: m.gguf, llama_server: nothing}
  c: {url: "http://x:1"}
"""
    )
    assert loaded.config is not None
    assert list(loaded.binaries) == ["a"]
    assert loaded.binaries["a"].path == place.root / "bin" / "llama-server"
    assert [one.kind for one in loaded.of("a")] == [ProblemKind.OPTION]
    assert [one.kind for one in loaded.of("b")] == [ProblemKind.WORLD]
    assert loaded.of("c") == ()


def test_options_of_a_binary_that_cannot_be_asked_are_not_judged(place: Place) -> None:
    loaded = place.load("llama_server: nothing\nservers: {a: {model: m.gguf, args: {whatever: 1}}}")
    assert [(one.kind, one.path) for one in loaded.problems] == [(ProblemKind.WORLD, "llama_server")]


def test_a_server_of_its_own_build_is_judged_by_it(place: Place) -> None:
    old = a_program(place.root / "old", f"{MINIMAL}; echo '--old  x'")
    text = f"""
servers:
  a: {{model: m.gguf, llama_server: {old}, args: {{old: true}}}}
  b: {{model: m.gguf, args: {{old: true}}}}
"""
    assert [one.path for one in place.load(text).problems] == ["servers.b.args.old"]


def test_what_hangs_on_a_wrong_value_is_not_told_twice(place: Place) -> None:
    lines = place.lines(place.load("models_dir: [1]\nllama_server: 5\nservers: {a: {model: x.gguf}}\n"))
    assert lines == [
        "1:13: models_dir: must be a path, not a list",
        '2:15: llama_server: must be text, not 5: write "5"',
    ]


def test_accepted_files_mean_what_they_meant_whatever_became_of_the_keys(place: Place) -> None:
    place.write(
        "models_dir: models\ngateway: {listen: '0.0.0.0:80', api_keys_file: keys}\nservers: {a: {model: m.gguf}}"
    )
    place.write("servers: {x: {url: 'http://b:80', api_key_file: k}}", drop_in="10.yaml")
    files = read_disk(place.file)
    place.write("servers: [")
    for keys in ("a:k", "", None):
        if keys is None:
            (place.file.parent / "keys").unlink()
        else:
            (place.file.parent / "keys").write_text(keys)
        loaded = load(place.file, place.dirs, environ=place.environ, files=files, accepted=True)
        assert loaded.config is not None
        of_keys = [problem.kind for problem in loaded.problems if problem.path.startswith("gateway.")]
        assert of_keys == ([] if keys else [ProblemKind.WORLD])
        assert loaded.config.models_dir == place.root / "etc" / "models"
        assert loaded.config.gateway.api_keys_file == place.root / "etc" / "keys"
        assert loaded.config.servers["a"].model == place.root / "etc" / "models" / "m.gguf"
        assert loaded.config.servers["x"].api_key_file == place.root / "etc" / "conf.d" / "k"


def test_a_relative_file_is_made_absolute(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("")
    monkeypatch.chdir(place.file.parent)
    assert load(Path("llamad.yaml"), place.dirs, environ=place.environ).files.main == place.file


@pytest.mark.parametrize("address", ["127.8.8.8:1", "[::1]:1", "localhost:1", "unix:/run/x.sock"])
def test_loopback_needs_no_key(place: Place, address: str) -> None:
    config_of(place, f"gateway: {{listen: '{address}'}}")


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "gpu.example.org:1"])
def test_beyond_loopback_needs_a_key_or_a_word(place: Place, address: str) -> None:
    text = f"gateway: {{listen: '{address}', insecure: %s, api_keys_file: %s}}"
    assert len(place.load(text % ("false", "null")).problems) == 1
    assert place.load(text % ("true", "null")).problems == ()
    keys = place.file.with_name("keys")
    keys.write_text("# ann:old\n\n")
    assert len(place.load(text % ("false", "keys")).problems) == 1
    keys.write_text("# ann:old\nann:new\n")
    assert place.load(text % ("false", "keys")).problems == ()


def test_the_credential_is_a_key_too(place: Place) -> None:
    credentials = place.root / "credentials"
    credentials.mkdir()
    text = "gateway: {listen: '0.0.0.0:1'}"
    assert len(place.load(text, CREDENTIALS_DIRECTORY=str(credentials)).problems) == 1
    (credentials / "api-keys").write_text("ann:key")
    assert place.load(text, CREDENTIALS_DIRECTORY=str(credentials)).problems == ()


def test_root_finds_the_credential_where_the_unit_takes_it_from(place: Place) -> None:
    place.write("gateway: {listen: '0.0.0.0:1'}").with_name("api-keys").write_text("ann:key")
    assert len(load(place.file, place.dirs, environ=place.environ).problems) == 1
    assert load(place.file, place.dirs, environ=place.environ, service_user="llamad").problems == ()


def test_a_problem_shows_its_place() -> None:
    loaded = load(Path("/nowhere/x.yaml"), Place(Path("/nowhere")).dirs, environ={})
    assert loaded.config is None
    assert loaded.files.contents == {}
    assert [str(one) for one in loaded.problems] == ["/nowhere/x.yaml:1:1: cannot be read: No such file or directory"]
    assert isinstance(loaded.problems[0], Problem)


def test_a_need_that_cannot_be_told_by_gpu_is_counted_for_the_host(place: Place) -> None:
    text = "gateway: {memory_budget: {host: 8G}}\nservers: {a: {model: m.gguf, gpus: all, memory: 6G}}"
    assert server_of(place, text).memory_needs == {"host": 6 << 30}
    (line,) = place.lines(place.load(text.replace("host: 8G", "0: 8G")))
    assert line.startswith("2:49: servers.a.memory: gateway.memory_budget has nothing for host (")


def test_empty_arguments_in_the_defaults(place: Place) -> None:
    assert server_of(place, "defaults: {args: }\nservers: {a: {model: m.gguf, args: {c: 1}}}").args == {"c": 1}


def test_a_program_that_does_not_answer_is_asked_once_a_load(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its servers fails for now and may be tried again; a start must not wait for it once a server."""
    monkeypatch.setattr(options, "HELP_TIMEOUT", 0.2)
    runs = place.root / "runs"
    a_program(place.root / "bin" / "llama-server", f"echo x >>{runs}; exec /bin/sleep 60")
    loaded = place.load("servers: {a: {model: m.gguf}, b: {model: m.gguf, env: {A: b}}}")
    assert runs.read_text() == "x\n"
    assert [(one.server, one.passing, one.kind) for one in loaded.problems] == [
        ("a", True, ProblemKind.WORLD), ("b", True, ProblemKind.WORLD)
    ]  # fmt: skip
    hint = "a cold disk, or a GPU driver that hangs: run it by hand to see; if it is llama-server, llamad tries again"
    assert str(loaded.problems[0]).endswith(f"llama-server has not ended 0.2 s after --help ({hint})")


def test_a_file_in_utf_16(place: Place) -> None:
    place.write("")
    place.file.write_bytes("servers: {}\n".encode("utf-16"))
    assert place.lines(place.load()) == ["1:1: this is UTF-16 text: save it as UTF-8"]

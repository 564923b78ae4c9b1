"""Documents as text: golden."""

from pathlib import Path

import pytest

from llamad import __version__
from llamad.cli.layout import fitted
from llamad.cli.tables import (
    config_lines,
    details,
    devices_table,
    gpus_text,
    models_table,
    note,
    served_table,
    status_changes,
    status_table,
    version_line,
)
from llamad.config.model import ServerConfig
from llamad.control.documents import StatusDocument
from llamad.control.wire import ConfigView, ServerView, devices_document, models_document, status_document
from llamad.host.address import UnixAddress
from llamad.host.devices import Devices, Gpu, Vendor
from llamad.host.gguf import Header
from llamad.servers.board import Failure, Replica, ReplicaKey
from llamad.servers.explain import explain
from llamad.servers.models import Kind, ModelFile, Served
from llamad.servers.state import State
from llamad.servers.traffic import Traffic


def a_status(*servers: ServerView, error: str | None = None) -> StatusDocument:
    return status_document(version="1", ready=True, config=ConfigView(error=error), servers=servers, now=100.0)


def a_server(name: str, *replicas: Replica, notice: str | None = None, **config: object) -> ServerView:
    of = ServerConfig.model_validate({"name": name, "model": Path(f"/m/{name}.gguf"), **config})
    return ServerView(of, explain(of, replicas, running=of.start == "always"), replicas, notice=notice)


def some_servers() -> StatusDocument:
    """One of each kind."""
    traffic = Traffic(lambda: 0.0)
    key = ReplicaKey("qwen", 0)
    traffic.begin(key)
    traffic.queued = 3
    ready = Replica(
        key,
        state=State.READY,
        pid=4711,
        address=UnixAddress(Path("/run/q.sock")),
        started_at=87.5,
        restarts=2,
        last_exit="killed by SIGSEGV",
        memory_bytes=170 << 20,
        slots=4,
        busy_slots=1,
        tokens_per_s=41.5,
    )
    loading = Replica(ReplicaKey("qwen", 1), state=State.LOADING, pid=4712, started_at=99.0, load_progress=0.62)
    config = ServerConfig(name="qwen", model=Path("/m/qwen.gguf"), aliases=("default",), replicas=2, gpus=((0, 1),))
    qwen = ServerView(config, explain(config, (ready, loading), running=True), (ready, loading), traffic)
    failure = Failure("corrupt-gguf", "corrupt GGUF", "download it again")
    embed = a_server(
        "embed",
        Replica(ReplicaKey("embed", 0), state=State.BACKOFF, restarts=1, last_error=failure, retry_at=104.2),
    )
    spare = a_server("spare", notice="needs memory that qwen uses", start="on-demand")
    return a_status(qwen, embed, spare)


def test_the_status_as_plain_text() -> None:
    assert list(status_table(some_servers()).plain()) == [
        "NAME    STATE    WANTED    PID  UPTIME  RESTARTS  REQUESTS  QUEUED  TOKENS/S  MEMORY  GPU  NOTE",
        "qwen/0  ready    running  4711   12.5s         2         1       3      41.5    170M  0,1  -",
        "qwen/1  loading  running  4712      1s         0         0       -         -       -  0,1  loading 62%",
        "embed   backoff  running     -       -         1         0       0         -       -  -"
        "    corrupt GGUF (download it again); next try in 4.2s",
        "spare   stopped  stopped     -       -         -         -       0         -       -  -"
        "    starts with a request; needs memory that qwen uses",
    ]


def test_all_about_a_server() -> None:
    status = some_servers()
    assert list(details({**status, "servers": status["servers"][:1]})) == [
        "qwen: ready, wanted running",
        "  model:      /m/qwen.gguf",
        "  aliases:    default",
        "  start:      always",
        "  requests:   1 in flight, 3 queued",
        "  why:        replica 1 is loading 62 %",
        "  replica 0: ready",
        "    pid:        4711",
        "    address:    unix:/run/q.sock",
        "    uptime:     12.5s",
        "    requests:   1 in flight",
        "    slots:      1 of 4 busy",
        "    tokens/s:   41.5",
        "    memory:     170M",
        "    gpus:       0,1",
        "    restarts:   2",
        "    last exit:  killed by SIGSEGV",
        "  replica 1: loading",
        "    pid:        4712",
        "    uptime:     1s",
        "    loaded:     62%",
        "    requests:   0 in flight",
        "    gpus:       0,1",
        "    restarts:   0",
    ]
    assert "    next try:   in 4.2s" in list(details({**status, "servers": status["servers"][1:2]}))


def test_every_row_of_plain_text_has_every_cell_and_is_one_line() -> None:
    evil = Failure("x", "line one\nline two\x1b[2J", None)
    status = a_status(a_server("qwen", Replica(ReplicaKey("qwen", 0), state=State.FAILED, last_error=evil)))
    (row,) = status_table(status).rows
    assert all(row)
    assert row[-1] == r"line one\nline two\x1b[2J"


def test_a_server_that_was_not_replaced_says_so_and_a_mended_error_is_not_shown() -> None:
    failure = Failure("x", "it crashed")
    for state, words in ((State.READY, "not replaced: it crashed; the old one goes on"), (State.STARTING, "")):
        status = a_status(a_server("qwen", Replica(ReplicaKey("qwen", 0), state=state, last_error=failure)))
        assert note(status["servers"][0], status["servers"][0]["replicas"][0]) == words


def test_what_a_person_should_know_of_a_server_that_runs_is_noted_too() -> None:
    view = a_server("qwen", Replica(ReplicaKey("qwen", 0), state=State.READY), notice="a newer binary is there")
    (row,) = status_table(a_status(view)).rows
    assert row[-1] == "a newer binary is there"


def test_why_a_server_is_stopped_is_noted() -> None:
    config = ServerConfig(name="spare", model=Path("/m/s.gguf"), start="manual")
    condition = explain(config, (), running=False)
    status = a_status(ServerView(config, condition, notice="a newer binary is there"))
    (row,) = status_table(status).rows
    assert row[-1] == "is started by hand only (llamad start spare); a newer binary is there"
    assert "  why:        is started by hand only (llamad start spare)" in list(details(status))
    assert list(status_changes(None, status)) == [f"spare stopped: {row[-1]}"]


def test_the_version_that_runs_is_told_and_what_to_do_where_it_is_another() -> None:
    assert (
        version_line(a_status())
        == f"llamad {a_status()['version']} runs; this is {__version__}: `llamad upgrade` starts it"
    )
    assert version_line({**a_status(), "version": __version__}) == f"llamad {__version__} runs"


def test_what_is_to_say_of_the_configuration() -> None:
    assert list(config_lines(a_status())) == [
        "no servers are configured: add one below servers: in the configuration, see llamad.yaml(5)"
    ]
    server = a_server("qwen")
    assert list(config_lines(a_status(server))) == []
    assert list(config_lines(a_status(server, error="a:1:1: x\na:2:1: y"))) == [
        "config refused, the last accepted one runs: a:1:1: x",
        "  a:2:1: y",
    ]
    deaf = {**a_status(server), "gateway_problem": "cannot listen on 127.0.0.1:8080"}
    assert list(config_lines(deaf)) == ["the gateway takes no requests: cannot listen on 127.0.0.1:8080"]
    assert list(config_lines(a_status(server, error=""))) == ["config refused, the last accepted one runs: "]


@pytest.mark.parametrize(("gpus", "shown"), [(None, "-"), ("all", "all"), ([0, "GPU-1"], "0,GPU-1"), ([], "")])
def test_gpus(gpus: list[str | int] | str | None, shown: str) -> None:
    assert gpus_text(gpus) == shown


def test_watching_tells_changes_of_state_only() -> None:
    def now(state: State, **figures: object) -> StatusDocument:
        replica = Replica(ReplicaKey("qwen", 0, 1), state=state, **figures)  # type: ignore[arg-type]
        return a_status(a_server("qwen", replica), a_server("spare"))

    first = now(State.LOADING, load_progress=0.1)
    assert list(status_changes(None, first)) == ["qwen/0 loading: 10%", "spare starting"]
    assert list(status_changes(first, now(State.LOADING, load_progress=0.2))) == []
    failed = now(State.FAILED, last_error=Failure("x", "corrupt GGUF"))
    assert list(status_changes(first, failed)) == ["qwen/0 loading -> failed: corrupt GGUF"]
    assert list(status_changes(failed, now(State.READY))) == ["qwen/0 failed -> ready"]
    assert list(status_changes(first, a_status(a_server("spare")))) == ["qwen/0 loading -> gone"]


def test_watching_tells_the_old_replica_from_the_new() -> None:
    both = a_status(
        a_server(
            "qwen",
            Replica(ReplicaKey("qwen", 0, 1), state=State.DRAINING),
            Replica(ReplicaKey("qwen", 0, 2), state=State.READY),
        )
    )
    assert list(status_changes(None, both)) == ["qwen/0 (old) draining", "qwen/0 ready"]


def test_models() -> None:
    header = Header(3, 1, "qwen3", "Qwen3", quantization="Q4_K_M", context_length=40960, chat_template=True)
    path = Path("/m/a/q.gguf")
    files = [
        ModelFile(path, "q", Kind.MODEL, 5 << 30, (path, path), header, projectors=(Path("/m/mm.gguf"),)),
        ModelFile(Path("/m/mm.gguf"), "mm", Kind.PROJECTOR, 1 << 20, (path,), Header(3, 1, "clip")),
        ModelFile(Path("/m/x.gguf"), "x", Kind.MODEL, 3, (path,), problem="no GGUF", templates=(Path("/m/x.jinja"),)),
    ]
    served = {"qwen": Served(("q", "default"), "server", 8192, 4, "/m/a/q.gguf", modalities=("vision",))}
    configs = {"qwen": ServerConfig(name="qwen", model=path, aliases=("default", "coder"))}
    models = models_document(Path("/m/"), files, served, configs=configs)
    assert list(models_table(models).plain()) == [
        "FILE      ARCHITECTURE  SIZE  QUANTISATION  CONTEXT  TEMPLATE   SERVERS  NOTE",
        "a/q.gguf  qwen3           5G  Q4_K_M          40960  built in   qwen     2 parts; with projector",
        "mm.gguf   clip            1M  -                   -  -          -        projector",
        "x.gguf    -                3  -                   -  beside it  -        broken: no GGUF",
    ]
    assert list(served_table(models).plain()) == [
        "SERVER  SERVES             CONTEXT  SLOTS  MODALITIES  SOURCE",
        "qwen    q, default, coder     8192      4  vision      server",
    ]


def test_devices() -> None:
    gpu = Gpu(Vendor.NVIDIA, 0, "0000:01:00.0", "L4", "GPU-1", "nvidia", 24 << 30, 1 << 30)
    assert list(devices_table(devices_document(Devices((gpu, Gpu(Vendor.INTEL))), {})).plain()) == [
        "GPU  VENDOR  NAME  MEMORY  USED  DRIVER  UUID   PCI",
        "  0  nvidia  L4       24G    1G  nvidia  GPU-1  0000:01:00.0",
        "  -  intel   -          -     -  -       -      -",
    ]


def test_the_status_on_a_narrow_terminal() -> None:
    table, below = fitted(status_table(some_servers()), 60)
    assert list(table.plain()) == [
        "NAME    STATE     PID  UPTIME  REQUESTS  QUEUED  MEMORY",
        "qwen/0  ready    4711   12.5s         1       3    170M",
        "qwen/1  loading  4712      1s         0       -       -",
        "embed   backoff     -       -         0       0       -",
        "spare   stopped     -       -         -       0       -",
    ]
    assert below == [
        "qwen/1: loading 62%",
        "embed: corrupt GGUF (download it again); next try in 4.2s",
        "spare: starts with a request; needs memory that qwen uses",
    ]
    assert list(fitted(status_table(some_servers()), 10)[0].titles) == ["NAME", "STATE"]


def test_a_models_name_is_never_broken() -> None:
    name = "Qwen3-Coder-30B-A3B-Instruct-UD-Q4_K_XL-00001-of-00002.gguf"
    files = [ModelFile(Path(f"/m/{name}"), "q", Kind.MODEL, 5 << 30, (), None, problem="no GGUF")]
    table, below = fitted(models_table(models_document(Path("/m/"), files, {}, configs={})), 40)
    assert list(table.plain()) == ["FILE", name]
    assert below == [f"{name}:", "  broken: no GGUF"]

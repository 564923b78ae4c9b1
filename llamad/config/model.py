"""The configuration as frozen values: what may be written, its type, its default and its bounds.

The JSON Schema for editors and the checks of the loader both come from here; what an editor shows of a field is in
`descriptions`. Bounds that need more than one server (ports, aliases) are in `checks`.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from llamad.config import values
from llamad.config.values import (
    AccessLog,
    Addresses,
    Argument,
    Count,
    Duration,
    EnvName,
    FilePath,
    Flag,
    Gpus,
    HfRepo,
    Host,
    HostName,
    Memory,
    Name,
    Pool,
    Port,
    Size,
    SocketPath,
    Text,
    Url,
    Word,
    conflict,
)
from llamad.host.address import TcpAddress

SERVER_NAME = values.SERVER_NAME
"""What a server's name looks like, and a key's."""


class Section(BaseModel):
    """One mapping of the file: closed (an unknown key is a problem) and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


LogLevel = Literal["debug", "info", "warning", "error"]


class LogConfig(Section):
    """`log:`, how llamad itself writes."""

    level: LogLevel = "info"
    engine_level: LogLevel | None = None
    format: Literal["auto", "journal", "json", "text"] = "auto"


class QueueConfig(Section):
    """`gateway.queue:`, requests that wait for a replica, per server."""

    size: Annotated[int, Field(ge=0, strict=True)] = 512
    timeout: Duration = 120.0


class GatewayConfig(Section):
    """`gateway:`, the OpenAI-compatible port."""

    listen: Addresses = (TcpAddress("127.0.0.1", 8080),)
    api_keys_file: FilePath | None = None
    insecure: Flag = False
    max_body: Size = 64 << 20
    max_connections: Count = 16384
    lame_duck: Duration = 0.0
    queue: QueueConfig = QueueConfig()
    access_log: AccessLog = "errors"
    cors_origins: tuple[Text, ...] = ()
    hosts: tuple[HostName, ...] = ()
    memory_budget: Mapping[Pool, Size] = {}


class ControlConfig(Section):
    """`control:`, the socket of the client commands."""

    socket: SocketPath | None = None


class RestartPolicy(Section):
    """`restart:`, how a server comes back: exponential backoff, `failed` after `max_retries`, slow retry from there."""

    initial_delay: Duration = 1.0
    factor: Annotated[float, Field(ge=1, strict=True)] = 2.0
    max_delay: Duration = 30.0
    jitter: Annotated[float, Field(ge=0, le=1, strict=True)] = 0.1
    max_retries: Annotated[int, Field(ge=0, strict=True)] | None = 5
    reset_after: Duration = 60.0
    retry_failed_every: Duration | None = 300.0

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.initial_delay > self.max_delay:
            raise conflict("initial_delay is longer than max_delay", "initial_delay", "max_delay")
        return self


class HealthPolicy(Section):
    """`health:`, how a server is watched. After `failures` silent probes it gets no new requests, after
    `hang_timeout` it is replaced.
    """

    interval: Annotated[Duration, Field(ge=1)] = 5.0
    timeout: Annotated[Duration, Field(gt=0)] = 2.0
    load_stall_timeout: Annotated[Duration, Field(gt=0)] = 300.0
    hang_timeout: Annotated[Duration, Field(gt=0)] = 60.0
    failures: Count = 3


class StopPolicy(Section):
    """`stop:`, wait for running requests, then SIGTERM, then SIGKILL."""

    drain_timeout: Duration = 30.0
    term_timeout: Duration = 10.0


class LimitsConfig(Section):
    """`limits:`, of the server's control group."""

    memory_max: Size | None = None
    memory_high: Size | None = None
    cpu_weight: Annotated[int, Field(ge=1, le=10000, strict=True)] | None = None


class ServerConfig(Section):
    """One entry of `servers:`. `name` and the absolute `model` are filled in by the loader."""

    name: Name
    model: FilePath | None = None
    hf_repo: HfRepo | None = None
    url: Url | None = None
    api_key_credential: Text | None = None
    api_key_file: FilePath | None = None
    llama_server: Text | None = None
    aliases: tuple[Text, ...] = ()
    gpus: Gpus = None
    args: Mapping[str, Argument] = {}
    extra_args: tuple[Word, ...] = ()
    env: Mapping[EnvName, Word] = {}
    port: Port | None = None
    host: Host = "127.0.0.1"
    replicas: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    start: Literal["always", "on-demand", "manual"] = "always"
    idle_timeout: Annotated[Duration, Field(gt=0)] | None = None
    replace: Literal["stop-first", "start-first"] = "stop-first"
    restart: RestartPolicy = RestartPolicy()
    health: HealthPolicy = HealthPolicy()
    stop: StopPolicy = StopPolicy()
    max_concurrent: Count | None = None
    group: Name | None = None
    memory: Memory = None
    evictable: Flag | None = None
    limits: LimitsConfig = LimitsConfig()
    env_credentials: Mapping[EnvName, Text] = {}

    @property
    def external(self) -> bool:
        """Whether llamad only watches it."""
        return self.url is not None

    @property
    def may_make_way(self) -> bool:
        """Whether it may be stopped for another server's memory when idle."""
        return self.start == "on-demand" if self.evictable is None else self.evictable

    @property
    def memory_needs(self) -> dict[int | Literal["host"], int]:
        """Bytes it takes of each budget. A plain size counts once on each GPU of each replica, or on the host where
        it names none by index.
        """
        if self.memory is None:
            return {}
        if isinstance(self.memory, Mapping):
            return dict(self.memory)
        out: dict[int | Literal["host"], int] = {}
        for index in range(self.replicas):
            gpus = self.gpus_of(index)
            pools: list[int | Literal["host"]] = []
            if isinstance(gpus, tuple):
                pools += [gpu for gpu in gpus if isinstance(gpu, int)]
            for pool in pools or ["host"]:
                out[pool] = out.get(pool, 0) + self.memory
        return out

    def gpus_of(self, index: int) -> Literal["all", "none"] | tuple[int | str, ...] | None:
        """The GPUs of replica `index`; None leaves the choice to llama-server."""
        if self.gpus is None or isinstance(self.gpus, str):
            return self.gpus
        return self.gpus[0] if len(self.gpus) == 1 else self.gpus[index]


class Config(Section):
    """The whole configuration, files merged and `defaults` applied. `models_dir` is absolute."""

    llama_server: Text = "llama-server"
    models_dir: FilePath
    log: LogConfig = LogConfig()
    gateway: GatewayConfig = GatewayConfig()
    control: ControlConfig = ControlConfig()
    startup: Literal["settle", "strict", "immediate"] = "settle"
    watch: Flag = True
    servers: Mapping[str, ServerConfig] = {}

"""The configuration as frozen values: what may be written, its type, its default and its bounds (design.md 2).

The JSON Schema for editors and the checks of the loader both come from here; every field's description is what an
editor shows. Bounds that need more than one server (ports, aliases) are in `checks`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, WithJsonSchema, model_validator

from llamad.config.units import parse_duration, parse_size
from llamad.host.address import Address, TcpAddress, UnixAddress, parse_address

SERVER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"

Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["500ms", "30s", "5m"]}),
]
"""Seconds; written `500ms`, `30s`, `5m`, `1h` or a number."""
Size = Annotated[
    int, BeforeValidator(parse_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["512M", "20G"]})
]
"""Bytes; written `512M`, `20G` or a number."""
Count = Annotated[int, Field(ge=1, strict=True)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Name = Annotated[str, StringConstraints(pattern=SERVER_NAME)]
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]
Gpu = Annotated[int, Field(ge=0, strict=True)] | Annotated[str, StringConstraints(pattern=r"^(GPU|MIG)-[0-9A-Za-z/-]+$")]
"""An index in nvidia-smi's order, or a UUID."""
ArgScalar = bool | int | float | str
ArgValue = ArgScalar | tuple[ArgScalar, ...] | None
EnvName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Section(BaseModel):
    """One mapping of the file: closed (an unknown key is a problem) and frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class LogConfig(Section):
    """`log:`, how llamad itself writes."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "json", "text"] = "auto"


class QueueConfig(Section):
    """`gateway.queue:`, requests that wait for a replica, per server."""

    size: Annotated[int, Field(ge=0, strict=True)] = 512
    timeout: Duration = 120.0


def _addresses(value: object) -> object:
    """One address or a list of them; null is none."""
    if value is None:
        return ()
    items = value if isinstance(value, list | tuple) else (value,)
    out: list[Address] = []
    for item in items:
        if isinstance(item, UnixAddress | TcpAddress):
            out.append(item)
        elif isinstance(item, str):
            out.append(parse_address(item))
        else:
            raise ValueError(f"{item!r} is no address: write HOST:PORT, [::1]:PORT or unix:/PATH")
    return tuple(out)


class GatewayConfig(Section):
    """`gateway:`, the OpenAI-compatible port."""

    listen: Annotated[
        tuple[Address, ...],
        BeforeValidator(_addresses),
        WithJsonSchema({"type": ["string", "array", "null"], "items": {"type": "string"}}),
    ] = (TcpAddress("127.0.0.1", 8080),)
    api_keys_file: Path | None = None
    insecure: Annotated[bool, Field(strict=True)] = False
    max_body: Size = 64 << 20
    queue: QueueConfig = QueueConfig()
    access_log: Literal["all", "errors", "off"] = "errors"
    cors_origins: tuple[Text, ...] = ()
    memory_budget: Mapping[Annotated[int, Field(ge=0, strict=True)] | Literal["host"], Size] = {}


class ControlConfig(Section):
    """`control:`, the socket of the client commands."""

    socket: Path | None = None


class RestartPolicy(Section):
    """`restart:`, how a server comes back: exponential backoff, `failed` after `max_retries`, slow retry from there."""

    initial_delay: Duration = 1.0
    factor: Annotated[float, Field(ge=1)] = 2.0
    max_delay: Duration = 30.0
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.1
    max_retries: Annotated[int, Field(ge=0, strict=True)] | None = 5
    reset_after: Duration = 60.0
    retry_failed_every: Duration | None = 300.0

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.initial_delay > self.max_delay:
            raise ValueError("initial_delay is longer than max_delay")
        return self


class HealthPolicy(Section):
    """`health:`, how a server is watched. `failures` silent probes take new requests away, `hang_timeout` replaces it."""

    interval: Annotated[Duration, Field(gt=0)] = 5.0
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


def _gpus(value: object) -> object:
    """`[0, 1]` is one set for every replica, `[[0], [1]]` one for each."""
    if isinstance(value, list | tuple):
        nested = [isinstance(item, list | tuple) for item in value]
        if any(nested) and not all(nested):
            raise ValueError("mixes GPUs and lists of GPUs: write [0, 1] for every replica or [[0], [1]] for one each")
        sets = [tuple(item) for item in value] if any(nested) else [tuple(value)]
        if any(len(set(map(str, one))) != len(one) for one in sets):
            raise ValueError("names a GPU twice")
        if any(not one for one in sets):
            raise ValueError("is empty: write none for no GPU, or leave the key out")
        return tuple(sets)
    if isinstance(value, str) and value not in ("all", "none"):
        raise ValueError(f"{value!r} is neither all nor none nor a list such as [0] or [[0], [1]]")
    return value


def _memory(value: object) -> object:
    return value if value is None or isinstance(value, Mapping) else parse_size(value)


class ServerConfig(Section):
    """One entry of `servers:`. `name` and the absolute `model` are filled in by the loader."""

    name: Name
    model: Path | None = None
    hf_repo: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$")] | None = None
    url: Annotated[str, StringConstraints(pattern=r"^http://[^/?#\s]+/?$")] | None = None
    api_key_credential: Text | None = None
    api_key_file: Path | None = None
    llama_server: Text | None = None
    aliases: tuple[Text, ...] = ()
    gpus: Annotated[
        Literal["all", "none"] | tuple[tuple[Gpu, ...], ...] | None,
        BeforeValidator(_gpus),
        WithJsonSchema({"type": ["string", "array", "null"]}),
    ] = None
    args: Mapping[str, ArgValue] = {}
    extra_args: tuple[str, ...] = ()
    env: Mapping[EnvName, str] = {}
    port: Port | None = None
    host: Text = "127.0.0.1"
    replicas: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    start: Literal["always", "on-demand", "manual"] = "always"
    idle_timeout: Annotated[Duration, Field(gt=0)] | None = None
    replace: Literal["stop-first", "start-first"] = "stop-first"
    restart: RestartPolicy = RestartPolicy()
    health: HealthPolicy = HealthPolicy()
    stop: StopPolicy = StopPolicy()
    max_concurrent: Count | None = None
    group: Name | None = None
    memory: Annotated[
        Size | Mapping[Annotated[int, Field(ge=0, strict=True)] | Literal["host"], Size] | None,
        BeforeValidator(_memory),
        WithJsonSchema({"type": ["string", "integer", "object", "null"]}),
    ] = None
    evictable: Annotated[bool, Field(strict=True)] | None = None
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

    def gpus_of(self, index: int) -> Literal["all", "none"] | tuple[int | str, ...] | None:
        """The GPUs of replica `index`; None leaves the choice to llama-server."""
        if self.gpus is None or isinstance(self.gpus, str):
            return self.gpus
        return self.gpus[0] if len(self.gpus) == 1 else self.gpus[index]


class Config(Section):
    """The whole configuration, files merged and `defaults` applied. `models_dir` is absolute."""

    llama_server: Text = "llama-server"
    models_dir: Path
    log: LogConfig = LogConfig()
    gateway: GatewayConfig = GatewayConfig()
    control: ControlConfig = ControlConfig()
    startup: Literal["settle", "strict", "immediate"] = "settle"
    servers: Mapping[str, ServerConfig] = {}



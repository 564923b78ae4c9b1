"""The shapes of what goes over the control socket, as JSON. `wire` builds them, the client prints them.

StatusDocument is the contract of `llamad status --json`: every key is always there, null where there is nothing; keys
may join, none may leave or change its meaning.
"""

from typing import NotRequired, TypedDict


class ConfigDocument(TypedDict):
    """Which configuration runs, and what is wrong with the one on disk, if it was refused."""

    files: list[str]
    loaded_at: str | None
    error: str | None


class ReplicaDocument(TypedDict):
    """One replica. `generation` tells the old from the new one while a start-first replace goes on; `reason` says in
    one line why it is not ready, with the hint and when it is tried again.
    """

    index: int
    generation: int
    state: str
    pid: int | None
    address: str | None
    uptime_s: float | None
    restarts: int
    last_exit: str | None
    last_error: str | None
    hint: str | None
    cause: str | None
    reason: str | None
    memory_bytes: int | None
    cpu_s: float | None
    retry_in_s: float | None
    in_flight: int
    slots: int | None
    busy_slots: int | None
    asleep: bool
    tokens_per_s: float | None
    load_progress: float | None
    gpus: str | list[str | int] | None


class ServerDocument(TypedDict):
    """One server; `state` is that of its replicas together (`state.together`). `reason` says in one line why it is not
    ready, or not in all its replicas (`explain`); `notice` what an operator should know beside that.
    """

    name: str
    wanted: str
    state: str
    aliases: list[str]
    model: str | None
    url: str | None
    start: str
    in_flight: int
    queued: int
    reason: str | None
    notice: str | None
    replicas: list[ReplicaDocument]


class StatusDocument(TypedDict):
    """What `llamad status --json` prints. `gateway_problem` is what it cannot listen on, and why."""

    version: str
    ready: bool
    gateway_problem: str | None
    config: ConfigDocument
    servers: list[ServerDocument]


class StepDocument(TypedDict):
    """One server's share of a plan."""

    action: str
    server: str
    reasons: list[str]


class EarlierDocument(TypedDict):
    """What llamad applied by itself since somebody last asked for a reload: when, why, what it changed, in words, and
    how the servers that it touched are now.
    """

    at: str
    cause: str
    changes: list[str]
    servers: list["SettledDocument"]


class PlanDocument(TypedDict):
    """What a reload would do now: `steps` to servers, `settings` beside them in words. `problems` are those that
    would not refuse it, and what an operator should know of servers that stay as they are.
    """

    steps: list[StepDocument]
    settings: list[str]
    problems: list[str]
    earlier: list[EarlierDocument]


class ProblemDocument(TypedDict):
    """One problem of a configuration (`config.problems.Problem`)."""

    file: str
    line: int
    column: int
    path: str
    message: str
    kind: str
    server: str | None
    hint: str | None


class CheckDocument(TypedDict):
    """What `llamad check --json` prints. `view` is whose look it was: `llamad` (the running one), `service` (root on
    behalf of the service's user) or `self`. `exit_code` is 0, 1 where it would be accepted and something would not
    work, or 78 where it would be refused; `summary` says it in a line, `lines` are the problems as text.
    """

    view: str
    file: str
    files: list[str]
    ok: bool
    exit_code: int
    summary: str
    servers: list[str]
    problems: list[ProblemDocument]
    lines: list[str]


class SettledDocument(TypedDict):
    """A server after a verb."""

    server: str
    state: str
    error: str | None
    hint: str | None


class ReloadDocument(TypedDict):
    """What an accepted reload did. `servers` are those waited for, once settled; empty where nobody waited."""

    steps: list[StepDocument]
    settings: list[str]
    problems: list[str]
    earlier: list[EarlierDocument]
    servers: list[SettledDocument]


class VerbDocument(TypedDict):
    """What start, stop or restart came to."""

    servers: list[SettledDocument]


class LogDocument(TypedDict):
    """One line of a server's output. `lost` counts lines dropped before it, because the reader was too slow."""

    at: str
    level: str
    replica: int
    text: str
    lost: int


class ModelFileDocument(TypedDict):
    """A model in models_dir; a split one is one. `error` says why it cannot be used; what is not known is null.
    `templates` and `projectors` are paths of files beside it.
    """

    name: str
    path: str
    kind: str
    parts: int
    size_bytes: int
    architecture: str | None
    title: str | None
    quantization: str | None
    context: int | None
    chat_template: bool
    templates: list[str]
    projectors: list[str]
    error: str | None


class ServedDocument(TypedDict):
    """What a server says it serves; `source` is `server`, or `file` where its model's header speaks for it. `aliases`
    are those that the configuration gives it.
    """

    server: str
    names: list[str]
    aliases: list[str]
    path: str | None
    context: int | None
    slots: int | None
    quantization: str | None
    parameters: int | None
    modalities: list[str]
    source: str


class ModelsDocument(TypedDict):
    """What `llamad models --json` prints. `error` is why models_dir could not be read."""

    models_dir: str
    error: str | None
    files: list[ModelFileDocument]
    served: list[ServedDocument]


class GpuDocument(TypedDict):
    """One GPU as the kernel shows it; `index` is its number for `gpus:`."""

    index: int | None
    vendor: str
    name: str | None
    uuid: str | None
    pci: str | None
    driver: str | None
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    nodes: list[str]


class DevicesDocument(TypedDict):
    """What `llamad devices --json` prints. `llama_server` holds, by binary, the lines of its own list of devices."""

    gpus: list[GpuDocument]
    problems: list[str]
    llama_server: dict[str, list[str]]


class ErrorBody(TypedDict):
    """What an operator reads; `exit_code` is what the command ends with, `problems` are lines that say more."""

    message: str
    hint: str | None
    exit_code: int
    problems: NotRequired[list[str]]


class ErrorDocument(TypedDict):
    """Every answer that is not a success."""

    error: ErrorBody

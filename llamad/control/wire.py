"""The shapes on the control socket, built from values. Pure.

`status_document` is the contract of `llamad status --json`: every key is always there, null where there
is nothing; keys may join, none may leave or change its meaning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NotRequired, TypedDict

from llamad.errors import LlamadError
from llamad.servers.state import State, together

if TYPE_CHECKING:
    from pathlib import Path

    from llamad.config.model import ServerConfig
    from llamad.host.devices import Devices
    from llamad.servers.board import Failure, Replica
    from llamad.servers.models import ModelFile, Served
    from llamad.servers.plan import Step
    from llamad.servers.traffic import Traffic


class ConfigDocument(TypedDict):
    """Which configuration runs, and what is wrong with the one on disk, if it was refused."""

    files: list[str]
    loaded_at: str | None
    error: str | None


class ReplicaDocument(TypedDict):
    """One replica. `generation` tells the old from the new one while a start-first replace goes on."""

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
    memory_bytes: int | None
    cpu_s: float | None
    retry_in_s: float | None
    in_flight: int
    slots: int | None
    busy_slots: int | None
    tokens_per_s: float | None
    load_progress: float | None
    gpus: str | list[str | int] | None


class ServerDocument(TypedDict):
    """One server; `state` is that of its replicas together (`state.together`). `reason` says why it is stopped, where
    it is; `notice` what an operator should know beside that.
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


class PlanDocument(TypedDict):
    """What a reload would do now: `steps` to servers, `settings` beside them in words. `problems` are those that
    would not refuse it, and what an operator should know of servers that stay as they are.
    """

    steps: list[StepDocument]
    settings: list[str]
    problems: list[str]


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


@dataclass(frozen=True, slots=True)
class ServerView:
    """What the daemon knows of one server at this moment. `ordered` is that an operator stopped it, `failure` why it is
    not as it is wanted, `notice` something an operator should know that is no failure (a newer binary is there).
    """

    config: ServerConfig
    wanted: Literal["running", "stopped"]
    replicas: Sequence[Replica] = ()
    traffic: Traffic | None = None
    ordered: bool = False
    failure: Failure | None = None
    notice: str | None = None


@dataclass(frozen=True, slots=True)
class ConfigView:
    """Which configuration runs: its files, when it was accepted (unix time), and why the one on disk was refused."""

    files: Sequence[Path] = ()
    loaded_at: float | None = None
    error: str | None = None


def status_document(
    *,
    version: str,
    ready: bool,
    config: ConfigView,
    servers: Iterable[ServerView],
    now: float,
    gateway_problem: str | None = None,
) -> StatusDocument:
    """The whole status. `now` is the clock of the replicas' times (the loop's). What cannot be asked is not ready."""
    return {
        "version": version,
        "ready": ready and gateway_problem is None,
        "gateway_problem": gateway_problem,
        "config": {
            "files": [str(file) for file in config.files],
            "loaded_at": None if config.loaded_at is None else timestamp(config.loaded_at),
            "error": config.error,
        },
        "servers": [server_document(server, now=now) for server in servers],
    }


def server_document(view: ServerView, *, now: float) -> ServerDocument:
    """One server of the status."""
    config, traffic = view.config, view.traffic
    model = config.hf_repo if config.model is None else str(config.model)
    return {
        "name": config.name,
        "wanted": view.wanted,
        "state": together(replica.state for replica in view.replicas),
        "aliases": list(config.aliases),
        "model": model,
        "url": config.url,
        "start": config.start,
        "in_flight": 0 if traffic is None else traffic.total,
        "queued": 0 if traffic is None else traffic.queued,
        "reason": _reason(view),
        "notice": view.notice,
        "replicas": [_replica_document(replica, view, now=now) for replica in view.replicas],
    }


def _reason(view: ServerView) -> str | None:
    """Why nothing of a server runs."""
    config = view.config
    if any(replica.state is not State.STOPPED for replica in view.replicas):
        return None
    if view.ordered:
        return f"stopped by hand (llamad start {config.name})"
    if view.wanted == "running":
        if view.failure is not None:
            return str(view.failure)
        return None if config.group is None and config.memory is None else "waits until others make room for it"
    if config.start == "manual":
        return f"manual (llamad start {config.name})"
    return "on demand: starts at a request" if config.start == "on-demand" else "made way: starts at a request"


def _replica_document(replica: Replica, view: ServerView, *, now: float) -> ReplicaDocument:
    failure = replica.last_error
    return {
        "index": replica.key.index,
        "generation": replica.key.generation,
        "state": replica.state,
        "pid": replica.pid,
        "address": None if replica.address is None else str(replica.address),
        "uptime_s": _uptime(replica, now),
        "restarts": replica.restarts,
        "last_exit": replica.last_exit,
        "last_error": None if failure is None else failure.message,
        "hint": None if failure is None else failure.hint,
        "cause": None if failure is None else failure.cause,
        "memory_bytes": replica.memory_bytes,
        "cpu_s": None if replica.cpu_seconds is None else round(replica.cpu_seconds, 1),
        "retry_in_s": None if replica.retry_at is None else round(max(0.0, replica.retry_at - now), 1),
        "in_flight": 0 if view.traffic is None else view.traffic.in_flight(replica.key),
        "slots": replica.slots,
        "busy_slots": replica.busy_slots,
        "tokens_per_s": None if replica.tokens_per_s is None else round(replica.tokens_per_s, 1),
        "load_progress": None if replica.load_progress is None else round(replica.load_progress, 3),
        "gpus": _gpus(view.config, replica.key.index),
    }


def _uptime(replica: Replica, now: float) -> float | None:
    """Since the process was spawned; since it answers, where llamad did not spawn it."""
    since = replica.ready_since if replica.started_at is None else replica.started_at
    if since is None or not replica.state.alive:
        return None
    return round(max(0.0, now - since), 1)


def _gpus(config: ServerConfig, index: int) -> str | list[str | int] | None:
    try:
        gpus = config.gpus_of(index)
    except IndexError:  # a replica on its way out, of a configuration that had more of them
        return None
    return list(gpus) if isinstance(gpus, tuple) else gpus


def timestamp(at: float) -> str:
    """Unix time as RFC 3339 in UTC, with milliseconds where there are any."""
    moment = datetime.fromtimestamp(round(at, 3), UTC)
    return moment.isoformat(timespec="milliseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def step_document(step: Step) -> StepDocument:
    """One step of a plan."""
    return {"action": step.action, "server": step.server, "reasons": list(step.reasons)}


def settled_document(server: str, state: State, failure: Failure | None) -> SettledDocument:
    """A server after a verb; `failure` only where the verb waited and the server failed."""
    return {
        "server": server,
        "state": state,
        "error": None if failure is None else failure.message,
        "hint": None if failure is None else failure.hint,
    }


def log_document(*, at: float, level: int, replica: int, text: str, lost: int = 0) -> LogDocument:
    """One line of a server; `at` is unix time, `level` one of logging's."""
    return {
        "at": timestamp(at),
        "level": logging.getLevelName(level).lower(),
        "replica": replica,
        "text": text,
        "lost": lost,
    }


def models_document(
    folder: Path,
    files: Iterable[ModelFile],
    served: Mapping[str, Served],
    *,
    configs: Mapping[str, ServerConfig],
    error: str | None = None,
) -> ModelsDocument:
    """The models of `folder`, and what is served by the name of a server of `configs`; `error` where the folder could
    not be read.
    """
    return {
        "models_dir": str(folder),
        "error": error,
        "files": [_model_file_document(file) for file in files],
        "served": [
            {
                "server": server,
                "names": list(one.names),
                "aliases": list(configs[server].aliases) if server in configs else [],
                "path": one.path,
                "context": one.context,
                "slots": one.slots,
                "quantization": one.quantization,
                "parameters": one.parameters,
                "modalities": list(one.modalities),
                "source": one.source,
            }
            for server, one in served.items()
        ],
    }


def _model_file_document(file: ModelFile) -> ModelFileDocument:
    header = file.header
    return {
        "name": file.name,
        "path": str(file.path),
        "kind": file.kind,
        "parts": len(file.parts),
        "size_bytes": file.size,
        "architecture": None if header is None else header.architecture,
        "title": None if header is None else header.name,
        "quantization": None if header is None else header.quantization,
        "context": None if header is None else header.context_length,
        "chat_template": header is not None and header.chat_template,
        "templates": [str(path) for path in file.templates],
        "projectors": [str(path) for path in file.projectors],
        "error": file.problem,
    }


def devices_document(devices: Devices, seen: Mapping[str, Sequence[str]]) -> DevicesDocument:
    """The GPUs; `seen` is what each llama-server binary lists (`--list-devices`), by its path."""
    return {
        "gpus": [
            {
                "index": gpu.index,
                "vendor": gpu.vendor,
                "name": gpu.name,
                "uuid": gpu.uuid,
                "pci": gpu.pci,
                "driver": gpu.driver,
                "memory_total_bytes": gpu.memory_total,
                "memory_used_bytes": gpu.memory_used,
                "nodes": [str(node) for node in gpu.nodes],
            }
            for gpu in devices.gpus
        ],
        "problems": list(devices.problems),
        "llama_server": {binary: list(lines) for binary, lines in seen.items()},
    }


def error_document(error: LlamadError) -> ErrorDocument:
    """An error an operator can mend."""
    body: ErrorBody = {"message": error.message, "hint": error.hint, "exit_code": int(error.exit_code)}
    if error.problems:
        body["problems"] = list(error.problems)
    return {"error": body}

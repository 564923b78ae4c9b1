"""The documents of the control socket (`documents`), built from values. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from llamad.control.documents import (
    CheckDocument,
    DevicesDocument,
    ErrorBody,
    ErrorDocument,
    LogDocument,
    ModelFileDocument,
    ModelsDocument,
    ProblemDocument,
    ReplicaDocument,
    ServerDocument,
    SettledDocument,
    StatusDocument,
    StepDocument,
)
from llamad.errors import ExitCode, LlamadError
from llamad.servers.explain import explain_replica

if TYPE_CHECKING:
    from pathlib import Path

    from llamad.config.model import ServerConfig
    from llamad.config.problems import Problem
    from llamad.config.verdict import Verdict
    from llamad.host.devices import Devices
    from llamad.servers.board import Failure, Replica
    from llamad.servers.explain import Condition
    from llamad.servers.models import ModelFile, Served
    from llamad.servers.plan import Step
    from llamad.servers.state import State
    from llamad.servers.traffic import Traffic


@dataclass(frozen=True, slots=True)
class ServerView:
    """What the daemon knows of one server at this moment. `notice` is something an operator should know that is no
    failure (a newer binary is there).
    """

    config: ServerConfig
    condition: Condition
    replicas: Sequence[Replica] = ()
    traffic: Traffic | None = None
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
        "wanted": view.condition.wanted,
        "state": view.condition.state,
        "aliases": list(config.aliases),
        "model": model,
        "url": config.url,
        "start": config.start,
        "in_flight": 0 if traffic is None else traffic.total,
        "queued": 0 if traffic is None else traffic.queued,
        "reason": view.condition.reason(now),
        "notice": view.notice,
        "replicas": [_replica_document(replica, view, now=now) for replica in view.replicas],
    }


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
        "reason": explain_replica(view.config, replica).reason(now),
        "memory_bytes": replica.memory_bytes,
        "cpu_s": None if replica.cpu_seconds is None else round(replica.cpu_seconds, 1),
        "retry_in_s": None if replica.retry_at is None else round(max(0.0, replica.retry_at - now), 1),
        "in_flight": 0 if view.traffic is None else view.traffic.load(replica.key),
        "slots": replica.slots,
        "busy_slots": replica.busy_slots,
        "asleep": replica.asleep,
        "tokens_per_s": _speed(replica, view),
        "load_progress": None if replica.load_progress is None else round(replica.load_progress, 3),
        "gpus": _gpus(view.config, replica.key.index),
    }


def _speed(replica: Replica, view: ServerView) -> float | None:
    """Tokens a second; not known of work that has begun since the last look."""
    if replica.tokens_per_s is None or (not replica.busy_slots and view.traffic and view.traffic.load(replica.key)):
        return None
    return round(replica.tokens_per_s, 1)


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


def check_document(
    view: str, file: Path, files: Iterable[Path], servers: Iterable[str], verdict: Verdict
) -> CheckDocument:
    """A configuration's problems and what comes of them."""
    return {
        "view": view,
        "file": str(file),
        "files": [str(one) for one in files],
        "ok": verdict.exit_code == ExitCode.OK,
        "exit_code": int(verdict.exit_code),
        "summary": verdict.summary,
        "servers": list(servers),
        "problems": [_problem_document(problem) for problem in verdict.problems],
        "lines": list(verdict.lines),
    }


def _problem_document(problem: Problem) -> ProblemDocument:
    return {
        "file": str(problem.position.file),
        "line": problem.position.line,
        "column": problem.position.column,
        "path": problem.path,
        "message": problem.message,
        "kind": problem.kind.value,
        "server": problem.server,
        "hint": problem.hint,
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

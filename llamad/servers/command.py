"""From a server's configuration to what is executed. Pure.

A `Launch` holds everything that needs a new process when it changes, and nothing else: two equal launches mean that
a running process is what the operator wants.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from llamad.config.argv import arguments
from llamad.config.model import LimitsConfig, ServerConfig
from llamad.config.options import Binary, OptionTable
from llamad.host.address import Address, TcpAddress, UnixAddress
from llamad.host.devices import device_environment

_NOT_INHERITED = ("LLAMA_ARG_", "LLAMA_API_KEY", "CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "LLAMAD_", "INVOCATION_ID")
"""llamad's own environment reaches a child but for these: they would change the command line behind the file's back."""


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

    def argv(self, address: Address) -> list[str]:
        """The words of the command line of a start that listens on `address`."""
        if isinstance(address, UnixAddress):
            where = ["--host", str(address.path)]
        else:
            where = ["--host", address.host, "--port", str(address.port)]
        return [str(self.binary), *self.arguments, *where]

    @property
    def uses_rpc(self) -> bool:
        """Whether it works together with rpc-servers of llama.cpp."""
        return "--rpc" in self.arguments or any(name == "LLAMA_ARG_RPC" for name, _ in self.environment)

    @property
    def fingerprint(self) -> str:
        """A short name for this launch that an other process can compare (live restore)."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


def build_launch(server: ServerConfig, index: int, binary: Binary) -> Launch:
    """The launch of replica `index` of a server that llamad runs. ValueError where `args` do not fit the binary."""
    words = arguments(binary.options, server.args, server.extra_args)
    gpus = server.gpus_of(index)
    environment = {**device_environment(gpus), **server.env}
    source = ["--model", str(server.model)] if server.model is not None else ["--hf-repo", str(server.hf_repo)]
    return Launch(
        binary=binary.path,
        arguments=(*source, *words, *_own_options(server, binary.options, words)),
        environment=tuple(sorted(environment.items())),
        credentials=tuple(sorted(server.env_credentials.items())),
        port=None if server.port is None else TcpAddress(server.host, server.port + index),
        limits=server.limits,
        model=server.model,
        gpus_asked=gpus is not None and gpus != "none",
    )


def _own_options(server: ServerConfig, options: OptionTable, words: tuple[str, ...]) -> list[str]:
    """What llamad adds where the binary knows it and the operator did not say: the name clients see, and /metrics."""
    own = []
    given = {option.name for word in words if word.startswith("-") and (option := options.find(word)) is not None}
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
        and layers.env not in server.env
        and server.gpus_of(0) not in (None, "none")
    ):
        own += ["--n-gpu-layers", "auto"]  # its default: but only one that is told so warns that there is no GPU
    return own


def child_environment(
    launch: Launch, inherited: Mapping[str, str], secrets: Mapping[str, str], *, cache: Path
) -> dict[str, str]:
    """The whole environment of a child: llamad's own less what would leak or interfere, then the launch's."""
    kept = {key: value for key, value in inherited.items() if not key.startswith(_NOT_INHERITED)}
    return {"LLAMA_CACHE": str(cache), **kept, **dict(launch.environment), **secrets}

"""Secrets from systemd's credentials and from files, each registered so that no log line shows it."""

from collections.abc import Mapping
from pathlib import Path

from llamad.config.model import Config, ServerConfig
from llamad.errors import LlamadError
from llamad.host.files import read_text
from llamad.host.redact import Redaction

MAX_BYTES = 1 << 20


class Credentials:
    """Reads `LoadCredential=` credentials ($CREDENTIALS_DIRECTORY) and key files; LlamadError where one is missing."""

    def __init__(self, environ: Mapping[str, str], redaction: Redaction) -> None:
        folder = environ.get("CREDENTIALS_DIRECTORY")
        self._folder = Path(folder) if folder else None
        self._redaction = redaction
        self._external: Mapping[str, str | LlamadError | None] = {}
        """The keys of external servers, by name: read when their configuration is, and not at every probe."""

    def secret(self, name: str) -> str:
        """The text of a credential, without the newline at its end."""
        if self._folder is None or "/" in name:
            raise LlamadError(
                f"the credential {name!r} is not there", hint=f"add LoadCredential={name}:PATH to the unit"
            )
        return self._read(self._folder / name, f"LoadCredential={name}:PATH in the unit names the file")

    def external_key(self, config: ServerConfig) -> str | None:
        """The API key of a server that llamad does not run, as it was taken last; None where it asks none."""
        key = self._external[config.name] if config.name in self._external else self._external_key(config)
        if isinstance(key, LlamadError):
            raise key
        return key

    def read_external(self, config: Config) -> Mapping[str, str | LlamadError | None]:
        """Read the keys of all external servers, or why they cannot be had, for `take_external` (in a thread)."""
        return {name: self._try(server) for name, server in config.servers.items() if server.external}

    def take_external(self, keys: Mapping[str, str | LlamadError | None]) -> None:
        """These hold from now on."""
        self._external = keys

    def _try(self, config: ServerConfig) -> str | LlamadError | None:
        try:
            return self._external_key(config)
        except LlamadError as error:
            return error

    def _external_key(self, config: ServerConfig) -> str | None:
        if config.api_key_credential is not None:
            return self.secret(config.api_key_credential)
        if config.api_key_file is not None:
            return self._read(config.api_key_file, "api_key_file: names it")
        return None

    def _read(self, path: Path, hint: str) -> str:
        try:
            text = read_text(path, most=MAX_BYTES).removeprefix("\ufeff").rstrip("\r\n")
        except (OSError, ValueError) as error:  # ValueError: no text, or no name for a file
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise LlamadError(f"the secret in {path} cannot be read: {why}", hint=hint) from None
        self._redaction.replace(str(path), text)
        return text

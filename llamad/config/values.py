"""The kinds of values a configuration holds: how each is written, what it becomes, and what is said of a wrong one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from llamad.config.units import parse_duration, parse_size
from llamad.host.address import UNIX_PATH_LIMIT, Address, TcpAddress, UnixAddress, is_plain, parse_address, parse_url

SERVER_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
PLAIN_TEXT = r"^[^\x00-\x1f\x7f]+$"
HF_REPO = r"^[\w.-]+/[\w.-]+(:[\w.-]+)?$"
URL = r"^http://[^/?#\s]+/?$"
ENV_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
HOST = r"^[0-9A-Za-z.:_-]+$"
HOST_NAME = r"^(\*|(\*\.)?[0-9A-Za-z_-]+(\.[0-9A-Za-z_-]+)*\.?|[0-9A-Fa-f:.]+)$"
GPU_UUID = r"^(GPU|MIG)-[0-9A-Za-z/-]+$"

PATTERN_WORDS: Mapping[str, str] = {
    SERVER_NAME: "is no name: a letter or digit, then letters, digits, '.', '_', '-', 63 characters at most",
    PLAIN_TEXT: "must be text, not empty and without control characters",
    HF_REPO: "must be written ORG/NAME or ORG/NAME:QUANT",
    URL: "must be written http://HOST:PORT, without a path",
    ENV_NAME: "is no name of an environment variable: letters, digits and '_', no digit first",
    HOST: "must be an address or a host's name",
    HOST_NAME: "must be a name or an address without a port, *.DOMAIN for every name below one, or * for any",
}
"""What a value that does not match is told."""

CONFLICT = "conflict"


def conflict(words: str, *keys: str) -> PydanticCustomError:
    """What a section raises whose `keys` do not go together."""
    return PydanticCustomError(CONFLICT, "{words}", {"words": words, "keys": keys})


Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["500ms", "30s", "5m"]}),
]
"""Seconds; written `500ms`, `30s`, `5m`, `1h` or a number."""
Size = Annotated[
    int, BeforeValidator(parse_size), WithJsonSchema({"type": ["string", "integer"], "examples": ["512M", "20G"]})
]
"""Bytes; written `512M`, `20G` or a number."""
Count = Annotated[int, Field(ge=1, strict=True)]
Port = Annotated[int, Field(ge=1, le=65535, strict=True)]
Name = Annotated[str, StringConstraints(pattern=SERVER_NAME)]
Text = Annotated[str, StringConstraints(pattern=PLAIN_TEXT)]
Word = str
"""What a program is given: any text (yamltree refuses what cannot be given to one)."""
Flag = Annotated[bool, Field(strict=True)]
Gpu = int | str
"""An index in nvidia-smi's order, or a UUID."""
ArgScalar = bool | int | float | str
ArgValue = ArgScalar | tuple[Any, ...] | Mapping[str, Any] | None
"""A list is of scalars, but for an option that takes JSON."""
EnvName = Annotated[str, StringConstraints(pattern=ENV_NAME)]


def _argument(value: object) -> object:
    """One value of `args`, a list of them, or what is to become JSON."""
    return tuple(value) if isinstance(value, list) else value


_ARG_SCHEMA: dict[str, Any] = {"type": ["boolean", "number", "string", "array", "object", "null"]}
Argument = Annotated[ArgValue, PlainValidator(_argument), WithJsonSchema(_ARG_SCHEMA)]


def _pool(key: object) -> object:
    """A GPU's index, or `host`: what memory is counted by."""
    if key == "host" or (isinstance(key, int) and not isinstance(key, bool) and key >= 0):
        return key
    if isinstance(key, str) and key.isascii() and key.isdigit():
        return int(key)
    raise ValueError(f"{key!r} is neither a GPU's index nor host")


Pool = Annotated[
    int | Literal["host"],
    PlainValidator(_pool),
    WithJsonSchema({"type": "string", "pattern": "^([0-9]+|host)$"}),
]
Host = Annotated[str, StringConstraints(pattern=HOST)]
HostName = Annotated[str, StringConstraints(pattern=HOST_NAME)]
"""What a Host header may name: a host, or a pattern of some."""
HfRepo = Annotated[str, StringConstraints(pattern=HF_REPO)]


def _url(text: str) -> str:
    """Kept as it was written, once it can be read."""
    parse_url(text)
    return text


Url = Annotated[str, StringConstraints(pattern=URL), AfterValidator(_url)]


def _address(value: object) -> object:
    if isinstance(value, UnixAddress | TcpAddress):
        return value
    if isinstance(value, str):
        return parse_address(value)
    words = f"{value!r} is no address: write HOST:PORT, [::1]:PORT or unix:/PATH"
    raise ValueError(words)


def _listed(value: object) -> object:
    """One address or a list of them; null is none."""
    if value is None:
        return ()
    return value if isinstance(value, list | tuple) else (value,)


Addresses = Annotated[
    tuple[Annotated[Address, PlainValidator(_address)], ...],
    BeforeValidator(_listed),
    WithJsonSchema({"type": ["string", "array", "null"], "items": {"type": "string"}}),
]
AccessLog = Annotated[
    Literal["all", "errors", "off"],
    BeforeValidator(lambda value: "off" if value is False else value),  # YAML 1.1 reads off as false
    WithJsonSchema({"enum": ["all", "errors", "off", False]}),
]


def _path(value: object) -> object:
    if isinstance(value, str) and not (value and is_plain(value)):
        raise ValueError(f"{value!r} {PATTERN_WORDS[PLAIN_TEXT]}")
    return value


FilePath = Annotated[Path, BeforeValidator(_path)]
"""A file or a folder."""


def _socket_path(value: object) -> object:
    if isinstance(value, str):
        if not value.startswith("/"):
            raise ValueError(f"must be an absolute path, not {value!r}")
        if len(value.encode()) > UNIX_PATH_LIMIT:
            raise ValueError(
                f"a unix socket's path has at most {UNIX_PATH_LIMIT} bytes, this one {len(value.encode())}"
            )
    return value


SocketPath = Annotated[FilePath, BeforeValidator(_socket_path)]


def _gpus(value: object) -> object:
    """`[0, 1]` is one set for every replica, `[[0], [1]]` one for each."""
    if value is None or value in ("all", "none"):
        return value
    if not isinstance(value, list | tuple):
        words = f"{value!r} is neither all nor none nor a list such as [0] or [[0], [1]]"
        if (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal()):
            words = f"must be a list, not {value!r}: write [{value}]"
        raise ValueError(words)  # noqa: TRY004 - what pydantic collects
    nested = [isinstance(item, list | tuple) for item in value]
    if any(nested) and not all(nested):
        raise ValueError("mixes GPUs and lists of GPUs: write [0, 1] for every replica or [[0], [1]] for one each")
    sets = tuple(tuple(item) for item in value) if any(nested) else (tuple(value),)
    for one in sets:
        for gpu in one:
            if not _is_gpu(gpu):
                raise ValueError(f"{gpu!r} is no GPU: write its index (0, 1, ...) or its UUID (GPU-...)")
        if len({str(gpu) for gpu in one}) != len(one):
            raise ValueError("names a GPU twice")
        if not one:
            raise ValueError("is empty: write none for no GPU, or leave the key out")
    return sets


def _is_gpu(value: object) -> bool:
    if isinstance(value, str):
        return re.fullmatch(GPU_UUID, value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _memory(value: object) -> object:
    """One size, or one per GPU."""
    if isinstance(value, Mapping):
        return {_pool(pool): parse_size(size) for pool, size in value.items()}
    return value if value is None else parse_size(value)


_GPU_LIST_SCHEMA: dict[str, Any] = {"type": "array", "items": {"type": ["integer", "string", "array"]}}
Gpus = Annotated[
    Literal["all", "none"] | tuple[tuple[Gpu, ...], ...] | None,
    PlainValidator(_gpus),
    WithJsonSchema({"anyOf": [{"enum": ["all", "none", None]}, _GPU_LIST_SCHEMA]}),
]
_SIZE_SCHEMA: dict[str, Any] = {"type": ["string", "integer"]}
Memory = Annotated[
    Size | Mapping[Pool, Size] | None,
    PlainValidator(_memory),
    WithJsonSchema({"type": ["string", "integer", "object", "null"], "additionalProperties": _SIZE_SCHEMA}),
]

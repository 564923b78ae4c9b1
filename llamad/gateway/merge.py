"""Several servers' metrics as one valid exposition: labels added, each family once. Pure.

The format is Prometheus' text format 0.0.4 (prometheus.io, "Exposition formats").
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"({_NAME})(?:\{{((?:{_LABEL}(?:,{_LABEL})*,?)?)\}})?[ \t]+(\S+)(?:[ \t]+-?\d+)?[ \t]*")
_COMMENT = re.compile(rf"# (HELP|TYPE) ({_NAME}) (.+)")
_OWN = "llamad_"


@dataclass(slots=True)
class _Family:
    type: str = "untyped"
    help: str = ""
    lines: dict[str, str] = field(default_factory=dict)
    """Values by name and labels: no series twice."""


def merge(parts: Iterable[tuple[Mapping[str, str], str]]) -> bytes:
    """`parts` are labels to add to every sample, and the text they are added to. A server is not trusted to write
    well: lines that make no sense, names of llamad's own and series that are there already are left out; a label
    that is to be added renames the server's own to `exported_`, as Prometheus does. Timestamps are dropped, and what
    is neither counter nor gauge goes untyped (llama.cpp has only those two).
    """
    families: dict[str, _Family] = {}
    for labels, text in parts:
        _read(families, text, labels)
    out: list[str] = []
    for name, family in families.items():
        if family.lines:
            out += [f"# HELP {name} {family.help}"] if family.help else []
            out += [f"# TYPE {name} {family.type}"]
            out += [f"{series} {value}" for series, value in family.lines.items()]
    return "".join(f"{line}\n" for line in out).encode()


def _read(families: dict[str, _Family], text: str, labels: Mapping[str, str]) -> None:
    added = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    for line in text.split("\n"):
        if (comment := _COMMENT.fullmatch(line)) is not None:
            _note(families.setdefault(comment[2], _Family()), comment[1], comment[3])
        elif (sample := _SAMPLE.fullmatch(line)) is not None and not sample[1].startswith(_OWN) and _number(sample[3]):
            name = sample[1]
            own = _renamed((sample[2] or "").rstrip(","), labels)
            lines = families.setdefault(name, _Family()).lines
            lines.setdefault(f"{name}{{{added},{own}}}" if own else f"{name}{{{added}}}", sample[3])


def _note(family: _Family, kind: str, text: str) -> None:
    """HELP and TYPE; the first server that says one is right."""
    if kind == "HELP":
        family.help = family.help or re.sub(r"\\([\\n])|\\", lambda match: match[0] if match[1] else r"\\", text)
    elif text in ("counter", "gauge") and not family.lines:
        family.type = text


def _renamed(own: str, taken: Iterable[str]) -> str:
    out = []
    for match in re.finditer(_LABEL, own):
        name = match[0].partition("=")[0]
        out.append(f"exported_{match[0]}" if name in taken else match[0])
    return ",".join(out)


def _number(text: str) -> bool:
    """Whether it is a value: Go's ParseFloat, which Prometheus reads with, and Python's float agree on these."""
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""Several files become one, and `defaults:` goes under every server. Pure: every value keeps its place."""

from collections.abc import Callable, Iterable, Mapping

from llamad.config.helptext import bare
from llamad.config.problems import Problem
from llamad.config.wording import not_a_mapping
from llamad.config.yamltree import Entry, Node, mapping

SOURCES = ("model", "hf_repo", "url")
"""Exactly one of them says what a server serves."""
EXTERNAL_KEYS = frozenset({"url", "aliases", "api_key_credential", "api_key_file", "health", "max_concurrent"})
"""What a server that llamad does not run may have."""
_DEEP = frozenset({"restart", "health", "stop", "limits", "args", "env", "env_credentials"})
"""What a server and the defaults share key by key; anything else is taken whole."""
_NAMED = ("args", "env", "env_credentials")
"""What of it has the operator's own keys."""


def merge_files(tops: Iterable[Node]) -> tuple[Node | None, list[Problem]]:
    """One tree of all files. A server stands in one file only; of anything else the later file's word counts, key by
    key. None where there is no file with anything in it.
    """
    merged: Node | None = None
    problems: list[Problem] = []
    for top in tops:
        if merged is None:
            merged = top
            continue
        servers, found = _join_servers(merged.get("servers"), top.get("servers"))
        problems += found
        merged = _over(merged, top)
        if servers is not None:
            entries = {**merged.entries, "servers": Entry(merged.entries["servers"].key, servers)}
            merged = mapping(merged.position, entries)
    return merged, problems


def _join_servers(first: Node | None, second: Node | None) -> tuple[Node | None, list[Problem]]:
    if first is None or second is None:
        return None, []
    problems = [
        not_a_mapping(node, ("servers",))
        for node in (first, second)
        if node.value is not None and not isinstance(node.value, Mapping)
    ]
    for name, entry in second.entries.items():
        if name in first.entries:
            message = f"the server is also in {first.entries[name].key}: give one of them another name"
            problems.append(Problem(entry.key, f"servers.{name}", message))
    if not first.entries:
        return second, problems
    return mapping(first.position, {**first.entries, **second.entries, **first.entries}), problems  # the first's first


def _over(base: Node, top: Node) -> Node:
    """`top` laid over `base`, mappings key by key; an empty value does not blot out a mapping."""
    if top.value is None and base.entries:
        return base
    if not (top.entries and base.entries):
        return top
    entries = dict(base.entries)
    for key, entry in top.entries.items():
        under = base.entries.get(key)
        entries[key] = Entry(entry.key, _over(under.node, entry.node)) if under else entry
    return mapping(top.position, entries)


def without_servers(top: Node, names: Iterable[str]) -> Node:
    """A file's tree without these servers."""
    servers, taken = top.get("servers"), frozenset(names)
    if servers is None or taken.isdisjoint(servers.entries):
        return top
    left = {name: entry for name, entry in servers.entries.items() if name not in taken}
    entry = Entry(top.entries["servers"].key, mapping(servers.position, left))
    return mapping(top.position, {**top.entries, "servers": entry})


def with_defaults(server: Node, defaults: Node) -> Node:
    """A server's entry with `defaults` under it, less those that would make no sense for it: a default is no wish of
    this server's operator, and so never in conflict with what the server itself says.
    """
    if not (server.value is None or isinstance(server.value, Mapping)):
        return server  # wrong in itself: told of as it was written
    entries = {key: entry for key, entry in defaults.entries.items() if _applies(key, server, defaults)}
    for key, entry in server.entries.items():
        under = entries.get(key)
        if under is None or key not in _DEEP:
            entries[key] = entry
        elif key in _NAMED:
            entries[key] = Entry(entry.key, _named_over(under.node, entry.node, bare if key == "args" else str))
        else:
            entries[key] = Entry(entry.key, _over(under.node, entry.node))
    return mapping(server.position, entries)


def _applies(key: str, server: Node, defaults: Node) -> bool:
    if "url" in server.entries:
        return key in EXTERNAL_KEYS - {"url"}
    if key in SOURCES:
        return not any(source in server.entries for source in SOURCES)
    if key == "idle_timeout":
        start = server.get("start") or defaults.get("start")
        return start is not None and start.value == "on-demand"
    return True


def _named_over(base: Node, top: Node, name: Callable[[str], str]) -> Node:
    """As `_over`, where null takes a default away, and keys of one `name` (`ctx-size`, `ctx_size`) are one."""
    if not (base.entries and top.entries):
        return _over(base, top)
    theirs, mine = ({name(key) for key in node.entries} for node in (base, top))
    kept = {key: entry for key, entry in base.entries.items() if name(key) not in mine}
    said = {key: one for key, one in top.entries.items() if one.node.value is not None or name(key) not in theirs}
    return mapping(top.position, {**kept, **said})

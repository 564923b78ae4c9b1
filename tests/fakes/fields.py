"""Fields of a request that the real one logs as they are when it does not understand them: the words of a client."""

from __future__ import annotations

from tests.fakes.mood import log, raw, srv

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FORMATS = ("text", "json_object", "json_schema")
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
_REASONING = ("none", "auto", "deepseek", "deepseek-legacy")
_SAMPLERS = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")


def refused(asked: Mapping[str, object]) -> tuple[int, str, str] | None:
    """Status, message and type of the error for a request that it does not understand; all of it is logged."""
    found = _exception(asked)
    if found is not None:
        import json

        status, message, kind = found
        error = {"error": {"code": status, "message": message, "type": kind}}
        srv("W", "operator()", f"got exception: {json.dumps(error, separators=(',', ':'), ensure_ascii=False)}")
        return found
    grammar = asked.get("grammar")
    if isinstance(grammar, str) and not all("::=" in line for line in grammar.split("\n") if line):
        raw(f"parse: error parsing grammar: expecting ::= at \n\n{grammar}\n".encode(errors="surrogateescape"))
        log("E", "failed to parse grammar")
        return 400, "Failed to initialize samplers: failed to parse grammar", "invalid_request_error"
    names = asked.get("samplers")
    for name in names if isinstance(names, list) else ():
        if name not in _SAMPLERS:
            log("W", f"common_sampler_types_from_names: unable to match sampler by name '{str(name).lower()}'")
    return None


def _exception(asked: Mapping[str, object]) -> tuple[int, str, str] | None:
    form = asked.get("response_format")
    if isinstance(form, dict):
        if form.get("type") not in _FORMATS:
            wrong = f'response_format type must be one of "text" or "json_object", but got: {form.get("type")}'
            return 400, wrong, "invalid_request_error"
        described = form.get("json_schema")
        schema = described.get("schema") if isinstance(described, dict) else None
        if isinstance(schema, dict) and schema.get("type") not in _TYPES:
            wrong = f"JSON schema error at #: unrecognized type {schema.get('type')}"
            return 400, f"Unable to generate parser for this template. {wrong}", "invalid_request_error"
    reasoning = asked.get("reasoning_format")
    if isinstance(reasoning, str) and reasoning not in _REASONING:
        return 500, f"Unknown reasoning format: {reasoning}", "server_error"
    return None

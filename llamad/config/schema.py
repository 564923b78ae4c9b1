"""The JSON Schema of a configuration file, for editors: the model as an operator writes it. Pure."""

from typing import Any

from llamad.config.model import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """The schema. A server has no `name` of its own (it is the key), nothing is required (a drop-in may hold any part),
    an empty section is allowed, and `defaults` takes what a server takes.
    """
    whole = Config.model_json_schema()
    definitions: dict[str, Any] = whole["$defs"]
    server = definitions["ServerConfig"]
    del server["properties"]["name"]
    whole["properties"]["servers"]["propertyNames"] = {"pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"}
    whole["properties"]["servers"]["additionalProperties"] = _or_empty({"$ref": "#/$defs/ServerConfig"})
    whole["properties"]["defaults"] = {
        "$ref": "#/$defs/ServerConfig",
        "description": "anything a server may have; goes under every server",
    }
    for section in (whole, *definitions.values()):
        section.pop("required", None)
        section.pop("title", None)
        for name, value in section["properties"].items():
            value.pop("title", None)
            if "$ref" in value or value.get("type") in ("object", "array"):
                section["properties"][name] = _or_empty(value)
    server["description"] = "one server; exactly one of model, hf_repo, url"
    return {"$schema": DIALECT, **whole, "title": "llamad.yaml", "description": "the configuration of llamad"}


def _or_empty(value: dict[str, Any]) -> dict[str, Any]:
    outside: dict[str, Any] = {key: value.pop(key) for key in ("description", "default") if key in value}
    return {"anyOf": [value, {"type": "null"}]} | outside

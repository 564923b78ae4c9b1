"""The JSON Schema of a configuration file, for editors: the model as an operator writes it. Pure."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core.core_schema import WithDefaultSchema

from llamad.config.descriptions import DESCRIPTIONS
from llamad.config.model import Config, Section
from llamad.config.values import SERVER_NAME

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class _Generator(GenerateJsonSchema):
    """Leaves out defaults that are sections or addresses: each key within a section tells its own."""

    def default_schema(self, schema: WithDefaultSchema) -> JsonSchemaValue:
        default = schema.get("default")
        if isinstance(default, Section) or (isinstance(default, tuple) and default):
            return self.generate_inner(schema["schema"])
        return super().default_schema(schema)


def schema() -> dict[str, Any]:
    """The schema. A server has no `name` of its own (it is the key), nothing is required (a drop-in may hold any part),
    an empty section is allowed, and `defaults` takes what a server takes.
    """
    whole = Config.model_json_schema(schema_generator=_Generator)
    definitions: dict[str, Any] = whole["$defs"]
    server = {"$ref": "#/$defs/ServerConfig"}
    del definitions["ServerConfig"]["properties"]["name"]
    names = {"propertyNames": {"pattern": SERVER_NAME}, "additionalProperties": _or_empty(server)}
    whole["properties"]["servers"] |= names
    whole["properties"]["defaults"] = dict(server)
    whole["properties"]["models_dir"] = {"type": ["string", "null"], "default": None}
    for name, section in {"Config": whole, **definitions}.items():
        section.pop("required", None)
        for key, value in section["properties"].items():
            value.pop("title", None)
            many = "$ref" in value or value.get("type") in ("object", "array")
            section["properties"][key] = (_or_empty(value) if many else value) | {
                "description": DESCRIPTIONS[name][key]
            }
    return {"$schema": DIALECT, **whole, "title": "llamad.yaml", "description": "the configuration of llamad"}


def _or_empty(value: dict[str, Any]) -> dict[str, Any]:
    default: dict[str, Any] = {"default": value.pop("default")} if "default" in value else {}
    return {"anyOf": [value, {"type": "null"}]} | default

"""The fields of a schema as Markdown tables, one for each record, made from its `doc`s.

Law: `docs/schemas.md` holds these tables as they are made here; a test compares them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import schemas

if TYPE_CHECKING:
    from collections.abc import Iterator


def tables(name: str) -> str:
    """Make the tables of a schema's working copy: its own record first, then each record inside it."""
    return "\n\n".join(_table(record) for record in _records(schemas.load(name)))


def _records(schema: Any) -> Iterator[dict[str, Any]]:  # noqa: ANN401  # JSON: a name, a union or a definition
    if isinstance(schema, list):
        for branch in schema:
            yield from _records(branch)
    elif isinstance(schema, dict):
        if schema["type"] == "record":
            yield schema
            for item in schema["fields"]:
                yield from _records(item["type"])
        else:
            yield from _records(schema.get("items", schema.get("values")))


def _table(record: dict[str, Any]) -> str:
    rows = [f"| `{item['name']}` | {_type(item['type'])} | {_default(item)} | {item['doc']} |" for item in record["fields"]]
    return "\n".join([f"**{record['name']}.** {record['doc']}", "", "| field | type | default | |", "|---|---|---|---|", *rows])


def _type(schema: Any) -> str:  # noqa: ANN401  # JSON: a name, a union or a definition
    if isinstance(schema, list):
        return " or ".join(_type(branch) for branch in schema)
    if isinstance(schema, str):
        return schema
    match schema["type"]:
        case "array":
            return f"array of {_type(schema['items'])}"
        case "map":
            return f"map of {_type(schema['values'])}"
        case "record":
            return str(schema["name"])
    return f"{schema['type']} ({schema['logicalType']})" if "logicalType" in schema else str(schema["type"])


def _default(item: dict[str, Any]) -> str:
    return f"`{json.dumps(item['default'])}`" if "default" in item else ""

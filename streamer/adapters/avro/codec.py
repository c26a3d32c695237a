"""Avro one record at a time, with fastavro: what we publish, dead letters to look at, and what the compiled decoder does not cover.

Law: no logical type is converted: times are whole numbers and decimals are bytes, as they stand in the body. What is written is the
latest published version of a schema; what is read is resolved to the working copy.
"""

from __future__ import annotations

import functools
import json
import struct
from io import BytesIO
from typing import TYPE_CHECKING, Any

import fastavro
from fastavro.read import SchemaResolutionError

import schemas
from streamer.adapters.avro.writer_schemas import WriterSchema, parse
from streamer.core.errors import BadInput
from streamer.core.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping


class BodyRefused(BadInput):
    """A body is not what its schema says, or cannot be resolved to ours. `reason` is the dead letter's."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Refuse with a reason and what was found."""
        super().__init__(detail)
        self.reason = reason


class RecordRefused(ValueError):  # noqa: N818  # named after what is wrong, as all errors here
    """A record that we were to write does not fit its schema: a fault of the program."""


@functools.cache
def published(name: str, version: int) -> WriterSchema:
    """Give a published version, parsed."""
    return parse(schemas.text(name, version))


@functools.cache
def working_copy(name: str) -> WriterSchema:
    """Give the working copy of a schema, parsed: the reader's schema."""
    return parse(schemas.text(name))


def encode(name: str, record: Mapping[str, Any]) -> bytes:
    """Write a record as a body, without framing, in the latest published version of its schema.

    Raises:
        RecordRefused: a field is missing, unknown, or of another type.

    """
    body = BytesIO()
    try:
        fastavro.schemaless_writer(body, published(name, schemas.latest(name)).plain, record, strict_allow_default=True)
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, struct.error) as error:
        message = f"the record does not fit {name}: {error}"
        raise RecordRefused(message) from error
    return body.getvalue()


def decode(name: str, body: bytes, version: int | None = None) -> dict[str, Any]:
    """Read a body that one of our own published versions wrote, the latest where none is named.

    Raises:
        BodyRefused: the body is not what the schema says.

    """
    return decode_one(body, published(name, schemas.latest(name) if version is None else version), name)


def decode_one(body: bytes, writer: WriterSchema, name: str = "behaviour_event") -> dict[str, Any]:
    """Read a body with its writer's schema, resolved to the working copy of ours.

    Raises:
        BodyRefused: the body is not what the schema says, has bytes left over, or holds what our schema has no place for.

    """
    source = BytesIO(body)
    try:
        record: dict[str, Any] = fastavro.schemaless_reader(source, writer.plain, working_copy(name).plain)  # type: ignore[assignment]
    except UnicodeDecodeError as error:
        raise BodyRefused(Reason.BAD_UTF8, str(error)) from error
    except EOFError as error:
        raise BodyRefused(Reason.TRUNCATED, "the body ends inside a field") from error
    except (IndexError, SchemaResolutionError) as error:
        raise BodyRefused(Reason.BAD_BRANCH, str(error)) from error
    except (ValueError, TypeError, KeyError, OverflowError, AttributeError, MemoryError, struct.error) as error:
        raise BodyRefused(Reason.BAD_LENGTH, f"{type(error).__name__}: {error}") from error
    left = len(body) - source.tell()
    if left:
        raise BodyRefused(Reason.TRAILING_BYTES, f"{left} bytes are left over")
    return record


def readable(record: Mapping[str, Any]) -> str:
    """Write a decoded record as one line of JSON for people; bytes stand as hexadecimal digits."""
    return json.dumps(record, ensure_ascii=False, default=lambda value: value.hex() if isinstance(value, bytes) else str(value))

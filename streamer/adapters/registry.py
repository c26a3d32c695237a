"""Where writers' schemas come from: the package and files that the user names, or a schema registry.

Law: None means that the id is known to name no Avro schema, so the record is refused; `Unavailable` means that nobody knows, so the
record must wait. An id that is unknown is not asked for again for a while, however many records carry it. Where very many ids are unknown,
somebody makes them up: new ones then count as unknown for a while and are not asked for, so that such records hold nobody up.
"""

from __future__ import annotations

import json
import logging
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, cast
from uuid import UUID

import schemas
from streamer.core.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

ID_MAX: Final = (1 << 31) - 1  # ids are signed 32-bit numbers in a registry: greater ones name nothing there
NOT_FOUND: Final = 404
NOT_FOUND_CODES: Final = frozenset({40401, 40402, 40403})  # subject, version and schema, in a registry's own error codes
BAD_REQUESTS: Final = frozenset({400, 422})
MAY_NOT: Final = frozenset({401, 403})
CONFLICT: Final = 409


class SchemaSource(Protocol):
    """Where writers' schemas come from, and ids for the schemas that we write with."""

    def by_id(self, schema_id: int, /) -> str | None:
        """Give the text of the Avro schema with this id; None if there is none. Raises `Unavailable`."""

    def by_guid(self, guid: UUID, /) -> str | None:
        """Give the text of the Avro schema with this GUID; None if there is none. Raises `Unavailable`."""

    def register(self, subject: str, schema: str, /) -> int:
        """Give the id that records written with this schema carry. Raises `Misconfigured` or `Unavailable`."""


class PackagedSchemas:
    """No registry: our published versions under fixed ids (`schemas.packaged_id`), and files of the user's under ids or GUIDs of theirs."""

    def __init__(self, files: Mapping[int | UUID, Path] | None = None) -> None:
        """Read all files now.

        Raises:
            Misconfigured: a file cannot be read, or its id is one of ours.

        """
        self._texts: dict[Any, str] = dict(schemas.packaged())  # keys: int | UUID
        for schema_id, path in (files or {}).items():
            if schema_id in self._texts:
                message = f"schema id {schema_id} of {path} is one of ours: give the file another id"
                raise Misconfigured(message)
            try:
                self._texts[schema_id] = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                message = f"the file of schema id {schema_id} cannot be read: {error}"
                raise Misconfigured(message) from error

    def by_id(self, schema_id: int, /) -> str | None:
        """Give a schema by its id."""
        return self._texts.get(schema_id)

    def by_guid(self, guid: UUID, /) -> str | None:
        """Give a schema by its GUID."""
        return self._texts.get(guid)

    def register(self, subject: str, schema: str, /) -> int:
        """Find the id of one of our published versions; the subject says nothing here.

        Raises:
            Misconfigured: it is none of our published versions.

        """
        wanted = json.loads(schema)
        for schema_id, text in schemas.packaged().items():
            if json.loads(text) == wanted:
                return schema_id
        message = f"the schema for {subject} is not published: without `schema_registry.url` only published versions can be written"
        raise Misconfigured(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistrySettings:
    """How to reach a schema registry.

    A request takes at most about `(retries_max + 1) * timeout_s` and the waits between, per URL. `properties` are more settings of the
    client (Confluent's names, such as `ssl.ca.location`) and win over the others.
    """

    url: str
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    timeout_s: float = 5.0
    retries_max: int = 2
    retry_wait_s: float = 0.2
    unknown_ttl_s: float = 30.0
    unknown_max: int = 100  # ids that turn out unknown within `unknown_ttl_s` before every new one counts as unknown
    entries_max: int = 1_024
    may_register: bool = True
    properties: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def client_properties(self) -> dict[str, Any]:
        """Name the settings as the client does."""
        named: dict[str, Any] = {
            "url": self.url,
            "timeout": self.timeout_s,
            "max.retries": self.retries_max,
            "retries.wait.ms": int(self.retry_wait_s * 1_000),
            "retries.max.wait.ms": int(self.retry_wait_s * 8_000),
        }
        if self.user is not None:
            named["basic.auth.user.info"] = f"{self.user}:{self.password or ''}"
        return named | dict(self.properties)


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the registry said of an id, and until when it counts."""

    text: str | None
    until_s: float


class Registry:
    """A schema registry behind Confluent's client. One thread uses it; `now` is a clock that only goes forward, in seconds."""

    def __init__(self, settings: RegistrySettings, now: Callable[[], float] = time.monotonic) -> None:
        """Prepare the client; nothing is asked yet.

        Raises:
            Misconfigured: the client is not installed, or refuses its settings.

        """
        try:
            # Only here, for the client's dependencies are an extra.
            from confluent_kafka.schema_registry import Schema, SchemaRegistryClient  # noqa: PLC0415
            from confluent_kafka.schema_registry.error import SchemaRegistryError  # noqa: PLC0415
        except ImportError as error:
            message = f"`schema_registry.url` needs the extra: install segment-streamer[registry] ({error})"
            raise Misconfigured(message) from error
        try:
            # The client's own type hints lag behind it.
            self._client = cast("Any", SchemaRegistryClient(settings.client_properties()))
        except (ValueError, TypeError, OSError) as error:
            message = f"the registry's settings are refused: {error}"
            raise Misconfigured(message) from error
        self._schema: Any = Schema
        self._answered = SchemaRegistryError
        self._unanswered = _transport_errors()
        self._settings = settings
        self._now = now
        self._entries: OrderedDict[int | UUID, _Entry] = OrderedDict()
        self._unknown_s: deque[float] = deque(maxlen=settings.unknown_max)

    def by_id(self, schema_id: int, /) -> str | None:
        """Give a schema by its id.

        Raises:
            Misconfigured: the registry refuses our credentials.
            Unavailable: it does not answer, or not as a registry does.

        """
        if not 0 <= schema_id <= ID_MAX:
            return None
        return self._look_up(schema_id, lambda **form: self._client.get_schema(schema_id, **form))

    def by_guid(self, guid: UUID, /) -> str | None:
        """Give a schema by its GUID; raises as `by_id` does."""
        return self._look_up(guid, lambda **form: self._client.get_schema_by_guid(str(guid), **form))

    def register(self, subject: str, schema: str, /) -> int:
        """Register a schema, or look it up where `may_register` is off.

        Raises:
            Misconfigured: the registry refuses the schema or us, or has no such schema and we may not register it.
            Unavailable: it does not answer, or not as a registry does.

        """
        avro = self._schema(schema, "AVRO")
        try:
            if self._settings.may_register:
                return int(self._client.register_schema(subject, avro))
            return int(self._client.lookup_schema(subject, avro).schema_id)
        except self._answered as error:
            status = error.http_status_code
            if status in BAD_REQUESTS | {NOT_FOUND, CONFLICT}:
                message = (
                    f"the registry has no place for our schema under {subject}: {error}: register it by hand or mend its compatibility"
                )
                raise Misconfigured(message) from error
            raise self._refusal(error) from error
        except self._unanswered as error:
            raise self._silence(error) from error

    def close(self) -> None:
        """Close the connections."""
        if hasattr(self._client, "close"):
            self._client.close()

    def _look_up(self, schema_id: int | UUID, ask: Callable[..., Any]) -> str | None:
        entry = self._entries.get(schema_id)
        if entry is None or entry.until_s <= self._now():
            if self._flooded():
                return None
            text = self._ask(schema_id, ask)
            if text is None:
                self._unknown_s.append(self._now())
                if self._flooded():
                    log.warning("%d schema ids were unknown of late: new ones count as unknown for a while", self._settings.unknown_max)
            until_s = self._now() + self._settings.unknown_ttl_s if text is None else float("inf")
            entry = self._entries[schema_id] = _Entry(text, until_s)
        self._entries.move_to_end(schema_id)
        if len(self._entries) > self._settings.entries_max:
            self._entries.popitem(last=False)
        return entry.text

    def _flooded(self) -> bool:
        """Tell whether so many ids were unknown of late that whoever sends them makes them up."""
        latest = self._unknown_s
        return len(latest) == self._settings.unknown_max and self._now() - latest[0] < self._settings.unknown_ttl_s

    def _ask(self, schema_id: int | UUID, ask: Callable[..., Any]) -> str | None:
        try:
            schema = ask()
            if getattr(schema, "references", None):
                # A schema that refers to others: let the registry write them out. The client's cache does not tell the two forms apart.
                self._client.clear_caches()
                schema = ask(fmt="resolved")
        except self._answered as error:
            if self._is_unknown(error, schema_id):
                log.info("the registry has no schema %s", schema_id)
                return None
            raise self._refusal(error) from error
        except self._unanswered as error:
            raise self._silence(error) from error
        if schema.schema_type not in {None, "AVRO"} or not isinstance(schema.schema_str, str):
            log.warning("schema %s is not Avro but %s", schema_id, schema.schema_type)
            return None
        return schema.schema_str

    @staticmethod
    def _is_unknown(error: Any, schema_id: int | UUID) -> bool:  # noqa: ANN401  # the client's error, imported only in use
        """Tell whether the answer speaks of the id. A 404 that is no registry's own does not, except that old registries know no GUIDs."""
        if error.http_status_code == NOT_FOUND:
            return error.error_code in NOT_FOUND_CODES or isinstance(schema_id, UUID)
        return error.http_status_code in BAD_REQUESTS

    def _refusal(self, error: Any) -> Exception:  # noqa: ANN401  # the client's error, imported only in use
        if error.http_status_code in MAY_NOT:
            return Misconfigured(f"the registry refuses us: {error}: check `schema_registry.user` and its password")
        return Unavailable(f"the registry answers with an error: {error}: check that it is up and that `schema_registry.url` is right")

    def _silence(self, error: Exception) -> Unavailable:
        return Unavailable(f"the registry does not answer as one: {type(error).__name__}: {error}")


def _transport_errors() -> tuple[type[Exception], ...]:
    """Name what the client raises when no answer came or it made no sense: its HTTP library's errors, and those of reading JSON."""
    try:
        import httpx2 as http  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  # the client's choice since 2.15
    except ImportError:
        import httpx as http  # type: ignore[import-not-found,no-redef,unused-ignore]  # noqa: PLC0415
    return (http.HTTPError, http.InvalidURL, OSError, ValueError, TypeError, KeyError, AttributeError)

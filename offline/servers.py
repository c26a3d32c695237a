"""Where the stream's servers are, for commands that look at the live system.

Law: the stream's own configuration says it, its file and its environment variables by the same names, and the environment wins. Only
what is needed here is read; `streamer config` checks the whole of it. Secrets are not shown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import yaml

from streamer.core.errors import Misconfigured
from streamer.core.intake import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from streamer.adapters.kafka import KafkaSettings
    from streamer.adapters.redis_state import RedisStateStore
    from streamer.adapters.registry import SchemaSource

PREFIX = "STREAMER_"
FILE_TAG = "!file"
DEFAULTS: dict[str, str] = {
    "app.name": "segments",
    "app.namespace": "live",
    "redis.url": "redis://localhost:6379/0",
    "redis.password": "",
    "redis.password_file": "",
    "redis.cluster": "false",
    "kafka.bootstrap_servers": "localhost:9092",
    "topics.events": "customer-events",
    "schema_registry.url": "",
    "erasure.key": "",
    "limits.event_id_bytes_max": "128",
    "limits.customer_id_bytes_max": "256",
    "limits.event_type_bytes_max": "64",
    "limits.future_s_max": "3600",
    "limits.items_max": "1000",
    "limits.value_bytes_max": "1MiB",
}
MAPPINGS = ("redis.options", "kafka.properties", "kafka.consumer", "schema_registry.properties", "schemas.allowed")
DOTTED = frozenset({"kafka.properties", "kafka.consumer", "schema_registry.properties"})  # in a variable's name, `_` stands for a dot
FALLBACKS = {"kafka.bootstrap_servers": "KAFKA_BOOTSTRAP", "redis.url": "REDIS_URL"}
IN_UNITS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "B": 1, "kB": 10**3, "KiB": 2**10, "MB": 10**6, "MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Servers:
    """What the stream's configuration says of its servers; `values` are texts by key, `mappings` those of a mapping by name."""

    values: Mapping[str, str] = field(repr=False)
    mappings: Mapping[str, Mapping[str, Any]] = field(repr=False)

    @property
    def limits(self) -> Limits:
        """Give the bounds of an event's fields."""
        event, customer, kind = (self.whole(f"limits.{name}_bytes_max") for name in ("event_id", "customer_id", "event_type"))
        return Limits(event, customer, kind, self.whole("limits.future_s_max") * 1000)

    def whole(self, key: str) -> int:
        """Read a number, with or without its unit."""
        found = re.fullmatch(r"([0-9][0-9_]*)\s*([A-Za-z]*)", self.values[key].strip())
        if found is None or found[2] not in IN_UNITS:
            message = f"`{key}` is {self.values[key]!r}: give a whole number, with or without a unit"
            raise Misconfigured(message)
        return int(found[1]) * IN_UNITS[found[2]]

    def store(self) -> RedisStateStore:
        """Connect to the stream's Redis. Raises `Misconfigured` or `Unavailable`."""
        from streamer.adapters.redis_state import RedisSettings, RedisStateStore  # noqa: PLC0415  # as the next ones: who needs it pays for it

        cluster = str(self.values["redis.cluster"]).lower() in {"true", "yes", "on", "1"}
        password = self.values["redis.password"] or _secret(self.values["redis.password_file"])
        options = {**self.mappings["redis.options"], **({"password": password} if password else {})}
        settings = RedisSettings(self.values["redis.url"], cluster, options, "segment-streamer-offline")
        return RedisStateStore(settings, self.values["app.namespace"], self.values["app.name"])

    def kafka(self) -> KafkaSettings:
        """Give what a consumer of the stream's needs to know of Kafka."""
        from streamer.adapters.kafka import KafkaSettings  # noqa: PLC0415

        properties = {**self.mappings["kafka.properties"], **self.mappings["kafka.consumer"]}
        return KafkaSettings(self.values["kafka.bootstrap_servers"], properties, "segment-streamer-offline")

    def schemas(self) -> SchemaSource:
        """Give where writers' schemas are looked up."""
        from streamer.adapters.registry import PackagedSchemas, Registry, RegistrySettings  # noqa: PLC0415

        url = self.values["schema_registry.url"]
        if url:
            return Registry(
                RegistrySettings(url=url, may_register=False, properties={"url": url, **self.mappings["schema_registry.properties"]})
            )
        return PackagedSchemas({_schema_id(key): Path(path) for key, path in self.mappings["schemas.allowed"].items()})


def _schema_id(key: str) -> int | UUID:
    try:
        return int(key) if key.isdigit() else UUID(key)
    except ValueError as error:
        message = f"`schemas.allowed` has the key {key!r}: it must be a schema id or a GUID"
        raise Misconfigured(message) from error


def servers(file: Path | None, environment: Mapping[str, str]) -> Servers:
    """Read where the servers are.

    Raises:
        Misconfigured: the file or a file that it names can't be read.

    """
    tree = _tree(file) if file is not None else {}
    values = {key: _value(tree, environment, key, default) for key, default in DEFAULTS.items()}
    return Servers(values, {name: _mapping(tree, environment, name) for name in MAPPINGS})


def _tree(file: Path) -> Mapping[str, Any]:
    class Loader(yaml.SafeLoader):
        """Knows the tag of secrets in files."""

    def secret(_: yaml.SafeLoader, node: yaml.Node) -> str:
        return _secret(str(file.parent / Path(str(node.value)).expanduser()))

    Loader.add_constructor(FILE_TAG, secret)
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader)  # noqa: S506  # it is a safe one
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"{file}: the configuration can't be read: {error}"
        raise Misconfigured(message) from error
    tree = found if isinstance(found, dict) else {}
    for section, key in (("redis", "password_file"),):
        part = tree.get(section)
        if isinstance(part, dict) and part.get(key):
            part[key] = str(file.parent / Path(str(part[key])).expanduser())
    allowed = tree.get("schemas", {}).get("allowed") if isinstance(tree.get("schemas"), dict) else None
    if isinstance(allowed, dict):
        allowed.update({key: str(file.parent / Path(str(path)).expanduser()) for key, path in allowed.items()})
    return tree


def _value(tree: Mapping[str, Any], environment: Mapping[str, str], key: str, default: str) -> str:
    section, name = key.split(".")
    variable = f"{PREFIX}{section}__{name}".upper()
    if variable in environment:
        return _text(environment[variable])
    part = tree.get(section)
    if isinstance(part, dict) and part.get(name) is not None:
        return str(part[name])
    return environment.get(FALLBACKS.get(key, ""), "") or default


def _mapping(tree: Mapping[str, Any], environment: Mapping[str, str], key: str) -> dict[str, Any]:
    section, name = key.split(".")
    part = tree.get(section)
    given = part.get(name) if isinstance(part, dict) else None
    found = dict(given) if isinstance(given, dict) else {}
    variable = f"{PREFIX}{section}__{name}".upper()
    whole = yaml.safe_load(environment[variable]) if variable in environment else None
    found |= whole if isinstance(whole, dict) else {}
    for one, text in environment.items():
        if one.startswith(f"{variable}__"):
            entry = one.removeprefix(f"{variable}__").lower()
            found[entry.replace("_", ".") if key in DOTTED else entry] = _text(text)
    return {str(entry): value if key == "redis.options" else str(value) for entry, value in found.items()}


def _text(given: str) -> str:
    return _secret(given.removeprefix(FILE_TAG).strip()) if given.startswith(f"{FILE_TAG} ") else given


def _secret(path: str) -> str:
    """Read the first line of a file; nothing where none is named."""
    if not path:
        return ""
    try:
        return Path(path).expanduser().read_text(encoding="utf-8").splitlines()[0]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        message = f"{path}, which the configuration names, can't be read: {error}"
        raise Misconfigured(message) from error

"""Where the stream is: Kafka, the topic of models and the schema registry, as the stream's own settings name them.

Law: what is read here means what it means to the stream: the variable `STREAMER_KAFKA__BOOTSTRAP_SERVERS` counts before the file, and
`KAFKA_BOOTSTRAP` after it. Sections that nothing here needs are left to the stream, which checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

BOOTSTRAP = "localhost:9092"
TOPIC = "segment-models"
FILE_BYTES_MAX = 2**20
SECRET_BYTES_MAX = 2**16


@dataclass(frozen=True, slots=True)
class Stream:
    """How to reach the topic of models."""

    bootstrap: str = BOOTSTRAP
    properties: Mapping[str, str] = field(default_factory=dict, repr=False)  # for every client
    consumer: Mapping[str, str] = field(default_factory=dict, repr=False)
    producer: Mapping[str, str] = field(default_factory=dict, repr=False)
    topic: str = TOPIC
    registry: str | None = None
    registry_properties: Mapping[str, str] = field(default_factory=dict, repr=False)
    named: bool = False  # whether anybody said where Kafka is


class _Loader(yaml.SafeLoader):
    """Reads the stream's settings, whose values may be in files of their own."""

    directory = Path()


def _secret(loader: _Loader, node: yaml.Node) -> str:
    path = loader.directory / Path(str(node.value)).expanduser()
    try:
        with path.open("rb") as file:
            text = file.read(SECRET_BYTES_MAX + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"the settings name {path}, which can't be read: {error}"
        raise Misconfigured(message) from error
    text = text.removesuffix("\n").removesuffix("\r")
    if not text or len(text) > SECRET_BYTES_MAX:
        message = f"the settings name {path}, which is {'too long' if text else 'empty'}"
        raise Misconfigured(message)
    return text


_Loader.add_constructor("!file", _secret)


def load(path: Path | None, environment: Mapping[str, str]) -> Stream:
    """Read where the stream is from a file, if there is one, and the environment.

    Raises:
        Misconfigured: the file can't be read, or says something that can't be.

    """
    tree = _tree(path) if path is not None else {}
    where = str(path)
    kafka, topics, registry = (_mapping(tree.get(name), f"{where}: {name}") for name in ("kafka", "topics", "schema_registry"))
    bootstrap = (
        environment.get("STREAMER_KAFKA__BOOTSTRAP_SERVERS")
        or _text(kafka.get("bootstrap_servers"), f"{where}: kafka.bootstrap_servers")
        or environment.get("KAFKA_BOOTSTRAP")
    )
    properties, consumer, producer = (_texts(kafka.get(name), f"{where}: kafka.{name}") for name in ("properties", "consumer", "producer"))
    return Stream(
        bootstrap or BOOTSTRAP,
        properties,
        consumer,
        producer,
        environment.get("STREAMER_TOPICS__MODELS") or _text(topics.get("models"), f"{where}: topics.models") or TOPIC,
        environment.get("STREAMER_SCHEMA_REGISTRY__URL") or _text(registry.get("url"), f"{where}: schema_registry.url"),
        _texts(registry.get("properties"), f"{where}: schema_registry.properties"),
        named=bool(bootstrap),
    )


def _tree(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX)
        loader = _Loader(content)
        loader.directory = path.parent
        found = loader.get_single_data()
    except OSError as error:
        message = f"{path}: the settings can't be read: {error}"
        raise Misconfigured(message) from error
    except yaml.YAMLError as error:
        message = f"{path}: not YAML: {error}"
        raise Misconfigured(message) from error
    return _mapping(found, str(path))


def _mapping(found: object, where: str) -> Mapping[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        message = f"{where}: must be a mapping of keys to values"
        raise Misconfigured(message)
    return found


def _text(found: object, where: str) -> str | None:
    if found is not None and (not isinstance(found, str) or not found):
        message = f"{where}: is {found!r}: give a text"
        raise Misconfigured(message)
    return found


def _texts(found: object, where: str) -> dict[str, str]:
    """Read a mapping of properties; YAML's numbers and booleans as librdkafka writes them."""
    return {str(key): str(value).lower() if isinstance(value, bool) else str(value) for key, value in _mapping(found, where).items()}

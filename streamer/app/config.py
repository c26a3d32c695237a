"""The configuration, loaded: defaults, then a YAML file, then the environment, and all that is wrong with them at once.

Law: nothing is read but the file, the mapping passed in and the secrets they name. Loading either gives a checked `Config` or raises
`ConfigError` with every fault.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast, get_type_hints
from urllib.parse import parse_qs, unquote, urlsplit, urlunsplit

import yaml

from streamer.app.config_kinds import HIDDEN, Secret, sensitive
from streamer.app.config_schema import Config, Key, keys
from streamer.app.config_sources import (
    FILE_TAG,
    TAGS,
    Fault,
    Gathered,
    Raw,
    gather_environment,
    gather_fallbacks,
    gather_file,
    read_secret,
)
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Config", "ConfigError", "Fault", "Secret", "Shown", "load", "shown"]

# librdkafka's properties that have a key here, or on which a guarantee rests.
PROPERTIES_TAKEN = {
    "bootstrap.servers": "set `kafka.bootstrap_servers`",
    "metadata.broker.list": "set `kafka.bootstrap_servers`",
    "group.id": "set `kafka.group_id`",
    "group.instance.id": "set `app.instance`",
    "transactional.id": "set `app.instance`",
    "enable.auto.commit": "remove it; the worker commits, or events would be lost",
    "enable.auto.offset.store": "remove it; the worker commits, or events would be lost",
    "isolation.level": "remove it; the worker reads what is committed",
}
REDIS_OPTIONS_TAKEN = {
    "password": "set `redis.password_file`",
    "decode_responses": "remove it; profiles are bytes",
    **dict.fromkeys(("host", "port", "db", "url", "connection_pool"), "set `redis.url`"),
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A key's effective value: as a number in the key's unit, as the text that a file would hold, and where it came from."""

    value: str | int | float | bool | None
    text: str
    origin: str


class ConfigError(Misconfigured):
    """The configuration has faults; `faults` is all of them."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        lines = [str(fault) for fault in faults]
        super().__init__(lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} faults in the configuration", *lines]))


def load(file: Path | None, environment: Mapping[str, str]) -> Config:
    """Load the configuration.

    Relative paths in the file are taken from the file's directory, those in variables from the working directory.

    Example:
        >>> load(None, {"STREAMER_BATCH__WAIT_MS": "20ms"}).batch.wait_ms
        20

    Raises:
        ConfigError: With every fault of the file, the environment and the secrets they name.
    """
    gathered = Gathered()
    if file is not None:
        gather_file(gathered, file)
    gather_environment(gathered, environment)
    gather_fallbacks(gathered, environment)
    _take_out_passwords(gathered)
    values = {key.name: _value(gathered, key) for key in keys().values()}
    origins = MappingProxyType({name: raw.origin for name, raw in gathered.raws.items()})
    config = replace(cast("Config", _build(Config, "", values)), origins=origins)
    faulty = {fault.key for fault in gathered.faults}
    gathered.faults += [fault for fault, other in _contradictions(config) if fault.key not in faulty and other not in faulty]
    if gathered.faults:
        raise ConfigError(gathered.faults)
    return config


def shown(config: Config) -> dict[str, Shown]:
    """Give every key's effective value and origin, secrets as `***`; a mapping's entries are keys of their own."""
    table: dict[str, Shown] = {}
    for key in keys().values():
        value = _member(config, key.name)
        if key.setting.kind.entries is None:
            table[key.name] = _shown(value, key.setting.kind.show, config.origins.get(key.name, "default"))
            continue
        for name, entry in cast("Mapping[str, object]", value).items():
            full = f"{key.name}.{name}"
            table[full] = _shown(entry, str, config.origins.get(full, "default"))
    return table


def _shown(value: object, show: Callable[[object], str], origin: str) -> Shown:
    if value is None:
        return Shown(None, "null", origin)
    if isinstance(value, Secret):
        return Shown(HIDDEN, HIDDEN, origin)
    return Shown(value if isinstance(value, (bool, int, float, str)) else str(value), show(value), origin)


def _member(config: Config, name: str) -> object:
    value: object = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _take_out_passwords(gathered: Gathered) -> None:
    """Move Redis's password out of the URL and out of its file, so that it is in one place, where it is not shown."""
    raws = gathered.raws
    given = raws.get("redis.password_file")
    sources = [] if "redis.password" not in raws or raws["redis.password"].text is None else [raws["redis.password"]]
    if given is not None and given.text is not None:
        try:
            sources.append(read_secret(given))
        except ValueError as error:
            gathered.fault("redis.password_file", given, str(error), "name a readable file that holds the password")
    if (url := raws.get("redis.url")) is not None and url.text is not None:
        try:
            parts = urlsplit(url.text)
            in_query = parse_qs(parts.query).get("password", [""])[0]
            password = unquote(parts.password or "") or in_query
        except ValueError:
            parts, in_query, password = urlsplit(""), "", ""
        if in_query:
            gathered.fault("redis.url", replace(url, secret=True), "has a password in its query", "set `redis.password_file`")
            del raws["redis.url"]
        elif password:
            user = parts.netloc.rpartition("@")[0].partition(":")[0]
            host = parts.netloc.rpartition("@")[2]
            raws["redis.url"] = replace(url, text=urlunsplit(parts._replace(netloc=f"{user}@{host}" if user else host)))
            sources.append(Raw(password, f"{TAGS}str", url.origin, url.directory, secret=True))
    if len(sources) > 1:
        places = " and ".join(source.origin for source in sources)
        gathered.faults.append(Fault("redis.password", HIDDEN, places, "is given more than once", "keep one of them"))
    if sources:
        raws["redis.password"] = sources[0]


def _value(gathered: Gathered, key: Key) -> object:
    """Read a key's value, taking note of faults; a faulty key has its default."""
    kind = key.setting.kind
    if kind.entries is not None:
        prefix = f"{key.name}."
        entries = {name.removeprefix(prefix): raw for name, raw in gathered.raws.items() if name.startswith(prefix)}
        read = {name: _entry(gathered, key, f"{prefix}{name}", raw) for name, raw in entries.items()}
        return MappingProxyType(read) if read else key.default
    raw = gathered.raws.get(key.name)
    if raw is None:
        return key.default
    if raw.text is None:
        if not key.setting.nullable:
            gathered.fault(key.name, raw, "is empty", f"give {kind.expects}")
            return key.default
        return None
    try:
        value = kind.read(raw.text)
    except ValueError as error:
        if isinstance(key.default, Secret) or key.name.endswith("password"):
            raw = replace(raw, secret=True)
        gathered.fault(key.name, _without_user(raw), str(error), f"give {kind.expects}")
        return key.default
    return raw.directory / Path(str(value)).expanduser() if key.setting.path else value


def _entry(gathered: Gathered, key: Key, name: str, raw: Raw) -> object:
    entries = key.setting.kind.entries
    option = name.removeprefix(f"{key.name}.")
    typed = key.name == "redis.options"
    if key.name.startswith("kafka.") and option in PROPERTIES_TAKEN:
        gathered.fault(name, raw, "cannot be set here", PROPERTIES_TAKEN[option])
        return None
    if raw.text is None and not typed:
        gathered.fault(name, raw, "is empty", f"give {key.setting.kind.expects}")
        return None
    if raw.secret or sensitive(option):
        return Secret(raw.text or "")
    if typed:
        return raw.text if raw.tag == f"{TAGS}str" else _scalar(raw)
    try:
        value = entries(raw.text or "") if entries is not None else raw.text
    except ValueError as error:
        gathered.fault(name, raw, str(error), f"give {key.setting.kind.expects}")
        return None
    return raw.directory / Path(str(value)).expanduser() if key.setting.path else value


def _scalar(raw: Raw) -> str | int | float | bool | None:
    """Read a scalar as YAML does; what is no number, boolean or null stays a text."""
    if raw.tag.removeprefix(TAGS) not in {"int", "float", "bool", "null"}:
        return raw.text
    return cast("str | int | float | bool | None", yaml.safe_load(raw.text or "null"))


def _without_user(raw: Raw) -> Raw:
    """Hide the user information of what should have been a URL."""
    if raw.text is None or "@" not in raw.text:
        return raw
    return replace(raw, text=f"{HIDDEN}@{raw.text.rpartition('@')[2]}")


def _build(owner: type, prefix: str, values: Mapping[str, object]) -> object:
    hints = get_type_hints(owner)
    given: dict[str, object] = {}
    for one in fields(owner):
        name = f"{prefix}{one.name}"
        if name in values:
            given[one.name] = values[name]
        elif is_dataclass(hints[one.name]):
            given[one.name] = _build(hints[one.name], f"{name}.", values)
    return owner(**given)


def _contradictions(config: Config) -> Iterator[tuple[Fault, str]]:
    """Find what is wrong between keys that are each right alone, each with the other key."""

    def fault(key: str, value: object, problem: str, remedy: str, other: str = "") -> tuple[Fault, str]:
        return Fault(key, str(value), config.origins.get(key, "default"), problem, remedy), other

    model = config.model
    if model.margin_large < model.margin:
        problem = f"is below `model.margin` ({model.margin})"
        yield fault("model.margin_large", model.margin_large, problem, "raise it, or lower `model.margin`", "model.margin")
    if model.first_fit.customers_min < model.k:
        problem = f"is below `model.k` ({model.k})"
        yield fault("model.first_fit.customers_min", model.first_fit.customers_min, problem, "raise it, or lower `model.k`", "model.k")
    by_topic: dict[str, str] = {}
    for one in ("events", "changes", "models", "journal", "dead_letters"):
        topic = str(getattr(config.topics, one))
        if topic in by_topic:
            key = by_topic[topic]
            yield fault(f"topics.{one}", topic, f"is also `{key}`", "give each topic a name of its own", key)
        by_topic.setdefault(topic, f"topics.{one}")
    for name in REDIS_OPTIONS_TAKEN.keys() & config.redis.options.keys():
        value = HIDDEN if sensitive(name) else config.redis.options[name]
        yield fault(f"redis.options.{name}", value, "cannot be set here", REDIS_OPTIONS_TAKEN[name])
    if "@" in urlsplit(config.schema_registry.url or "").netloc:
        remedy = f"set `schema_registry.properties.basic.auth.user.info` as `{FILE_TAG} PATH`"
        yield fault("schema_registry.url", HIDDEN, "has a user in it", remedy)

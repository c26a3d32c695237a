"""The configuration as a tree of frozen dataclasses: every key, its default, its kind and its meaning.

Law: a key's name ends in its unit, and its value is in that unit. `docs/configuration.md` is this module as a page; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal, TypeAlias, get_args, get_type_hints

from streamer.app import config_kinds as kinds
from streamer.app.config_kinds import Kind, Secret

Option: TypeAlias = "str | int | float | bool | Secret | None"
NOTHING: Mapping[str, Option] = MappingProxyType({})

MIB = 2**20
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Setting:
    """What a key takes and means. `fallback` names the environment variable that counts when neither file nor `STREAMER_...` say."""

    kind: Kind
    doc: str
    nullable: str = ""  # what null means; empty where null is refused
    fallback: str = ""
    path: bool = False  # resolved against the directory of the file that names it


@dataclass(frozen=True, slots=True)
class App:
    """Who this is: the names under which state and group membership are kept."""

    name: Annotated[str, Setting(kinds.name(), "The application: part of every Redis key, and the default group id.")] = "segments"
    namespace: Annotated[str, Setting(kinds.name(), "Prefix of every Redis key; a replay has its own.")] = "live"
    era: Annotated[
        int, Setting(kinds.whole(0, 127), "Raised by one when the events topic is made anew, so that change versions still grow.")
    ] = 0
    instance: Annotated[
        str | None,
        Setting(
            kinds.name(),
            "This worker among the others, the same after a restart: its static membership and transactional id.",
            nullable="host name and process id",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Kafka:
    """How to reach Kafka. Property names are librdkafka's; those for one side add to and override `properties`."""

    bootstrap_servers: Annotated[str, Setting(kinds.servers(), "Where to find the cluster.", fallback="KAFKA_BOOTSTRAP")] = "localhost:9092"
    group_id: Annotated[str | None, Setting(kinds.name(), "The consumer group.", nullable="`app.name`")] = None
    timeout_s: Annotated[float, Setting(kinds.duration("s", 1, 600, exact=False), "The longest that one call waits for the brokers.")] = 30
    properties: Annotated[
        Mapping[str, str | Secret],
        Setting(
            kinds.mapping("a mapping from librdkafka properties to texts", str, dotted=True), "For every client: TLS and SASL among them."
        ),
    ] = field(default_factory=lambda: MappingProxyType({}))
    consumer: Annotated[
        Mapping[str, str | Secret],
        Setting(kinds.mapping("a mapping from librdkafka properties to texts", str, dotted=True), "For consumers alone."),
    ] = field(default_factory=lambda: MappingProxyType({}))
    producer: Annotated[
        Mapping[str, str | Secret],
        Setting(kinds.mapping("a mapping from librdkafka properties to texts", str, dotted=True), "For producers alone."),
    ] = field(default_factory=lambda: MappingProxyType({}))

    def client_properties(self) -> dict[str, str]:
        """Give what every client gets, secrets revealed."""
        return {"bootstrap.servers": self.bootstrap_servers, **_revealed(self.properties)}

    def consumer_properties(self) -> dict[str, str]:
        """Give what a consumer gets, secrets revealed."""
        return {**self.client_properties(), **_revealed(self.consumer)}

    def producer_properties(self) -> dict[str, str]:
        """Give what a producer gets, secrets revealed."""
        return {**self.client_properties(), **_revealed(self.producer)}


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics by name, and how missing ones are made."""

    events: Annotated[str, Setting(kinds.name(), "Behaviour events, keyed by customer.")] = "customer-events"
    changes: Annotated[str, Setting(kinds.name(), "Segment changes.")] = "segment-changes"
    models: Annotated[str, Setting(kinds.name(), "Model versions.")] = "segment-models"
    journal: Annotated[str, Setting(kinds.name(), "What partitions' owners decided.")] = "segment-journal"
    dead_letters: Annotated[str, Setting(kinds.name(), "Refused records with their reasons.")] = "customer-events.dlq"
    create: Annotated[bool, Setting(kinds.boolean(), "Whether missing topics are made at the start.")] = True
    partitions: Annotated[
        int, Setting(kinds.whole(1, 10_000), "Partitions of an events topic that is made; changes and journal have as many as it.")
    ] = 8
    replication_factor: Annotated[
        int, Setting(kinds.whole(1, 32_767), "Replicas of a topic that is made; 3 where there are three brokers.")
    ] = 1
    change_compaction_lag_s: Annotated[
        int, Setting(kinds.duration("s", 0, 3_650 * DAY_S), "How long a topic of changes that is made keeps every change of a customer.")
    ] = 7 * DAY_S
    journal_retention_s: Annotated[
        int | None,
        Setting(
            kinds.duration("s", 3_600, 36_500 * DAY_S), "How long a journal that is made is kept: as long as history.", nullable="for ever"
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Redis:
    """How to reach Redis or Valkey."""

    url: Annotated[
        str,
        Setting(
            kinds.url("redis", "rediss", "unix"),
            "Server and database. A password in it is taken out and not shown.",
            fallback="REDIS_URL",
        ),
    ] = "redis://localhost:6379/0"
    password: Annotated[Secret | None, Setting(kinds.secret(), "The password; `password_file` keeps it out of sight.", nullable="none")] = (
        None
    )
    password_file: Annotated[Path | None, Setting(kinds.path(), "A file whose first line is the password.", nullable="none", path=True)] = (
        None
    )
    cluster: Annotated[bool, Setting(kinds.boolean(), "Whether `redis.url` names a node of a Redis Cluster.")] = False
    options: Annotated[
        Mapping[str, Option],
        Setting(
            kinds.mapping("a mapping from options of redis-py's client to scalars", str),
            "Further options of redis-py's client: `username`, `ssl_ca_certs` and so on.",
        ),
    ] = field(default_factory=lambda: NOTHING)
    timeout_s: Annotated[float, Setting(kinds.duration("s", 0.01, 600, exact=False), "The longest that one call waits for the server.")] = 5
    retries_max: Annotated[int, Setting(kinds.whole(0, 100), "How often a call that only reads is made again where it failed.")] = 3
    require_noeviction: Annotated[
        bool, Setting(kinds.boolean(), "Whether to refuse a server that may evict keys: without it state is lost unseen.")
    ] = True

    def connection_options(self) -> dict[str, str | int | float | bool | None]:
        """Give `options` and the password, secrets revealed."""
        password = {} if self.password is None else {"password": self.password.reveal()}
        return {**{name: _reveal(value) for name, value in self.options.items()}, **password}


@dataclass(frozen=True, slots=True)
class SchemaRegistry:
    """Where writers' schemas are looked up."""

    url: Annotated[
        str | None, Setting(kinds.url("http", "https"), "The registry.", nullable="none: packaged schemas and `schemas.allowed` alone")
    ] = None
    properties: Annotated[
        Mapping[str, str | Secret],
        Setting(
            kinds.mapping("a mapping from properties of confluent-kafka's registry client to texts", str, dotted=True),
            "Further properties of the client: `basic.auth.user.info`, `ssl.ca.location` and so on.",
        ),
    ] = field(default_factory=lambda: MappingProxyType({}))
    timeout_s: Annotated[
        float, Setting(kinds.duration("s", 0.1, 600, exact=False), "The longest that one call waits for the registry.")
    ] = 10

    def client_properties(self) -> dict[str, str]:
        """Give `url` and `properties`, secrets revealed."""
        return {**({} if self.url is None else {"url": self.url}), **_revealed(self.properties)}


@dataclass(frozen=True, slots=True)
class Schemas:
    """Writers' schemas known without a registry."""

    allowed: Annotated[
        Mapping[str, Path],
        Setting(
            kinds.mapping("a mapping from schema ids or GUIDs to paths of .avsc files", kinds.path().read),
            "Further writers' schemas.",
            path=True,
        ),
    ] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Batch:
    """How much a worker takes in one step. Results do not depend on it."""

    records_max: Annotated[int, Setting(kinds.whole(1, 100_000), "The most records of one batch.")] = 5_000
    wait_ms: Annotated[
        int,
        Setting(kinds.duration("ms", 0, 10_000), "How long to gather more after a record that had to be waited for."),
    ] = 5
    bytes_max: Annotated[
        int, Setting(kinds.size(2**16, 2**30), "The most bytes that are fetched ahead, and so of one batch; one record always fits.")
    ] = 64 * MIB


@dataclass(frozen=True, slots=True)
class Features:
    """What is measured."""

    declaration: Annotated[
        Path | None, Setting(kinds.path(), "The file that declares measures and features.", nullable="the packaged one", path=True)
    ] = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What an event may be before it is a dead letter."""

    event_id_bytes_max: Annotated[int, Setting(kinds.size(1, 2**16), "The longest `event_id`.")] = 128
    customer_id_bytes_max: Annotated[int, Setting(kinds.size(1, 2**16), "The longest `customer_id`.")] = 256
    event_type_bytes_max: Annotated[int, Setting(kinds.size(1, 2**16), "The longest `event_type`.")] = 64
    items_max: Annotated[int, Setting(kinds.whole(1, 1_000_000), "The most items of all arrays and maps of one record together.")] = 1_000
    future_s_max: Annotated[
        int, Setting(kinds.duration("s", 0, 365 * DAY_S), "How far `occurred_at` may be later than the record's Kafka timestamp.")
    ] = 3_600
    value_bytes_max: Annotated[int, Setting(kinds.size(1, 2**30), "The longest value of a record.")] = MIB
    deaths_max: Annotated[
        int, Setting(kinds.whole(1, 100), "How many processes may end while they read one record alone, before it is passed over unread.")
    ] = 5


@dataclass(frozen=True, slots=True)
class FirstFit:
    """When the first model is fitted."""

    enabled: Annotated[bool, Setting(kinds.boolean(), "Whether to fit a first model where there is none.")] = True
    customers_min: Annotated[int, Setting(kinds.whole(1, 100_000_000), "Eligible customers that must be known before.")] = 1_000
    history_days_min: Annotated[int, Setting(kinds.duration("d", 0, 3_650), "Event time that must lie behind before.")] = 21


@dataclass(frozen=True, slots=True)
class Model:
    """The segments. Who is eligible is part of the declaration of features."""

    name: Annotated[str, Setting(kinds.name(), "The model: the key of its versions in the topic of models.")] = "segments"
    k: Annotated[int, Setting(kinds.whole(2, 256), "How many segments the first fit makes.")] = 6
    epoch_interval_s: Annotated[
        float, Setting(kinds.duration("s", 0.1, DAY_S, exact=False), "How often learning publishes new centroids.")
    ] = 5
    margin: Annotated[
        float, Setting(kinds.number(0, 10), "A customer moves when the new centroid is closer by this share of the old distance.")
    ] = 0.10
    margin_large: Annotated[float, Setting(kinds.number(0, 10), "From this share on, a customer moves without having dwelt.")] = 0.30
    dwell_s: Annotated[
        int, Setting(kinds.duration("s", 0, 3_650 * DAY_S), "How long a customer stays in a segment, in event time, before moving on.")
    ] = 3 * DAY_S
    retention_s: Annotated[
        int,
        Setting(
            kinds.duration("s", 0, 36_500 * DAY_S),
            "After so long without an event, and the longest window, a customer leaves: status exited, and the profile is deleted.",
        ),
    ] = 400 * DAY_S
    first_fit: FirstFit = field(default_factory=FirstFit)


@dataclass(frozen=True, slots=True)
class Time:
    """How time passes where no event says so."""

    tick_after_s: Annotated[
        float | None,
        Setting(
            kinds.duration("s", 1, DAY_S, exact=False),
            "How long after a boundary of time the clock of a partition that is idle so long goes on.",
            nullable="never: only events move it",
        ),
    ] = 60
    tick_within_s: Annotated[
        float, Setting(kinds.duration("s", 0, 3_650 * DAY_S, exact=False), "Clocks go on alone while the job's latest event is no older.")
    ] = 2 * DAY_S


@dataclass(frozen=True, slots=True)
class Erasure:
    """What becomes of a customer who was erased, and comes again."""

    later_events: Annotated[
        Literal["refuse", "accept"],
        Setting(
            kinds.choice("refuse", "accept"),
            "Whether later events of an erased customer are dropped, or begin a new customer. The same for every worker and archiver.",
        ),
    ] = "refuse"
    key: Annotated[
        Secret | None,
        Setting(
            kinds.secret(),
            "Key of the hashes that erased customers are known by. Never change it once somebody was erased.",
            nullable="a key that everybody knows, so that who reads the hashes can test guesses",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Merge:
    """What becomes of the events of a customer who was merged into another."""

    redirect_s: Annotated[
        int,
        Setting(
            kinds.duration("s", 0, 365 * DAY_S),
            "How long after a merge, in event time, events of the old id are sent on to the new one. The same for every worker.",
        ),
    ] = 7 * DAY_S
    sends: Annotated[
        bool,
        Setting(
            kinds.boolean(),
            "Whether workers send on what merges take away and redirect. Of several applications that read one topic of events, one does.",
        ),
    ] = True


@dataclass(frozen=True, slots=True)
class Journal:
    """What earlier runs decided."""

    follow: Annotated[
        bool,
        Setting(kinds.boolean(), "Whether epochs and ticks come from the journal of an earlier run, so that a replay repeats it exactly."),
    ] = False


@dataclass(frozen=True, slots=True)
class History:
    """Where `streamer archive` keeps events and the journal, and how."""

    url: Annotated[
        str | None,
        Setting(
            kinds.place(),
            "A directory or an object store. Credentials are not in it, but where the store's client looks for them.",
            nullable="none: nothing is archived",
        ),
    ] = None
    file_rows: Annotated[
        int, Setting(kinds.whole(1_000, 100_000_000), "How many offsets a file covers at most: it ends at the next multiple of this.")
    ] = 250_000
    buffer_bytes_max: Annotated[
        int, Setting(kinds.size(2**20, 2**36), "How many bytes of rows an archiver holds in memory; beyond, the largest part is written.")
    ] = 256 * MIB
    roll_s: Annotated[float, Setting(kinds.duration("s", 0.1, DAY_S, exact=False), "How long rows wait at most to be in a file.")] = 300
    compacted_bytes: Annotated[
        int, Setting(kinds.size(2**20, 2**32), "How large a file grows when those of a day are put together; one is held in memory.")
    ] = 128 * MIB
    keep_s: Annotated[
        int,
        Setting(kinds.duration("s", 60, 365 * DAY_S), "How long a file that was replaced stays for those who began to read before."),
    ] = DAY_S


@dataclass(frozen=True, slots=True)
class Log:
    """What a worker says while it runs."""

    format: Annotated[Literal["text", "json"], Setting(kinds.choice("text", "json"), "Lines for people or for machines.")] = "text"
    level: Annotated[
        Literal["debug", "info", "warning", "error"], Setting(kinds.choice("debug", "info", "warning", "error"), "The least that is said.")
    ] = "info"
    customer_key: Annotated[
        Secret | None,
        Setting(
            kinds.secret(),
            "Key of the pseudonyms that stand for customers: workers with the same one name a customer alike.",
            nullable="a random one, which ends with the process",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Metrics:
    """Where a worker can be watched: `/metrics`, `/livez` and `/readyz` on one port."""

    enabled: Annotated[bool, Setting(kinds.boolean(), "Whether there is such a port.")] = True
    host: Annotated[
        str,
        Setting(
            kinds.text("a host name or an IPv4 address", r"[A-Za-z0-9.-]{1,253}", "is neither a host name nor an IPv4 address"),
            "The address to listen at; `0.0.0.0` for all that the machine has.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Setting(kinds.whole(0, 65_535), "The port; 0 for a free one, which the log names. One that is taken is said and done without."),
    ] = 9464
    live_within_s: Annotated[
        float,
        Setting(kinds.duration("s", 1, DAY_S, exact=False), "How long one round may take before `/livez` fails."),
    ] = 300
    ready_within_s: Annotated[
        float,
        Setting(kinds.duration("s", 10, DAY_S, exact=False), "How long ago the servers may have answered last before `/readyz` fails."),
    ] = 30


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration, checked. `origins` tells where each key's value came from; a key that it does not have has its default."""

    app: App = field(default_factory=App)
    kafka: Kafka = field(default_factory=Kafka)
    topics: Topics = field(default_factory=Topics)
    redis: Redis = field(default_factory=Redis)
    schema_registry: SchemaRegistry = field(default_factory=SchemaRegistry)
    schemas: Schemas = field(default_factory=Schemas)
    batch: Batch = field(default_factory=Batch)
    features: Features = field(default_factory=Features)
    limits: Limits = field(default_factory=Limits)
    model: Model = field(default_factory=Model)
    time: Time = field(default_factory=Time)
    transactions: Annotated[
        Literal["off", "on"],
        Setting(
            kinds.choice("off", "on"),
            "Whether changes and positions are one Kafka transaction, so that each change is published exactly once. With `off` they are "
            "published at least once, and `change_id` and `version` tell repeats; stop every worker before switching.",
        ),
    ] = "on"
    erasure: Erasure = field(default_factory=Erasure)
    merge: Merge = field(default_factory=Merge)
    journal: Journal = field(default_factory=Journal)
    history: History = field(default_factory=History)
    log: Log = field(default_factory=Log)
    metrics: Metrics = field(default_factory=Metrics)
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), compare=False, repr=False)

    @property
    def group_id(self) -> str:
        """Give the consumer group: `kafka.group_id`, or else `app.name`."""
        return self.kafka.group_id or self.app.name


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration: its dotted name, setting and default."""

    name: str
    setting: Setting
    default: object


@cache
def keys() -> Mapping[str, Key]:
    """Give every key by its dotted name, in the order of the page."""
    return MappingProxyType({key.name: key for key in _walk(Config, "")})


@cache
def sections() -> Mapping[str, type]:
    """Give every section's class by its dotted name; the whole is the empty name."""
    found: dict[str, type] = {"": Config}
    pending: list[tuple[str, type]] = [("", Config)]
    while pending:
        prefix, owner = pending.pop(0)
        for name, hint in get_type_hints(owner).items():
            if is_dataclass(hint) and isinstance(hint, type):
                found[f"{prefix}{name}"] = hint
                pending.append((f"{prefix}{name}.", hint))
    return MappingProxyType(found)


def _walk(owner: type, prefix: str) -> Iterator[Key]:
    hints = get_type_hints(owner, include_extras=True)
    for one in fields(owner):
        hint = hints[one.name]
        if is_dataclass(hint) and isinstance(hint, type):
            yield from _walk(hint, f"{prefix}{one.name}.")
            continue
        setting = next((extra for extra in get_args(hint) if isinstance(extra, Setting)), None)
        if setting is not None:
            default = one.default if one.default_factory is MISSING else one.default_factory()
            yield Key(f"{prefix}{one.name}", setting, default)


def _reveal(value: Option) -> str | int | float | bool | None:
    return value.reveal() if isinstance(value, Secret) else value


def _revealed(properties: Mapping[str, str | Secret]) -> dict[str, str]:
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in properties.items()}

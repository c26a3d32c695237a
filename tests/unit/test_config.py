"""The configuration: what counts, what is refused, and what is never shown."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamer.app import config_kinds as kinds
from streamer.app.config import Config, ConfigError, load, shown
from streamer.app.config_kinds import Secret
from streamer.app.config_reference import rows, tables
from streamer.app.config_schema import keys
from streamer.app.config_sources import variable_of

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], Path]:
    """Write a configuration file."""

    def write(content: str) -> Path:
        file = tmp_path / "streamer.yaml"
        file.write_text(content, encoding="utf-8")
        return file

    return write


def faults(file: Path | None, environment: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(file, environment)
    return [str(fault) for fault in caught.value.faults]


def test_without_file_and_environment_every_key_has_its_default() -> None:
    assert Config() == load(None, {})
    assert {"default"} == {one.origin for one in shown(load(None, {})).values()}


def test_every_default_is_what_its_own_text_reads_as() -> None:
    for key in keys().values():
        kind = key.setting.kind
        if kind.entries is None and key.default is not None:
            assert key.default == kind.read(kind.show(key.default)), key.name


def test_variables_count_before_the_file_the_file_before_fallbacks_and_fallbacks_before_defaults(written: Callable[[str], Path]) -> None:
    file = written("redis: {url: 'redis://file/0'}\nmodel: {k: 3}\n")
    environment = {"REDIS_URL": "redis://fallback/0", "KAFKA_BOOTSTRAP": "fallback:9092", "STREAMER_MODEL__K": "4"}
    config = load(file, environment)
    assert ("redis://file/0", "fallback:9092", 4) == (config.redis.url, config.kafka.bootstrap_servers, config.model.k)


def test_every_value_knows_where_it_came_from(written: Callable[[str], Path]) -> None:
    file = written("model:\n  k: 3\nkafka:\n  properties:\n    client.id: a\n")
    table = shown(load(file, {"STREAMER_BATCH__WAIT_MS": "7", "KAFKA_BOOTSTRAP": "b:1"}))
    assert f"{file}:2" == table["model.k"].origin
    assert f"{file}:5" == table["kafka.properties.client.id"].origin
    assert "STREAMER_BATCH__WAIT_MS" == table["batch.wait_ms"].origin
    assert "KAFKA_BOOTSTRAP" == table["kafka.bootstrap_servers"].origin
    assert "default" == table["log.level"].origin


def test_all_faults_are_reported_at_once_each_with_key_value_place_and_remedy(written: Callable[[str], Path]) -> None:
    file = written("batch:\n  records_max: 0\n  wait_ms: fast\nkafka:\n  boostrap_servers: a:1\ntransactions: maybe\n")
    assert [
        f"kafka.boostrap_servers: 'a:1' ({file}:5) is not a known key: did you mean `kafka.bootstrap_servers`?",
        "STREAMER_MODLE__K (environment) is not known: did you mean `STREAMER_MODEL__K`?",
        f"batch.records_max: '0' ({file}:2) is below 1: give a whole number from 1 to 100000",
        f"batch.wait_ms: 'fast' ({file}:3) is not a number with a unit: give {keys()['batch.wait_ms'].setting.kind.expects}",
        f"transactions: 'maybe' ({file}:6) is not among the choices: give `off` or `on`",
        "log.level: 'loud' (STREAMER_LOG__LEVEL) is not among the choices: give `debug` or `info` or `warning` or `error`",
    ] == faults(file, {"STREAMER_MODLE__K": "3", "STREAMER_LOG__LEVEL": "loud"})


def test_the_nightly_job_s_section_may_stand_in_the_file_and_is_its_own_to_check(tmp_path: Path) -> None:
    file = tmp_path / "streamer.yaml"
    file.write_text("model: {k: 3}\noffline: {gate: {share_max: 2}}\n")
    assert 3 == load(file, {}).model.k
    file.write_text("model: {offline: 3}\n")
    with pytest.raises(ConfigError, match=r"model\.offline: '3' .* is not a known key"):
        load(file, {})


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model: {k: 3, k: 4}", "model.k: '4' (FILE:1) is given twice: remove one"),
        ("records_max: 4", "records_max: '4' (FILE:1) is not a known key: did you mean `batch.records_max`?"),
        ("limits: [1]", "limits: '[...]' (FILE:1) is not a mapping: give a mapping from names to values"),
        ("model: {k: [3]}", "model.k: '[...]' (FILE:1) is not a single value: give one value"),
        ("model: {k: }", "model.k: null (FILE:1) is empty: give a whole number from 2 to 256"),
        ("model: {k: !env K}", "model.k: 'K' (FILE:1) has the unknown tag !env: only !file is known"),
        ("model: {k: 6", "configuration (FILE) is not YAML at line 1 (expected ',' or '}', but got '<stream end>'): mend the syntax"),
        ("a: 1\n--- \nb: 2", "configuration (FILE) is not YAML at line 2 (but found another document): mend the syntax"),
        ("topics: {changes: x, journal: x}", "topics.journal: x (FILE:1) is also `topics.changes`: give each topic a name of its own"),
        (
            "model: {margin_large: 0.05}",
            "model.margin_large: 0.05 (FILE:1) is below `model.margin` (0.1): raise it, or lower `model.margin`",
        ),
        ("model: {margin: .nan}", "model.margin: '.nan' (FILE:1) is not a number: give a number from 0 to 10"),
        ("kafka: {consumer: {group.id: x}}", "kafka.consumer.group.id: 'x' (FILE:1) cannot be set here: set `kafka.group_id`"),
        ("redis: {options: {db: 3}}", "redis.options.db: 3 (FILE:1) cannot be set here: set `redis.url`"),
        ("redis: {url: 'http://h'}", None),
        ("redis: {url: 'redis://h:banana'}", None),
        ("app: {name: 'a b'}", None),
        ("app: {name: '{x}'}", None),
        ("kafka: {bootstrap_servers: 'a b'}", None),
        ("topics: {create: maybe}", None),
        ("limits: {value_bytes_max: 1.5B}", None),
        ("limits: {value_bytes_max: 10 parsecs}", None),
        ("model: {dwell_s: 3w}", None),
        ("model: {dwell_s: 1500ms}", None),
        ("redis: {retries_max: 101}", None),
        ("redis: {password_file: nowhere}", None),
        ("redis: {password: x, url: 'redis://:y@h'}", None),
        ("schema_registry: {url: 'https://user:hush@h'}", None),
        ("schemas: {allowed: {7: ''}}", None),
        ("kafka: {properties: {client.id: null}}", None),
        ("? [a]\n: 1", None),
        ("- a", None),
        ("&a {x: *a}", None),
        ("[" * 3000, None),
        ("\tmodel: 1", None),
        ("model: '\x01'", None),
    ],
)
def test_a_wrong_file_is_refused_with_one_fault(written: Callable[[str], Path], content: str, expected: str | None) -> None:
    file = written(content)
    found = faults(file, {})
    assert 1 == len(found)
    assert "hush" not in found[0]
    if expected is not None:
        assert expected.replace("FILE", str(file)) == found[0]


def test_a_file_that_is_missing_or_too_long_is_a_fault(tmp_path: Path) -> None:
    missing = tmp_path / "missing.yaml"
    assert [f"configuration ({missing}) cannot be read (No such file or directory): name a readable YAML file"] == faults(missing, {})
    long = tmp_path / "long.yaml"
    long.write_text("#" * (2**20 + 1))
    assert [f"configuration ({long}) is longer than 1 MiB: name the configuration file"] == faults(long, {})


def test_an_empty_file_and_empty_sections_are_no_faults(written: Callable[[str], Path]) -> None:
    assert Config() == load(written(""), {})
    assert Config() == load(written("model:\nkafka: {properties: }\n"), {})


@pytest.mark.parametrize(
    "variable", ["STREAMER_KAFKA_BOOTSTRAP_SERVERS", "STREAMER_KAFKA__BOOTSTRAPSERVERS", "STREAMER_KAFKA__BOOTSTRAP__SERVERS"]
)
def test_a_variable_with_underscores_in_the_wrong_places_is_a_fault(variable: str) -> None:
    expected = f"{variable} (environment) is not known: did you mean `STREAMER_KAFKA__BOOTSTRAP_SERVERS`?"
    assert [expected] == faults(None, {variable: "a:1"})


def test_variables_that_are_no_settings_are_left_alone() -> None:
    assert Config() == load(None, {"STREAMER_CONFIG": "x", "STREAMER_CACHE": "y", "HOME": "z"})


def test_properties_merge_entry_by_entry_over_file_and_variables(written: Callable[[str], Path]) -> None:
    file = written("kafka:\n  properties: {client.id: a, security.protocol: plaintext}\n  consumer: {client.id: c}\n")
    environment = {"STREAMER_KAFKA__PROPERTIES__SECURITY_PROTOCOL": "ssl", "STREAMER_KAFKA__PROPERTIES": "{linger.ms: 5}"}
    kafka = load(file, environment).kafka
    common = {"bootstrap.servers": "localhost:9092", "security.protocol": "ssl", "linger.ms": "5"}
    assert {**common, "client.id": "a"} == kafka.producer_properties()
    assert {**common, "client.id": "c"} == kafka.consumer_properties()


def test_redis_options_keep_the_types_that_yaml_gives_them(written: Callable[[str], Path]) -> None:
    file = written("redis: {options: {socket_keepalive: yes, health_check_interval: 30, username: '30', ssl_ca_certs: ca.pem}}")
    options = load(
        file, {"STREAMER_REDIS__OPTIONS__PROTOCOL": "3", "STREAMER_REDIS__OPTIONS__CLIENT_NAME": "w-1"}
    ).redis.connection_options()
    expected = {
        "socket_keepalive": True,
        "health_check_interval": 30,
        "username": "30",
        "ssl_ca_certs": "ca.pem",
        "protocol": 3,
        "client_name": "w-1",
    }
    assert expected == options


def test_paths_are_taken_from_the_directory_of_the_file_that_names_them(written: Callable[[str], Path]) -> None:
    file = written("features: {declaration: features.yaml}\nschemas: {allowed: {7: old.avsc}}\n")
    config = load(file, {"STREAMER_SCHEMAS__ALLOWED__8": "new.avsc"})
    assert file.parent / "features.yaml" == config.features.declaration
    assert {"7": file.parent / "old.avsc", "8": Path("new.avsc")} == config.schemas.allowed


def test_secrets_come_from_files_and_are_shown_nowhere(written: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "kafka").write_text("hush-kafka\n")
    (tmp_path / "redis").write_text("hush-redis")
    file = written("kafka: {properties: {sasl.password: !file kafka, ssl.key.password: hush-key}}\nredis: {password_file: redis}\n")
    environment = {
        "STREAMER_KAFKA__CONSUMER__SASL_USERNAME": f"!file {tmp_path / 'kafka'}",
        "STREAMER_SCHEMA_REGISTRY__PROPERTIES__BASIC_AUTH_USER_INFO": "me:hush-registry",
        "STREAMER_REDIS__OPTIONS__SSL_PASSWORD": "hush-ssl",
    }
    config = load(file, environment)
    consumer = config.kafka.consumer_properties()
    assert ("hush-kafka", "hush-kafka", "hush-key") == (consumer["sasl.password"], consumer["sasl.username"], consumer["ssl.key.password"])
    assert {"password": "hush-redis", "ssl_password": "hush-ssl"} == config.redis.connection_options()
    assert {"basic.auth.user.info": "me:hush-registry"} == config.schema_registry.client_properties()
    assert "hush" not in f"{config} {config!r} {shown(config)}"
    assert "***" == shown(config)["kafka.properties.sasl.password"].text


def test_a_password_in_the_url_of_redis_is_taken_out() -> None:
    config = load(None, {"REDIS_URL": "redis://me:hush%21@h:6380/2?protocol=3"})
    assert "redis://me@h:6380/2?protocol=3" == config.redis.url
    assert Secret("hush!") == config.redis.password
    assert "hush" not in repr(config)
    assert "redis://h/1" == load(None, {"REDIS_URL": "redis://:hush@h/1"}).redis.url


@pytest.mark.parametrize(
    "environment",
    [
        {"REDIS_URL": "redis://h/0?password=hush"},
        {"REDIS_URL": "http://:hush@h/0"},
        {"REDIS_URL": "redis://:hush@h:banana/0"},
        {"STREAMER_REDIS__PASSWORD": "!file /hush/../nowhere-at-all", "STREAMER_MODEL__K": "hidden-not"},
        {"STREAMER_REDIS__OPTIONS__PASSWORD": "hush"},
        {"STREAMER_SCHEMA_REGISTRY__URL": "https://hush:hush@h"},
        {"STREAMER_SCHEMA_REGISTRY__URL": "ftp://hush:hush@h"},
        {"STREAMER_REDIS__PASSWORD": "hush", "REDIS_URL": "redis://:hush2@h"},
        {"STREAMER_REDIS__PASWORD": "hush"},
    ],
)
def test_no_fault_shows_a_secret(environment: dict[str, str]) -> None:
    assert "hush" not in " ".join(faults(None, environment)).replace("/hush/../nowhere-at-all", "")


def test_secret_files_that_are_missing_empty_or_no_text_are_faults(tmp_path: Path) -> None:
    for name, content in [("empty", b"\n"), ("binary", b"\xff\xfe"), ("long", b"x" * (2**16 + 1)), ("directory", None), ("missing", None)]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        elif name == "directory":
            path.mkdir()
        assert 1 == len(faults(None, {"STREAMER_REDIS__PASSWORD_FILE": str(path)}))
        assert 1 == len(faults(None, {"STREAMER_KAFKA__PROPERTIES__SASL_PASSWORD": f"!file {path}"}))


def test_null_is_refused_where_it_means_nothing_and_an_empty_variable_is_null(written: Callable[[str], Path]) -> None:
    file = written("kafka: {group_id: shop}\n")
    assert "shop" == load(file, {}).group_id
    assert "segments" == load(file, {"STREAMER_KAFKA__GROUP_ID": ""}).group_id
    assert 1 == len(faults(None, {"STREAMER_APP__NAME": ""}))


def test_a_contradiction_with_a_key_that_is_itself_at_fault_is_not_reported() -> None:
    assert 1 == len(faults(None, {"STREAMER_MODEL__K": "many", "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "2"}))


def test_the_place_of_history_is_a_path_or_a_url_without_credentials() -> None:
    for place in ("/srv/history", "history", "s3://bucket/path?region=eu-central-1", "file:///srv/history", "memory://x"):
        assert place == load(None, {"STREAMER_HISTORY__URL": place}).history.url
    assert load(None, {}).history.url is None
    with pytest.raises(ConfigError) as raised:
        load(None, {"STREAMER_HISTORY__URL": "s3://key:hush@bucket/path"})
    assert "has a user in it" in str(raised.value)
    assert "hush" not in str(raised.value)
    with pytest.raises(ConfigError, match="is empty"):
        load(None, {"STREAMER_HISTORY__URL": " "})


def test_bootstrap_servers_may_be_many_and_of_the_sixth_version() -> None:
    for servers in ("a:1,b:2", "[::1]:9092", "host", "SASL_SSL://h:1, h2:2"):
        assert servers == load(None, {"KAFKA_BOOTSTRAP": servers}).kafka.bootstrap_servers


@pytest.mark.parametrize(
    ("unit", "given_text", "expected"),
    [
        ("s", "3d", 259_200),
        ("s", "90", 90),
        ("s", "1.5h", 5_400),
        ("ms", "2s", 2_000),
        ("ms", "5", 5),
        ("d", "48h", 2),
        ("s", "0", 0),
        ("s", "2_000ms", 2),
    ],
)
def test_times_are_read_into_the_unit_of_the_key(unit: str, given_text: str, expected: int) -> None:
    assert expected == kinds.duration(unit, 0, 10**9).read(given_text)


def test_parts_of_a_unit_are_kept_where_the_key_allows_them() -> None:
    assert 0.25 == load(None, {"STREAMER_REDIS__TIMEOUT_S": "250ms"}).redis.timeout_s


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "d"]))
def test_a_time_reads_as_it_is_shown(value: int, unit: str) -> None:
    kind = kinds.duration(unit, 0, 10**6)
    assert value == kind.read(kind.show(value))


@given(st.integers(0, 2**40))
def test_a_size_reads_as_it_is_shown(value: int) -> None:
    kind = kinds.size(0, 2**40)
    assert value == kind.read(kind.show(value))


@given(st.dictionaries(st.sampled_from([variable_of(key) for key in keys()]), st.text(max_size=20)))
@example({"STREAMER_REDIS__PASSWORD_FILE": "~nobody-here/x"})
@example({"STREAMER_REDIS__PASSWORD": "!file ~nobody-here/x"})
def test_any_environment_gives_a_configuration_or_faults(environment: dict[str, str]) -> None:
    with contextlib.suppress(ConfigError):
        assert json.dumps({key: one.value for key, one in shown(load(None, environment)).items()})


def test_the_page_lists_every_key_with_its_default_and_no_other() -> None:
    page = PAGE.read_text(encoding="utf-8")
    listed = {match[1]: match[0] for match in re.finditer(r"^\| `([a-z0-9_.]+)` \|.*$", page, re.MULTILINE)}
    assert rows() == listed, "put what `streamer config --reference` prints under `## Keys` of docs/configuration.md"
    assert tables() in page


def test_the_example_of_the_page_loads(tmp_path: Path) -> None:
    example = re.search(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    for secret in ("kafka", "redis"):
        (tmp_path / secret).write_text("x")
    file = tmp_path / "streamer.yaml"
    file.write_text(example[1].replace("/run/secrets", str(tmp_path)), encoding="utf-8")
    assert 172_800 == load(file, {}).model.dwell_s

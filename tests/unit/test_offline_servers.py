"""Where the stream's servers are: the same file and the same variables as the stream's say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from offline.servers import DEFAULTS, MAPPINGS, servers
from streamer.app.config import load
from streamer.core.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

YAML = """
app: {name: shop, namespace: replay}
redis:
  url: redis://user@cache:6380/2
  password_file: secret
  options: {ssl_ca_certs: /ca.pem, socket_keepalive: true}
kafka:
  bootstrap_servers: a:9092,b:9092
  properties: {security.protocol: SASL_SSL, sasl.password: !file secret}
  consumer: {fetch.max.bytes: "1000"}
topics: {events: clicks}
schema_registry: {url: "http://registry:8081"}
limits: {value_bytes_max: 2MiB, future_s_max: 2h, items_max: 50}
offline: {}
"""


def value_of(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_defaults_are_those_of_the_stream() -> None:
    config, ours = load(None, {}), servers(None, {})
    for key in DEFAULTS:
        if key.startswith("limits."):
            assert value_of(config, key) == ours.whole(key), key
        else:
            theirs = value_of(config, key)
            assert ("" if theirs is None else str(theirs).lower()) == ours.values[key], key
    for key in MAPPINGS:
        assert {} == dict(value_of(config, key)) == ours.mappings[key]  # type: ignore[call-overload]


def test_a_file_of_the_stream_is_read_as_the_stream_reads_it(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hidden\n", encoding="utf-8")
    file = tmp_path / "streamer.yaml"
    file.write_text(YAML, encoding="utf-8")
    environment = {
        "STREAMER_APP__NAMESPACE": "live2",
        "STREAMER_KAFKA__CONSUMER__SESSION_TIMEOUT_MS": "6000",
        "STREAMER_REDIS__OPTIONS__USERNAME": "me",
        "REDIS_URL": "redis://elsewhere:1/0",
    }
    config, ours = load(file, environment), servers(file, environment)
    for key in ("app.name", "app.namespace", "redis.url", "kafka.bootstrap_servers", "topics.events", "schema_registry.url"):
        assert value_of(config, key) == ours.values[key], key
    assert (2 << 20, 7200, 50) == tuple(ours.whole(f"limits.{name}") for name in ("value_bytes_max", "future_s_max", "items_max"))
    assert 7_200_000 == ours.limits.future_ms_max
    own = {name: value for name, value in config.kafka.consumer_properties().items() if name != "bootstrap.servers"}
    assert own == dict(ours.kafka().properties)
    assert config.redis.connection_options() == {**ours.mappings["redis.options"], "password": "hidden"}


def test_what_is_set_nowhere_comes_from_the_usual_variables() -> None:
    ours = servers(None, {"REDIS_URL": "redis://r:1/0", "KAFKA_BOOTSTRAP": "k:1"})
    assert ("redis://r:1/0", "k:1") == (ours.values["redis.url"], ours.values["kafka.bootstrap_servers"])


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(servers(None, {"STREAMER_REDIS__PASSWORD": "hidden"}))


@pytest.mark.parametrize(
    ("text", "reason"), [("redis: {password: !file none}\n", "which the configuration names"), ("a: [", "the configuration can't be read")]
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "streamer.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Misconfigured, match=reason):
        servers(file, {})


def test_a_number_that_is_none_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"`limits\.items_max` is 'many'"):
        servers(None, {"STREAMER_LIMITS__ITEMS_MAX": "many"}).whole("limits.items_max")

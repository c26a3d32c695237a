"""Dead letters on real servers: refused, listed, shown, and retried after the fault is mended."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import confluent_kafka
import pytest

import schemas
from streamer.adapters.avro import codec, wire
from streamer.adapters.kafka.events_producer import EventRecord, EventsProducer
from streamer.app import wiring
from streamer.app.letters import LETTER_BYTES_MAX
from tests.integration.kit import Job
from tests.integration.test_job import shop
from tests.integration.test_looking import MISCONFIGURED, parsed, streamer

if TYPE_CHECKING:
    from streamer.adapters.servers import Running

PARTITIONS = 3
OTHER_ID = 9001
NOT_THERE = 1


@pytest.fixture
def job(servers: Running, tmp_path: Path) -> Job:
    return Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, PARTITIONS)


def send(job: Job, records: list[EventRecord]) -> None:
    """Send records as no producer of ours would: compressed, they may be megabytes long."""
    settings = wiring.kafka_settings(job.config, {"compression.type": "lz4", "message.max.bytes": "100000000"})
    producer = EventsProducer(settings, job.config.topics.events)
    producer.send(records)
    producer.wait(60.0)
    producer.close()


def listed(job: Job, *arguments: str) -> dict[str, Any]:
    found: dict[str, Any] = parsed(job, "dlq", "list", *arguments)
    return found


def test_records_of_a_schema_that_nobody_knew_count_once_it_is_allowed(job: Job) -> None:
    job.create()
    events = shop(40, 8, seed=5)
    body = {event["event_id"]: codec.encode("behaviour_event", event) for event in events}
    other = [
        EventRecord(e["customer_id"].encode(), wire.framed(body[e["event_id"]], OTHER_ID), (("trace", e["event_id"].encode()),))
        for e in events
    ]
    send(job, other[:20])
    with job.worker("a"):
        job.wait("the letters", lambda: listed(job)["reasons"] == {"unknown_schema": 20})
        table = streamer(job, "dlq", "list")
        assert (0, "") == (table.returncode, table.stderr)
        assert "unknown_schema" in table.stdout
        one = listed(job, "-n", "1")["letters"][0]
        seen = parsed(job, "dlq", "show", one["address"])
        assert f"schema {OTHER_ID} is not known" in seen["not_decoded"]
        assert (one["address"], one["key"]) == (seen["address"], seen["key"])
        assert f"schema {OTHER_ID} is not known" in streamer(job, "dlq", "show", one["address"]).stdout
    schema = job.directory / "other.avsc"
    schema.write_text(schemas.text("behaviour_event"))
    config = job.directory / "allowed.yaml"
    config.write_text(f"schemas: {{allowed: {{{OTHER_ID}: {schema}}}}}\n")
    mended = job.with_settings(STREAMER_CONFIG=str(config))
    assert seen["key"] == parsed(mended, "dlq", "show", one["address"])["event"]["customer_id"]
    with mended.worker("b"):
        assert 20 == len(parsed(mended, "dlq", "retry", "--reason", "unknown_schema", "--dry-run")["chosen"])
        done = streamer(mended, "dlq", "retry", "--reason", "unknown_schema", "--limit", "15")
        assert (0, "") == (done.returncode, done.stderr), done
        assert "15 letters were sent" in done.stdout
        assert "5 more fit" in done.stdout
        again = parsed(mended, "dlq", "retry", "--reason", "unknown_schema")
        assert (5, {"retried": 15}) == (len(again["sent"]), again["skipped"])
        none = parsed(mended, "dlq", "retry", "--all")
        assert ([], {"retried": 20}) == (none["sent"], none["skipped"])
        assert 20 == len(parsed(mended, "dlq", "retry", "--all", "--again")["sent"])  # and counts nothing
        mended.wait_done()
    assert {e["customer_id"] for e in events[:20]} == set(mended.profiles())
    assert {"unknown_schema": 20} == listed(mended)["reasons"]
    tail = wiring.kafka_tail(mended.config)
    topic = mended.config.topics.events
    records = [[*tail.between(topic, p, 0, tail.bounds(topic, p)[1])] for p in range(PARTITIONS)]
    tail.close()
    for one_partition in records:
        first = [r for r in one_partition if "dlq.retried_from" not in dict(r.headers)]
        retried = [r for r in one_partition if "dlq.retried_from" in dict(r.headers)]
        assert sorted((r.key, r.value, r.headers[0]) for r in first * 2) == sorted((r.key, r.value, r.headers[0]) for r in retried)
        assert {"trace", "dlq.retried_from"} >= {name for r in retried for name, _ in r.headers}


def test_a_record_of_megabytes_costs_itself_alone_and_its_letter_is_cut(job: Job) -> None:
    job.create()
    bomb = wire.framed(b"\0" * 30_000_000, 1)
    long = wire.framed(codec.encode("behaviour_event", {**shop(1, 1, seed=1)[0], "session_id": "x" * 1_040_000})[:-1], 1)
    send(job, [EventRecord(b"bomb", bomb), EventRecord(b"long", long)])
    job.send(shop(30, 6, seed=2))
    with job.worker("a"):
        job.wait_done()
    letters = {letter["key"]: letter for letter in listed(job)["letters"]}
    assert {"bomb": "too_large", "long": "truncated"} == {key: letter["reason"] for key, letter in letters.items()}
    assert {True} == {letter["cut"] and letter["value_bytes"] <= LETTER_BYTES_MAX for letter in letters.values()}
    assert 6 == len(job.profiles())
    headers = dict(parsed(job, "dlq", "show", letters["bomb"]["address"])["headers"])
    assert {"key": 4, "value": len(bomb), "headers": 0} == json.loads(headers["dlq.cut"])


def test_nothing_to_look_at_says_what_to_do(job: Job) -> None:
    for command in (["list"], ["show", "0:0"], ["retry", "--all"]):
        done = streamer(job, "dlq", *command)
        assert (MISCONFIGURED, "") == (done.returncode, done.stdout)
        assert "there is no topic" in done.stderr
        assert "streamer run" in done.stderr
    job.create()
    assert "nothing was refused" in streamer(job, "dlq", "list").stdout
    assert "nothing was refused" in streamer(job, "dlq", "retry", "--all").stdout
    assert NOT_THERE == streamer(job, "dlq", "show", "0:0").returncode


def librdkafka() -> ctypes.CDLL:
    """The client's own library: no client in Python writes a header's name that is not UTF-8, and others do."""
    package = Path(confluent_kafka.__file__).parent
    found = [*package.parent.glob("confluent_kafka.libs/librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    if not found:
        pytest.skip("the client's library is not beside it")
    return ctypes.CDLL(str(found[0]))


def send_with_header(job: Job, key: bytes, value: bytes, name: bytes) -> None:
    """Send a record with a header of any name."""
    library, error = librdkafka(), ctypes.create_string_buffer(512)
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    settings = ctypes.c_void_p(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(settings, b"bootstrap.servers", job.bootstrap.encode(), error, ctypes.c_size_t(512))
    producer = ctypes.c_void_p(library.rd_kafka_new(0, settings, error, ctypes.c_size_t(512)))
    end, topic, value_, key_, flags, header = 0, 1, 4, 5, 7, 9  # rd_kafka_vtype_t
    sized = [ctypes.c_char_p(value), ctypes.c_size_t(len(value)), key_, ctypes.c_char_p(key), ctypes.c_size_t(len(key))]
    headed = [header, ctypes.c_char_p(name), ctypes.c_char_p(b"x"), ctypes.c_ssize_t(1)]
    named = [topic, ctypes.c_char_p(job.config.topics.events.encode()), flags, 2]
    assert 0 == library.rd_kafka_producev(producer, *named, value_, *sized, *headed, end)
    assert 0 == library.rd_kafka_flush(producer, 30_000)
    library.rd_kafka_destroy(producer)


def test_a_header_whose_name_is_no_text_stops_nobody(job: Job) -> None:
    job.create()
    event = {**shop(1, 1, seed=1)[0], "customer_id": "odd"}
    body = wire.framed(codec.encode("behaviour_event", event), 1)
    send_with_header(job, b"odd", body, b"\xff\xfe")
    send_with_header(job, b"odd", body + b"\0", b"\xff\xfe")
    job.send(shop(30, 6, seed=2))
    with job.worker("a"):
        job.wait_done()
    assert 7 == len(job.profiles())
    [letter] = listed(job)["letters"]
    assert "trailing_bytes" == letter["reason"]
    assert 0 == streamer(job, "dlq", "show", letter["address"]).returncode

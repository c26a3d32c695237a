"""The whole job on real servers: workers that come, go and die, replays that repeat, and records that are refused."""

from __future__ import annotations

import io
import json
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import pytest
import redis

import schemas
from streamer.adapters.avro import codec, wire
from streamer.app import wiring
from streamer.core.ports import Topic
from tests.integration.kit import Job

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.servers import Running

DAY_MS = 86_400_000
BEGIN_MS = 1_700_000_000_000
LEARNING = {
    "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "300",
    "STREAMER_MODEL__FIRST_FIT__HISTORY_DAYS_MIN": "3d",
    "STREAMER_MODEL__EPOCH_INTERVAL_S": "0.3s",
    "STREAMER_MODEL__K": "4",
}


def shop(count: int, customers: int, seed: int) -> list[dict[str, Any]]:
    """Events of a shop whose customers differ in how much they look and buy, in the order of their time."""
    rng = random.Random(seed)
    events = []
    for i in range(count):
        customer = rng.randrange(customers)
        kind = rng.choices(["view", "add_to_cart", "purchase", "search", "refund"], [10, 3, 1 + customer % 5, 2, 0.2])[0]
        events.append(
            {
                "event_id": f"e-{seed}-{i}",
                "customer_id": f"customer-{customer:05d}",
                "event_type": kind,
                "occurred_at": BEGIN_MS + i * 40 * DAY_MS // count + rng.randrange(1000),
                "amount": rng.randrange(100, 100 * (2 + customer % 7)) if kind in {"purchase", "refund"} else None,
                "currency": None,
                "quantity": None,
                "product_id": None,
                "category": rng.choice(["a", "b", "c", "d", "e"]),
                "session_id": None,
                "properties": {},
            }
        )
    return events


COUNTING = """
measures:
  events: {lifetime_count: any}
  views: {count: view}
  purchases: {count: purchase}
  spend: {sum: amount, of: purchase}
  last_event: {last: any}
features:
  events_ever: {lifetime: events, transform: log1p}
  days_since_event: {recency: last_event, cap: 30d, transform: log1p}
  views_30d: {sum: views, window: 30d, transform: log1p}
  purchases_30d: {sum: purchases, window: 30d, transform: log1p}
  spend_30d: {sum: spend, window: 30d, transform: log1p}
eligibility:
  events: 3
"""


@pytest.fixture
def job(servers: Running, tmp_path: Path) -> Job:
    declaration = tmp_path / "counting.yaml"
    declaration.write_text(COUNTING)
    return Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, partitions=8, settings=LEARNING, declaration=declaration)


def test_every_event_counts_once_while_workers_join_leave_and_are_killed(job: Job, tmp_path: Path) -> None:
    events = shop(24_000, 1500, seed=1)
    job = job.with_settings(STREAMER_BATCH__RECORDS_MAX="200").create()
    job.send(events[:8000])
    workers = {name: job.start(name) for name in ("a", "b", "c")}
    try:
        with wiring.Watcher(job.config) as watcher:
            job.wait("the first events", lambda: sum(state.next_offset for state in watcher.states()) > 2000)
            job.wait("worker a's part", lambda: "from offset" in (tmp_path / "a.log").read_text())
            workers["d"] = job.start("d")
            job.send(events[8000:16_000])
            workers["a"].terminate()
            assert workers.pop("a").wait(20) == 0, job.logs()
            job.wait("more events", lambda: sum(state.next_offset for state in watcher.states()) > 9000)
        workers["b"].send_signal(signal.SIGKILL)
        workers["b"].wait(5)
        job.send(events[16_000:])
        time.sleep(1.0)
        workers["b"] = job.start("b")
        job.wait_done()
    finally:
        for process in workers.values():
            process.terminate()
        codes = [process.wait(20) for process in workers.values()]
    assert [0] * len(codes) == codes, job.logs()
    found = job.features(events[-1]["occurred_at"] + DAY_MS)["events_ever"].astype(int).to_dict()
    assert Counter(event["customer_id"] for event in events) == found
    report = wiring.check_all(job.config, lambda _: None)
    assert report.clean, report
    assert report.customers == len(found)
    assert report.votes > 1000
    versions: dict[str, list[int]] = {}
    for change in job.changes():
        versions.setdefault(change["customer_id"], []).append(change["version"])
    distinct = {customer: list(dict.fromkeys(seen)) for customer, seen in versions.items()}
    assert all(seen == sorted(seen) for seen in distinct.values())


def test_check_says_so_when_a_profile_is_altered_by_hand(job: Job) -> None:
    job.create().send(shop(6000, 500, seed=2))
    with job.worker("a"):
        job.wait_done()
        with wiring.Watcher(job.config) as watcher:
            job.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
    assert wiring.check_all(job.config, lambda _: None).clean
    client: Any = redis.Redis.from_url(job.redis_url)  # by hand, past the adapter
    key = next(key for p in range(8) if client.hlen(key := f"live:{{{job.name}:{p}}}:profiles"))
    customer, profile = next(iter(client.hgetall(key).items()))
    client.hset(key, customer, bytes([*profile[:30], profile[30] ^ 1, *profile[31:]]))
    report = wiring.check_all(job.config, lambda _: None)
    assert not report.clean
    assert customer.decode() in {finding.customer for finding in report.findings}
    client.hset(key, customer, profile)
    assert wiring.check_all(job.config, lambda _: None).clean
    client.hdel(key, customer)
    found = {finding.what for finding in wiring.check_all(job.config, lambda _: None).findings}
    assert any(what.startswith("the model's members") for what in found)


def comparable(changes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Changes without the fields that a replay may set otherwise, each partition's in a fixed order."""
    kept = [{k: v for k, v in change.items() if k not in {"detected_at", "origin", "run_id"}} for change in changes]
    return sorted(kept, key=lambda change: (change["customer_id"], change["version"]))


def test_a_run_that_follows_the_journal_repeats_changes_and_sums_to_the_byte(job: Job) -> None:
    events = shop(20_000, 1200, seed=3)
    first = job.with_settings(STREAMER_BATCH__RECORDS_MAX="150").create()
    first.send(events[:8000])
    processes = [first.start(name) for name in ("a", "b", "c")]
    try:
        with wiring.Watcher(first.config) as watcher:
            first.wait("the first model", lambda: watcher.settled(watcher.states(), least=1))
        for begin in range(8000, 20_000, 3000):
            epoch = max(state.epoch for state in first.states())
            first.send(events[begin : begin + 3000])
            first.wait("an epoch in between", lambda epoch=epoch: max(state.epoch for state in first.states()) > epoch)
        first.wait_done()
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(20) for process in processes]
    assert codes == [0, 0, 0], first.logs()
    told = first.changes()
    entries = first.read(Topic.JOURNAL, "journal_entry")
    assert sum(entry["kind"] == "epoch" for entry in entries) >= 8
    assert {change["cause"] for change in told} >= {"first_seen", "behaviour", "model_drift"}

    again = Job(
        first.bootstrap, first.redis_url, first.directory, 8, dict(first.settings), declaration=first.declaration, input_of=first.name
    ).with_settings(STREAMER_BATCH__RECORDS_MAX="3001", STREAMER_JOURNAL__FOLLOW="true")
    again.create()
    with again.worker("follower"):
        again.wait_done()
        ends = [(state.model, state.epoch) for state in first.states()]
        again.wait(f"the end of the journal, {ends},", lambda: [(state.model, state.epoch) for state in again.states()] == ends, 60.0)
    assert comparable(told) == comparable(again.changes())
    assert first.profiles() == again.profiles()
    for one, other in zip(first.states(), again.states(), strict=True):
        assert one.learned is not None
        assert other.learned is not None
        for name in ("count", "total", "square", "members"):
            assert np.array_equal(getattr(one.learned, name), getattr(other.learned, name))


def test_each_malformed_record_becomes_a_dead_letter_with_its_reason_and_the_worker_goes_on(job: Job, tmp_path: Path) -> None:
    job = job.with_settings().create()
    weight = "  weight: {sum: properties.weight, decimals: 1, of: purchase}\n"
    (tmp_path / "counting.yaml").write_text(COUNTING.replace("  last_event:", f"{weight}  last_event:"))
    good = shop(100, 20, seed=4)
    key = b"customer-x"

    def encoded(**other: Any) -> bytes:
        return wire.framed(codec.encode("behaviour_event", {**good[0], "customer_id": "customer-x", "event_type": "purchase", **other}), 1)

    bad = {
        "no_schema_id": [b"nonsense", b"\x00"],
        "unknown_schema": [wire.framed(b"whatever", 424_242)],
        "truncated": [encoded()[:-1]],
        "bad_length": [encoded()[:20]],
        "trailing_bytes": [encoded() + b"\x00"],
        "bad_customer_id": [encoded(customer_id=""), encoded(customer_id="x" * 10_240)],
        "bad_event_id": [encoded(event_id="")],
        "bad_event_type": [encoded(event_type="")],
        "unknown_command": [encoded(event_type="$nonsense")],
        "time_out_of_range": [encoded(occurred_at=0), encoded(occurred_at=4_200_000_000_000)],
        "time_in_future": [encoded(occurred_at=int(time.time() * 1000) + 2 * DAY_MS)],
        "amount_out_of_range": [encoded(amount=2**62)],
        "currency_refused": [encoded(amount=5, currency="XXX")],
        "property_not_a_number": [encoded(properties={"weight": text}) for text in ("NaN", "inf", "-Infinity", "", "12kg")],
        "property_out_of_range": [encoded(properties={"weight": "1e30"})],
    }
    job.send(good[:50])
    job.send_raw((key, value) for values in bad.values() for value in values)
    job.send(good[50:])
    with job.worker("a"):
        job.wait_done()
    reader = wiring.topic_reader(job.config)
    letters = reader.read(Topic.DEAD_LETTERS, 0, 0, 30.0)
    reader.close()
    told = [(dict(letter.headers)["dlq.reason"].decode(), letter.value) for letter in letters]  # type: ignore[union-attr]
    assert Counter((reason, value) for reason, values in bad.items() for value in values) == Counter(told)
    assert all({"dlq.error", "dlq.source"} <= dict(letter.headers).keys() for letter in letters)
    found = job.features(good[-1]["occurred_at"] + DAY_MS)["events_ever"].astype(int).to_dict()
    assert Counter(event["customer_id"] for event in good) == found


def test_an_older_and_a_newer_writers_schema_are_resolved(job: Job, tmp_path: Path) -> None:
    ours = schemas.load("behaviour_event")
    older = {**ours, "fields": [field for field in ours["fields"] if field["name"] not in {"session_id", "properties", "quantity"}]}
    newer = {**ours, "fields": [{"name": "channel", "type": "string", "default": "web"}, *ours["fields"]]}
    allowed = {}
    for number, (name, schema) in enumerate({"older": older, "newer": newer}.items(), 900_001):
        path = tmp_path / f"{name}.avsc"
        path.write_text(json.dumps(schema))
        allowed[number] = (path, schema)
    configuration = tmp_path / "config.yaml"
    configuration.write_text("schemas:\n  allowed:\n" + "".join(f"    '{n}': {path}\n" for n, (path, _) in allowed.items()))
    job = job.with_settings(STREAMER_CONFIG=str(configuration)).create()
    events = shop(400, 30, seed=5)

    def values() -> Any:
        for i, event in enumerate(events):
            number = 900_001 + i % 2
            body = io.BytesIO()
            schema = allowed[number][1]
            names = {field["name"] for field in schema["fields"]}
            record = {name: value for name, value in {**event, "channel": "app"}.items() if name in names}
            fastavro.schemaless_writer(body, fastavro.parse_schema(schema), record)
            yield event["customer_id"].encode(), wire.framed(body.getvalue(), number)

    job.send_raw(values())
    with job.worker("a"):
        job.wait_done()
    found = job.features(events[-1]["occurred_at"] + DAY_MS)["events_ever"].astype(int).to_dict()
    assert Counter(event["customer_id"] for event in events) == found


def test_a_worker_told_to_stop_when_idle_does_so_once_everything_is_done(job: Job) -> None:
    events = shop(2000, 100, seed=7)
    job.create().send(events)
    process = job.start("a", "--until-idle-s", "1")
    assert process.wait(60) == 0, job.logs()
    found = job.features(events[-1]["occurred_at"] + DAY_MS)["events_ever"].astype(int).to_dict()
    assert Counter(event["customer_id"] for event in events) == found


def test_a_worker_stops_cleanly_on_sigterm_within_ten_seconds(job: Job) -> None:
    job.create().send(shop(2000, 100, seed=6))
    process = job.start("a")
    job.wait("the first commit", lambda: any(state.watermark > 0 for state in job.states()))
    begun_s = time.monotonic()
    process.terminate()
    assert process.wait(20) == 0, job.logs()
    assert time.monotonic() - begun_s < 10

"""Two workers, scraped while they work: together their numbers are those of what was sent, told and kept."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from streamer.adapters.avro import codec, wire
from streamer.app import wiring
from streamer.core.ports import Topic
from tests.integration.kit import READ_TIMEOUT_S, Job
from tests.integration.test_job import LEARNING, shop

if TYPE_CHECKING:
    from pathlib import Path

    from streamer.adapters.servers import Running

AT = re.compile(r"metrics and probes are at http://127\.0\.0\.1:(\d+)")


def port_of(job: Job, instance: str) -> int:
    """Read from a worker's log where it can be watched."""
    file = job.directory / f"{instance}.log"
    job.wait("the port", lambda: AT.search(file.read_text()))
    found = AT.search(file.read_text())
    assert found is not None
    return int(found[1])


def get(port: int, path: str) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def scraped(*ports: int) -> dict[str, Counter[tuple[str, ...]]]:
    """Scrape workers and add up every sample, as `sum` over workers does."""
    found: dict[str, Counter[tuple[str, ...]]] = {}
    for port in ports:
        status, body = get(port, "/metrics")
        assert 200 == status
        for family in text_string_to_metric_families(body.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, Counter())[tuple(sample.labels.values())] += sample.value  # type: ignore[assignment]
    return found


def ready(port: int) -> Any:
    status, body = get(port, "/readyz")
    said = json.loads(body)
    assert (status == 200) == said["ready"]
    return said


def test_what_two_workers_expose_adds_up_to_what_was_sent_told_and_kept(servers: Running, tmp_path: Path) -> None:
    settings = {**LEARNING, "STREAMER_METRICS__PORT": "0"}
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, settings=settings).create()
    events = shop(4_000, 400, 5)
    customers = {event["customer_id"] for event in events}
    with job.worker("a") as first, job.worker("b") as second:
        ports = port_of(job, "a"), port_of(job, "b")
        job.wait("two ready workers", lambda: all(ready(port)["partitions"] and ready(port)["ready"] for port in ports))
        assert [200, 200] == [get(port, "/livez")[0] for port in ports]
        job.send([*events[:2_000], *events[1_990:2_000]])
        job.send_raw([(b"k", b"no event"), (b"k", wire.framed(codec.encode("behaviour_event", events[0])[:-3], 1))])
        first_model = {(str(partition),): 1 for partition in range(4)}  # some of what comes after it then moves somebody at once
        job.wait("the first model", lambda: first_model == dict(scraped(*ports)["streamer_model_version"]))
        job.send(events[2_000:])
        job.wait_done()
        job.wait("the last record's count", lambda: scraped(*ports)["streamer_events_consumed_total"][()] >= 4_012)
        job.wait("no lag", lambda: 0 == scraped(*ports)["streamer_lag_records"].total())
        found = scraped(*ports)
        names = ("consumed", "applied", "duplicate")
        assert [4_012, 4_000, 10] == [found[f"streamer_events_{name}_total"][()] for name in names], job.logs()
        assert {("no_schema_id",): 1, ("bad_length",): 1} == dict(+found["streamer_dead_letters_total"])
        job.wait("every change's count", lambda: told(job) == +scraped(*ports)["streamer_changes_total"], 30.0)
        found = scraped(*ports)
        assert {("0",), ("1",), ("2",), ("3",)} == set(found["streamer_model_epoch"])
        assert {("0",): 1, ("1",): 1, ("2",): 1, ("3",): 1} == dict(found["streamer_model_version"])
        assert len(customers) == found["streamer_customers"].total() == len(job.profiles())
        assert 0 == found["streamer_sweep_backlog"].total()
        assert 0 < found["streamer_votes"][()] <= len(customers)
        assert 4_012 == found["streamer_batch_records_sum"][()]
        stages = {stage for (stage,), seconds in found["streamer_stage_seconds_sum"].items() if seconds > 0}
        assert {"fetch", "decode", "load", "fold", "decide", "commit", "publish", "confirm"} <= stages
        assert 0 < found["streamer_event_to_change_seconds_count"][()] <= sum(told(job).values())
        # What one gives up the other has.
        second.send_signal(signal.SIGTERM)
        assert 0 == second.wait(30), job.logs()
        job.wait("four partitions", lambda: 4 == len(scraped(ports[0])["streamer_next_offset"]))
        job.wait("a ready worker", lambda: ready(ports[0])["ready"])
        assert len(customers) == scraped(ports[0])["streamer_customers"].total()
        assert [0, 1, 2, 3] == ready(ports[0])["partitions"]
        assert first.poll() is None
    assert not any(customer in job.logs() for customer in customers)
    letters = wiring.topic_reader(job.config).read(Topic.DEAD_LETTERS, 0, 0, READ_TIMEOUT_S)
    assert 2 == len(letters)


def told(job: Job) -> Counter[tuple[str, ...]]:
    """Count the changes on the topic by cause."""
    return Counter((change["cause"],) for change in job.changes())


def test_a_worker_whose_redis_is_away_says_that_it_is_not_ready_and_comes_back(servers: Running, own_redis: Any, tmp_path: Path) -> None:
    settings = {**LEARNING, "STREAMER_METRICS__PORT": "0", "STREAMER_REDIS__TIMEOUT_S": "0.5s"}
    job = Job(servers.kafka_bootstrap, own_redis.address, tmp_path, settings=settings).create()
    with job.worker("a"):
        port = port_of(job, "a")
        job.wait("a ready worker", lambda: ready(port)["ready"] and ready(port)["partitions"])
        own_redis.pause()
        job.wait("a worker that is not ready", lambda: not ready(port)["ready"])
        assert 200 == get(port, "/livez")[0]
        assert ready(port)["why"]
        assert 0 < scraped(port)["streamer_unavailable_total"][()]
        own_redis.resume()
        job.wait("a ready worker again", lambda: ready(port)["ready"] and len(ready(port)["partitions"]) == 4)

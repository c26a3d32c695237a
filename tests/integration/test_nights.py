"""The nightly path on real servers, with a shop's real orders: ingest, stream, archive, re-seed, adopt, thirty nights in a row."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from offline.events import Reading
from offline.features import compute
from streamer.adapters.avro import codec, wire
from streamer.adapters.declaration_file import load as load_declaration
from streamer.adapters.history import open_history
from streamer.app import wiring
from streamer.app.samples import WHOLE, retail_path
from streamer.core.partitioning import partition_of
from tests.integration.adoption import adoptions, assert_causes
from tests.integration.kit import Job
from tests.integration.test_archive import once
from tests.integration.test_promotion import Offline, judged_by, settled
from tests.integration.test_retail import RETAIL_FEATURES, assert_equal_to_the_bit, declared, events_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from streamer.adapters.servers import Running

NIGHTS = int(os.environ.get("NIGHTS", "30"))
FIRST_NIGHT = date(2011, 8, 1)
DAY_MS = 86_400_000


def end_of(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000) + DAY_MS


def send(job: Job, events: Iterable[Mapping[str, Any]]) -> None:
    """Send events as they came: with the Kafka timestamps of their own time, by which history cuts days."""
    producer = Producer({"bootstrap.servers": job.bootstrap, "linger.ms": 20})
    for event in events:
        key = event["customer_id"].encode()
        value = wire.framed(codec.encode("behaviour_event", dict(event)), 1)
        while True:
            try:
                producer.produce(
                    job.config.topics.events, value, key, partition_of(key, job.partitions), timestamp=int(event["occurred_at"])
                )
                break
            except BufferError:
                producer.poll(0.1)
    assert 0 == producer.flush(60)


def keep_for_ever(job: Job) -> None:
    """Let the brokers keep records whose timestamps are years ago."""
    kept = ConfigEntry("retention.ms", "-1", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, job.config.topics.events, incremental_configs=[kept])
    admin = AdminClient({"bootstrap.servers": job.bootstrap})
    for done in admin.incremental_alter_configs([resource]).values():
        done.result(30)


@pytest.mark.long
@pytest.mark.data
@pytest.mark.timeout(3000)
def test_thirty_nights_of_a_shop_are_reseeded_and_adopted(  # noqa: PLR0915  # one run, for it takes minutes
    servers: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = retail_path(os.environ)
    if path.name != WHOLE.name:
        pytest.skip(f"the whole retail data is not here: put it into {WHOLE.parent} beside the checkout, or name it in STREAMER_RETAIL")
    events = sorted(events_of(path), key=lambda event: int(event["occurred_at"]))
    file = declared(tmp_path, RETAIL_FEATURES)
    tree, declaration = yaml.safe_load(file.read_text()), load_declaration(file)
    history = tmp_path / "history"
    settings = {
        "STREAMER_HISTORY__URL": str(history),
        "STREAMER_MODEL__K": "5",
        "STREAMER_MODEL__FIRST_FIT__CUSTOMERS_MIN": "200",
        "STREAMER_MODEL__EPOCH_INTERVAL_S": "0.5s",
    }
    job = Job(servers.kafka_bootstrap, servers.redis_url, tmp_path, 4, settings, declaration=file).create()
    keep_for_ever(job)
    offline = Offline(job)
    begun = end_of(FIRST_NIGHT - timedelta(days=1))
    sent = [event for event in events if event["occurred_at"] < begun]
    send(job, sent)
    outcomes: list[dict[str, Any]] = []
    with job.worker("a"), job.worker("b"):
        with wiring.Watcher(job.config) as watcher:
            job.wait("the first model", lambda: watcher.settled(watcher.states(), least=1), 300.0)
        job.wait_done(300.0)
        once(job)
        offline.run("fetch", "--models", str(offline.models))
        for n in range(NIGHTS):
            began_s, day = time.monotonic(), FIRST_NIGHT + timedelta(days=n)
            today = [event for event in events if end_of(day) - DAY_MS <= event["occurred_at"] < end_of(day)]
            send(job, today)
            sent += today
            job.wait_done()
            once(job)
            first = () if n else ("--new-scale", "--force", "the stream's first model knew three weeks")
            told = offline.reseed(str(history), day, *first)
            opened = open_history(str(history))
            cutoff = opened.manifest().cutoff(end_of(day))
            reading = Reading(declaration)
            computed = compute(reading, opened.events(cutoff, columns=reading.columns), end_of(day))
            assert_equal_to_the_bit(computed.features.sort_index(), job.features(end_of(day)))
            outcome = {"day": str(day), "events": len(today), "refused": told["refused"], "causes": {}}
            if not told["refused"]:
                number = told["version"]["version"]
                offline.run("promote", str(number), "--models", str(offline.models))
                settled(job, number)
                assert {number} == judged_by(job).keys()
                version = offline.shelf.get(number).version
                outcome |= {"version": number, "relabelled": version.quality.get("relabelled"), "scale": version.provenance["scale"]}
                outcome["causes"] = dict(assert_causes(job, tree, sent, version))
                assert all(one.epoch > 0 for one in adoptions(job, number))
                assert wiring.check_all(job.config, lambda _: None).clean
            else:
                outcome["reasons"] = told["gate"]["reasons"]
            outcome["seconds"] = round(time.monotonic() - began_s, 1)
            outcomes.append(outcome)
            with capsys.disabled():
                print(json.dumps(outcome))  # noqa: T201  # figures for the documentation
    adopted = [one for one in outcomes if not one["refused"]]
    assert len(adopted) >= 0.9 * NIGHTS, outcomes
    causes = Counter(change["cause"] for change in job.changes())
    assert {"first_seen", "behaviour", "decay"} <= causes.keys()
    assert causes["model_reseed"] == sum(one["causes"].get("model_reseed", 0) for one in outcomes)
    with capsys.disabled():
        print(json.dumps(causes))  # noqa: T201  # figures for the documentation

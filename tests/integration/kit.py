"""Runs the whole job as its user does: topics of its own, worker processes, and what they left to compare."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from streamer.adapters.avro import codec, wire
from streamer.adapters.declaration_file import load as load_declaration
from streamer.adapters.kafka.client import retried
from streamer.adapters.kafka.events_producer import EventRecord
from streamer.app import wiring
from streamer.app.config import Config, load
from streamer.core.columns import read_only
from streamer.core.model import features_as_of
from streamer.core.partition import PartitionData, unpack_state
from streamer.core.plan import plan
from streamer.core.ports import Topic
from streamer.core.profile import CLOCK, PRESENT, unpack

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

TIMEOUT_S = 180.0
READ_TIMEOUT_S = 30.0


@dataclass
class Job:
    """One application on real servers: a name of its own for its topics and its keys."""

    bootstrap: str
    redis_url: str
    directory: Path
    partitions: int = 4
    settings: Mapping[str, str] = field(default_factory=dict)
    name: str = field(default_factory=lambda: f"job-{uuid.uuid4().hex[:8]}")
    declaration: Path | None = None
    input_of: str = ""  # another job, whose events, journal and models this one reads

    @property
    def environment(self) -> dict[str, str]:
        shared = {"events", "models", "journal"} if self.input_of else set()
        names = ("events", "changes", "models", "journal", "dead_letters")
        topics = {key: f"{self.input_of if key in shared else self.name}.{key}" for key in names}
        named = {f"STREAMER_TOPICS__{key.upper()}": value for key, value in topics.items()}
        declared = {} if self.declaration is None else {"STREAMER_FEATURES__DECLARATION": str(self.declaration)}
        own = {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "REDIS_URL": self.redis_url,
            "STREAMER_APP__NAME": self.name,
            "STREAMER_TOPICS__PARTITIONS": str(self.partitions),
            "STREAMER_KAFKA__CONSUMER__SESSION.TIMEOUT.MS": "6000",
        }
        return {**os.environ, **own, **named, **declared, **self.settings}

    @property
    def config(self) -> Config:
        file = self.settings.get("STREAMER_CONFIG")
        return load(None if file is None else Path(file), self.environment)

    def with_settings(self, **settings: str) -> Job:
        """The same job, set otherwise."""
        return replace(self, settings={**self.settings, **settings})

    def create(self) -> Job:
        """Make the topics."""
        wiring.ensure_topics(self.config)
        return self

    def send(self, events: Sequence[Mapping[str, Any]], schema_id: int = 1) -> None:
        """Send events, keyed by customer, in the order given."""
        self.send_raw((e["customer_id"].encode(), wire.framed(codec.encode("behaviour_event", e), schema_id)) for e in events)

    def send_raw(self, records: Iterable[tuple[bytes, bytes]]) -> None:
        """Send keys and values as they are."""
        producer = wiring.event_producer(self.config)
        producer.send(EventRecord(key, value) for key, value in records)
        producer.wait(60.0)
        producer.close()

    def forget(self, before: Sequence[int]) -> None:
        """Have Kafka delete the events of each partition before an offset."""
        admin: Any = AdminClient({"bootstrap.servers": self.bootstrap})
        asked = [TopicPartition(self.config.topics.events, partition, offset) for partition, offset in enumerate(before)]

        def delete(left_s: float) -> None:
            for deleted in admin.delete_records(asked, request_timeout=left_s, operation_timeout=left_s).values():
                deleted.result(left_s + 1)

        retried("deleting events", READ_TIMEOUT_S, delete)

    @contextmanager
    def worker(self, instance: str, *arguments: str, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run a worker process; it ends with the block."""
        process = self.start(instance, *arguments, **settings)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def start(self, instance: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start a worker process; the caller ends it."""
        return self._start("run", instance, arguments, settings)

    def archiver(self, instance: str, *arguments: str, **settings: str) -> subprocess.Popen[bytes]:
        """Start an archiver's process; the caller ends it."""
        return self._start("archive", instance, arguments, settings)

    def _start(self, command: str, instance: str, arguments: Sequence[str], settings: Mapping[str, str]) -> subprocess.Popen[bytes]:
        environment = {**self.environment, "STREAMER_APP__INSTANCE": f"{self.name}-{instance}", **settings}
        with (self.directory / f"{instance}.log").open("ab") as log:
            return subprocess.Popen([sys.executable, "-m", "streamer", command, *arguments], env=environment, stdout=log, stderr=log)

    def logs(self) -> str:
        """The ends of all workers' logs."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.directory.glob("*.log")))

    def wait(self, what: str, until: Any, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until something holds."""
        deadline_s = time.monotonic() + timeout_s
        while not until():
            if time.monotonic() > deadline_s:
                message = f"{what} did not come within {timeout_s} s\n{self.logs()}"
                raise TimeoutError(message)
            time.sleep(0.1)

    def wait_done(self, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until every event is in a profile and every sweep is over."""
        with wiring.Watcher(self.config) as watcher:
            ends = watcher.ends()

            def done() -> bool:
                states = watcher.states()
                return all(state.next_offset >= end for state, end in zip(states, ends, strict=True)) and watcher.settled(states)

            self.wait("the end of the events", done, timeout_s)

    def states(self) -> list[PartitionData]:
        """Every partition's state."""
        store = wiring.state_store(self.config)
        return [unpack_state(state.state) for state in store.read(range(self.partitions)) if state.commit_id]

    def profiles(self) -> dict[str, bytes]:
        """Every customer's packed profile."""
        found: dict[str, bytes] = {}
        for ids, values, _ in self._scan():
            found.update(zip(ids, values, strict=True))
        return found

    def features(self, as_of: int) -> pd.DataFrame:
        """Every customer's features as of a time, computed from the profiles in Redis."""
        declaration = load_declaration(self.declaration)
        planned = plan(declaration)
        frames = []
        for ids, _, packed in self._scan():
            work = unpack(planned, read_only(packed.values), packed.bounds, np.zeros(len(ids), np.int64))
            assert (work.found == PRESENT).all()
            names = [feature.name for feature in declaration.features]
            frames.append(pd.DataFrame(features_as_of(planned, work, as_of), index=ids, columns=names))
        found = pd.concat(frames)
        return found[~found.index.duplicated()].sort_index()

    def clocks(self) -> dict[str, int]:
        """As of when every customer was judged last."""
        planned = plan(load_declaration(self.declaration))
        found: dict[str, int] = {}
        for ids, _, packed in self._scan():
            work = unpack(planned, read_only(packed.values), packed.bounds, np.zeros(len(ids), np.int64))
            found.update(zip(ids, work.head[:, CLOCK].tolist(), strict=True))
        return found

    def _scan(self) -> Iterator[tuple[list[str], list[bytes], Any]]:
        store = wiring.state_store(self.config)
        for partition in range(self.partitions):
            cursor, first = 0, True
            while cursor or first:
                first = False
                cursor, packed = store.scan(partition, cursor, 1000)
                ids = [packed.ids[a:b].tobytes().decode() for a, b in zip(packed.id_bounds[:-1], packed.id_bounds[1:], strict=True)]
                values = [packed.values[a:b].tobytes() for a, b in zip(packed.bounds[:-1], packed.bounds[1:], strict=True)]
                if ids:
                    yield ids, values, packed

    def read(self, topic: Topic, name: str) -> list[dict[str, Any]]:
        """Everything on one of our topics, decoded, partition by partition."""
        reader = wiring.topic_reader(self.config)
        records = [r for partition in range(self.partitions) for r in reader.read(topic, partition, 0, READ_TIMEOUT_S)]
        return [codec.decode(name, r.value[wire.opening(r.value, r.headers).body :]) for r in records if r.value is not None]

    def changes(self) -> list[dict[str, Any]]:
        """Every segment change, in order within a partition."""
        return self.read(Topic.CHANGES, "segment_change")

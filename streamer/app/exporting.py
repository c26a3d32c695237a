"""Segments for SQL and BI: who is in which now, and what changed in a period.

Laws: a customer is in the table of membership once; what is committed while it is read may be in it or not. A change is in the table if it
is on the topic still, which keeps each customer's latest and, for as long as its compaction lag, all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamer.app.looking import data_of, partition_counts, readable, same_features
from streamer.app.walk import walk
from streamer.core.errors import Corrupt, Misconfigured
from streamer.core.model import NEW
from streamer.core.profile import ABSENT, CLOCK, EPOCH, FIRST_CODE, MODEL, NEVER, NEW_SEGMENT, NO_SEGMENT, PRESENT, SEGMENT, SINCE, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.app.looking import Log, Sources
    from streamer.app.walk import Met

CHUNK_OFFSETS = 5_000

MEMBERSHIP = {
    "customer_id": "text",
    "segment_id": "text",
    "segment_name": "text",
    "since": "time",
    "judged_as_of": "time",
    "change_version": "whole",
    "model_version": "whole",
    "epoch": "whole",
    "partition": "whole",
}
CHANGES = {
    "change_id": "text",
    "customer_id": "text",
    "version": "whole",
    "status": "text",
    "segment_id": "text",
    "segment_name": "text",
    "previous_segment_id": "text",
    "previous_since": "time",
    "cause": "text",
    "occurred_at": "time",
    "detected_at": "time",
    "model_version": "whole",
    "epoch": "whole",
    "feature_version": "text",
    "distance": "number",
    "margin": "number",
    "top_features": "features",
    "source_topic": "text",
    "source_partition": "whole",
    "source_offset": "whole",
    "origin": "text",
    "run_id": "text",
}


def membership(sources: Sources) -> Iterator[list[dict[str, Any]]]:
    """Give every customer's segment, some rows at a time; those that were never judged have none.

    Raises:
        Misconfigured: there is no topic of events, or profiles are of another feature version.
        Corrupt: a profile is damaged.

    """
    _, count = partition_counts(sources)
    if count is None:
        message = f"there is no topic {sources.place.events}: see `streamer status`"
        raise Misconfigured(message)
    names: dict[int, dict[int, str]] = {}
    for partition in range(count):
        same_features(data_of(partition, sources.store.read([partition])[0]), sources.declaration)
        for met in walk(sources.store, partition, sources.plan):
            yield _members(sources, partition, met, names)


def _members(sources: Sources, partition: int, met: Met, names: dict[int, dict[int, str]]) -> list[dict[str, Any]]:
    rows = []
    for u, customer in enumerate(met.ids):
        if not met.fresh[u] or met.work.found[u] == ABSENT:
            continue
        customer_id = customer.decode(errors="replace")
        if met.work.found[u] != PRESENT:
            message = f"the profile of customer {customer_id} in partition {partition} can't be read: run `streamer check`"
            raise Corrupt(message)
        head = met.work.head[u]
        code, model = int(head[SEGMENT]), int(head[MODEL])
        if model and model not in names:
            names[model] = {segment.number: segment.name for segment in sources.model(model).segments}
        number = code - FIRST_CODE
        none = code == NO_SEGMENT
        segment_id = None if none else NEW if code == NEW_SEGMENT else f"seg_{number:04d}"
        rows.append(
            {
                "customer_id": customer_id,
                "segment_id": segment_id,
                "segment_name": names.get(model, {}).get(number, segment_id),
                "since": None if none else _time(int(head[SINCE])),
                "judged_as_of": _time(int(head[CLOCK])),
                "change_version": int(head[VERSION]),
                "model_version": model,
                "epoch": int(head[EPOCH]),
                "partition": partition,
            }
        )
    return rows


def changes(tail: Log, topic: str, begin_ms: int, end_ms: int) -> Iterator[list[dict[str, Any]]]:
    """Give the changes that occurred from `begin_ms` to before `end_ms` (event time), by partition and in order, some at a time.

    Raises:
        Misconfigured: there is no such topic.
        Corrupt: a change can't be read.
        Unavailable: Kafka does not answer.

    """
    partitions = tail.partitions(topic)
    if partitions is None:
        message = f"there is no topic {topic}: `streamer run` makes it; see `streamer status`"
        raise Misconfigured(message)
    for partition in range(partitions):
        first, end = tail.bounds(topic, partition)
        for begin in range(first, end, CHUNK_OFFSETS):
            read = (readable(record) for record in tail.between(topic, partition, begin, min(begin + CHUNK_OFFSETS, end)))
            yield [_flat(change) for change in read if change is not None and begin_ms <= change["occurred_at"] < end_ms]


def _flat(change: dict[str, Any]) -> dict[str, Any]:
    source = change["source"]
    return {**change, "source_topic": source["topic"], "source_partition": source["partition"], "source_offset": source["offset"]}


def _time(time_ms: int) -> int | None:
    return None if abs(time_ms) >= -NEVER else time_ms

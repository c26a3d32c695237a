"""What an adopted version must have told of each customer, and why: from raw events by the oracle, and the version's own numbers.

Shares no code with the fold: features are the oracle's, and segments are chosen here, customer by customer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.app import journal, wiring
from streamer.core.model import votes
from streamer.core.partitioning import partition_of
from streamer.core.ports import Topic
from tests import oracle

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import I64
    from streamer.core.model import ModelVersion
    from tests.integration.kit import Job

DAY_MS = 86_400_000
READ_TIMEOUT_S = 30.0


class Adopted(NamedTuple):
    """Where and as of when a partition adopted a version, and as which epoch; `before` is as of when it adopted the one before."""

    offset: int
    as_of: int
    epoch: int
    before: int


def adoptions(job: Job, version: int) -> list[Adopted]:
    """Read, for each partition, its last adoption of a version."""
    reader, found = wiring.topic_reader(job.config), []
    for partition in range(job.partitions):
        entries = journal.read(reader.read(Topic.JOURNAL, partition, 0, READ_TIMEOUT_S))
        taken = [one for one in entries if one.kind == journal.VERSION]
        last = max(i for i, one in enumerate(taken) if one.model == version)
        found.append(Adopted(taken[last].at_offset, taken[last].as_of, taken[last].epoch, taken[last - 1].as_of if last else 0))
    reader.close()
    return found


def chosen(version: ModelVersion, squared: I64, was: str, stayed_ms: int) -> str:
    """Choose a customer's segment by margin and dwell, from squared distances to the active segments (k,)."""
    places = {segment.segment_id: k for k, segment in enumerate(version.active)}
    near, current, how = int(squared.argmin()), places.get(was), version.decision
    here, there = float(squared[near]), float(squared[current]) if current is not None else np.inf
    if current is None or current == near:
        return version.active[near].segment_id
    stays = here >= there or here > there * (1.0 - how.margin) ** 2
    stays |= stayed_ms < how.dwell_ms and here > there * (1.0 - how.margin_large) ** 2
    return was if stays else version.active[near].segment_id


def distances(version: ModelVersion, features: Any) -> dict[str, I64]:
    """Give customers' squared distances to a version's centroids, as features computed by the oracle have them."""
    vectors = votes(version.transforms, version.scaling, features.to_numpy(np.float64)).astype(np.int64)
    squared = ((vectors[:, None, :] * 256 - version.fixed_centroids()[None, :, :]) ** 2).sum(axis=2)
    return dict(zip(features.index, squared, strict=True))


def assert_causes(job: Job, tree: Mapping[str, Any], events: Sequence[Mapping[str, Any]], version: ModelVersion) -> Counter[str]:
    """Hold every change that the adoption of a version made to what raw events and the version say; count them by cause.

    `events` are all that were sent so far, in the order in which they were.
    """
    placed: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for event in events:
        placed[partition_of(event["customer_id"].encode(), job.partitions)].append(event)
    told: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for change in job.changes():
        told[change["customer_id"]].append(change)
    causes: Counter[str] = Counter()
    for partition, adopted in enumerate(adoptions(job, version.version)):
        frame = oracle.frame(placed[partition][: adopted.offset])
        if not len(frame):
            continue
        last = frame.groupby("customer_id")["occurred_at"].max()
        judged = max(adopted.before, adopted.as_of // DAY_MS * DAY_MS)  # everybody, by the adoption before or at the last midnight
        clock = {str(customer): max(int(at), judged) for customer, at in last.items()}
        then = distances(version, oracle.features(frame, tree, clock))
        now = distances(version, oracle.features(frame, tree, adopted.as_of))
        eligible = oracle.eligible(frame, tree)
        for customer in now:
            earlier = [change for change in told[customer] if change["epoch"] < adopted.epoch]
            if not eligible[customer] or not earlier or earlier[-1]["segment_id"] == "new" or earlier[-1]["status"] == "exited":
                continue
            was, since = earlier[-1]["segment_id"], earlier[-1]["occurred_at"]
            wanted = chosen(version, now[customer], was, adopted.as_of - since)
            made = [
                c for c in told[customer] if (c["epoch"], c["occurred_at"]) == (adopted.epoch, adopted.as_of) and c["cause"] != "behaviour"
            ]
            if wanted == was:
                assert not made, (customer, made)
                continue
            assert [wanted] == [change["segment_id"] for change in made], (customer, was, made)
            gone = was not in {segment.segment_id for segment in version.active}
            alone = gone or chosen(version, then[customer], was, clock[customer] - since) == wanted
            assert ("model_reseed" if alone else "decay") == made[0]["cause"], (customer, was, made[0])
            causes[made[0]["cause"]] += 1
    return causes

"""Publishing: versions on the topic of models, and which of them is to be in force.

Laws: a version and its promotion are one transaction. Who publishes takes the topic's transactional id first and reads the topic after, so
of two at once one sees what the other wrote, and the other is refused and looks again: twice or at once comes to the same. A version's
bytes on the topic never change.

The order of work: 1. take the id, which ends what another one has under way; 2. read the topic to its end; 3. decide, from what was read
alone; 4. write, or find that nothing is left to be done. What is refused in 4 begins again at 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamer.adapters.avro.codec import BodyRefused
from streamer.adapters.avro.model_records import OnTopic, Promotion, decoded, on_topic, promotion_record, version_record
from streamer.core.errors import Corrupt, Misconfigured, Unavailable
from streamer.core.model import ModelVersion, digest, unfit
from streamer.core.ports import ClientFailed, MustAbort, Topic, Unclear

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from streamer.adapters.avro.wire import SchemaId
    from streamer.core.declaration import Declaration
    from streamer.core.ports import OutRecord, TopicReader, Transactions

ATTEMPTS_MAX = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be in force, and why: `forced` where the gate refused it, `back` where it is an older version again."""

    version: ModelVersion
    body: bytes
    reason: str = ""
    forced: bool = False
    back: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """What is in force by the topic now, what was before (None: the stream's own first model, or nothing), and whether that was new."""

    promotion: Promotion
    before: Promotion | None
    changed: bool


@dataclass(frozen=True, slots=True)
class ModelTopic:
    """The topic of one model's versions."""

    name: str
    transactions: Transactions
    reader: TopicReader
    partitions: int
    schema_id: SchemaId
    timeout_s: float

    def read(self) -> OnTopic:
        """Read all that is on it.

        Raises:
            Unavailable: not within the time-out.
            Corrupt: the promotion can't be read.

        """
        return read_topic(self.reader, self.name, self.partitions, self.timeout_s)

    def publish(self, wish: Callable[[OnTopic], Wish | None], declaration: Declaration, at: int) -> Published:
        """Publish what `wish` makes of what is on the topic; None leaves it as it is.

        Raises:
            Misconfigured: the version can't be published; the message says what to do.
            Unavailable: Kafka does not answer, or others publish all the while.

        """
        refused: Exception | None = None
        for _ in range(ATTEMPTS_MAX):
            try:
                self.transactions.settle(self.timeout_s)  # 1
                present = self.read()  # 2
                wanted = wish(present)
                records, published = decided(self.name, wanted, present, declaration, self.schema_id, at)  # 3
                if records:
                    self.transactions.begin()  # 4
                    self.transactions.send(records)
                    self.transactions.commit(self.timeout_s)
            except (MustAbort, ClientFailed, Unclear) as error:  # what became of it is read the next time
                refused = error
                self.transactions.abort(self.timeout_s)
            else:
                return published
        message = f"{self.name} could not be published in {ATTEMPTS_MAX} attempts: {refused}"
        raise Unavailable(message) from refused


def read_topic(reader: TopicReader, name: str, partitions: int, timeout_s: float) -> OnTopic:
    """Read all that is on the topic of models of one of them.

    Raises:
        Unavailable: not within the time-out.
        Corrupt: the promotion can't be read.

    """
    found = [record for p in range(partitions) for record in reader.read(Topic.MODELS, p, 0, timeout_s)]
    try:
        return on_topic(name, found)
    except (BodyRefused, ValueError) as error:
        message = f"what is promoted on the topic of models can't be read: {error}: look with the release that wrote it"
        raise Corrupt(message) from error


def decided(
    name: str, wish: Wish | None, present: OnTopic, declaration: Declaration, schema_id: SchemaId, at: int
) -> tuple[Sequence[OutRecord], Published]:
    """Decide what to write, nothing where it is so already.

    Raises:
        Misconfigured: the version can't be published; the message says what to do.

    """
    before = present.promotion
    if wish is None:
        if before is None:
            message = f"nothing of {name} was promoted yet, so there is nothing to go back from"
            raise Misconfigured(message)
        return (), Published(before, before, changed=False)
    version = wish.version
    there = present.bodies.get(version.version)
    if there is not None and there != wish.body:
        message = (
            f"version {version.version} of {name} on the topic of models has the SHA-256 {digest(there).hex()[:12]}, and the one to be "
            f"promoted {digest(wish.body).hex()[:12]}: it was not fitted upon what is in force. Take what is on the topic with "
            "`offline models fetch`, then re-seed again"
        )
        raise Misconfigured(message)
    fault = unfit(version, declaration) or _of_another_stream(name, version, present)
    if fault is not None:
        raise Misconfigured(fault)
    running = in_force(present)
    promotion = Promotion(version, wish.body, wish.reason, wish.forced, at, running.version if running is not None else 0, wish.back)
    if there is not None and before is not None and before.body == wish.body:
        return (), Published(before, before, changed=False)
    records = [] if there is not None else [version_record(version, wish.body, schema_id)]
    return (*records, promotion_record(promotion, schema_id)), Published(promotion, before, changed=True)


def in_force(present: OnTopic) -> ModelVersion | None:
    """Give the version that the stream judges by, or will: what is promoted, else the one there is, of its own first model."""
    body = body_in_force(present)
    return None if body is None else decoded(body)


def body_in_force(present: OnTopic) -> bytes | None:
    """Give its body."""
    if present.promotion is not None:
        return present.promotion.body
    return present.bodies[min(present.bodies)] if present.bodies else None


def _of_another_stream(name: str, version: ModelVersion, present: OnTopic) -> str | None:
    """Say that the stream runs by another declaration than a version's, if it does."""
    running = in_force(present)
    if running is None or running.feature_version == version.feature_version:
        return None
    return (
        f"version {version.version} of {name} is of feature version {version.feature_version}, and the stream runs by "
        f"{running.feature_version} (version {running.version} is in force): re-seed with the stream's declaration (`--features`)"
    )


def back(present: OnTopic, to: int | None, reason: str, kept: Callable[[int], bytes]) -> Wish | None:
    """Choose the version to go back to: `to`, else the one that was in force before; None where that has been done already.

    `kept` finds the body of a version that is not on the topic.

    Raises:
        Misconfigured: there is none.

    """
    promotion = present.promotion
    if to is None:
        if promotion is None or promotion.back:
            return None
        to = promotion.before or promotion.version.previous_version
        if not to:
            message = f"version {promotion.version.version} is the first of {promotion.version.name}: there is none to go back to"
            raise Misconfigured(message)
    body = present.bodies.get(to)
    if body is None:
        body = kept(to)
    return Wish(decoded(body), body, reason, back=True)

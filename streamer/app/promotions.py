"""Which model version a person has promoted: the latest such record on the topic of models, read on from where it was read to.

Laws: what is promoted is a wish, not a decision: partition 0's owner adopts it between two commits, and its journal says where. A promotion
that can't be judged by changes nothing, is told once, and stops nobody.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from streamer.adapters.avro import codec
from streamer.adapters.avro.model_records import promoted_key, promotion_of
from streamer.core.errors import Unavailable
from streamer.core.model import unfit
from streamer.core.ports import Topic

if TYPE_CHECKING:
    from streamer.adapters.avro.model_records import Promotion
    from streamer.core.declaration import Declaration
    from streamer.core.ports import LogRecord, TopicReader

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 1.0
"""Live events wait meanwhile; what can't be read now is read the next time."""


class Promotions:
    """Looks for promotions of one model."""

    def __init__(self, reader: TopicReader, name: str, declaration: Declaration, partitions: int = 1) -> None:
        """Look in the `partitions` of the topic of models, for versions of the model `name` that `declaration` can be judged by."""
        self._reader = reader
        self._declaration = declaration
        self._key = promoted_key(name)
        self._next = [0] * partitions
        self._latest: Promotion | None = None
        self.asked: int | None = None
        """The number of the version that is promoted, usable or not; 0 where that can't be read, None where there is none."""

    def latest(self) -> Promotion | None:
        """Give the version that is to be in force; None where nobody promoted one, or the last one can't be used."""
        for partition in range(len(self._next)):
            try:
                self._read_on(partition)
            except Unavailable as error:
                log.warning("promotions can't be read now: %s", error)
        return self._latest

    def _read_on(self, partition: int) -> None:
        first, end = self._reader.bounds(Topic.MODELS, partition)
        if end < self._next[partition]:  # the topic was made anew
            self._next[partition] = first
        if end <= self._next[partition]:
            return
        records = self._reader.read(Topic.MODELS, partition, self._next[partition], READ_TIMEOUT_S, end)
        found = [record for record in records if record.key == self._key]
        if found:
            self._latest = self._usable(found[-1])
        self._next[partition] = end

    def _usable(self, record: LogRecord) -> Promotion | None:
        try:
            promotion = promotion_of(record)
            self.asked = None if promotion is None else promotion.version.version
        except (codec.BodyRefused, ValueError) as error:
            self.asked = 0
            message = "the promotion at offset %d of the models' topic can't be read, and changes nothing: %s"
            log.error(message, record.offset, error)  # noqa: TRY400  # the message says it all
            return None
        if promotion is not None and (fault := unfit(promotion.version, self._declaration)) is not None:
            log.error("version %d is promoted and can't be adopted: %s", promotion.version.version, fault)
            return None
        return promotion

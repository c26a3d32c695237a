"""Leading: what partition 0's owner does for all. It makes the first model, adopts what is promoted, adds votes up, and announces it.

Law: what is announced is published already, so what others go by can't be lost any more.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from streamer.adapters.avro.model_records import encoded, version_record
from streamer.app.models import ANNOUNCED, stored_name
from streamer.core.fold import FINER
from streamer.core.partition import Announcement, PartitionData, next_centroids, unpack_state

if TYPE_CHECKING:
    from streamer.app.assignment import Owned
    from streamer.app.decisions import Decisions
    from streamer.app.tools import Settings, Tools

log = logging.getLogger(__name__)

NO_DATA = PartitionData("")


class Leader:
    """Leads, for whoever holds partition 0; `owned` is always that partition, and no rebuild is under way in it."""

    def __init__(self, settings: Settings, tools: Tools, decisions: Decisions) -> None:
        """Adopt by `decisions`, as every partition does."""
        self._settings = settings
        self._tools = tools
        self._decisions = decisions

    def lead(self, owned: Owned) -> None:
        """Adopt what is promoted, or add the partitions' votes up to the next epoch."""
        if not self._announce(owned) or self._settings.follow or not self._decisions.holds(owned) or self._promoted(owned):
            return
        numbers = range(self._settings.partitions)
        parts = [unpack_state(state.state) if state.commit_id else NO_DATA for state in self._tools.store.read(numbers)]
        learned = [part.learned for part in parts if part.learned is not None]
        if owned.data.centroids is None or any(p.model != owned.data.model or p.rebuilding or not p.swept for p in parts):
            return
        centroids = next_centroids(owned.data.centroids, learned, FINER)
        if np.array_equal(centroids, owned.data.centroids):
            return
        self._decisions.adopt_epoch(owned, owned.data.adopted + 1, centroids)
        self._announce(owned)

    def lead_first(self, owned: Owned) -> None:
        """Adopt what is promoted, or make the first model."""
        first_model = self._tools.first_model
        if self._settings.follow or self._tools.store.announced(ANNOUNCED) is not None or self._promoted(owned) or first_model is None:
            return
        version = first_model.fit(self._tools.store, self._settings.partitions, self._tools.clock.now_ms())
        if version is None:
            return
        body = encoded(version)
        self._tools.shelf.put(version, body, published=False)
        also = [version_record(version, body, self._settings.models_schema)]
        self._decisions.adopt_version(owned, version, owned.data.adopted + 1, {stored_name(version.version): body}, also)
        self._announce(owned)

    def _promoted(self, owned: Owned) -> bool:
        """Adopt the version that is promoted; False where it is adopted already, or there is none.

        It may be an older one. It waits until everybody is judged by the present one.
        """
        promotions = self._tools.promotions
        promotion = None if promotions is None else promotions.latest()
        self._tools.recorder.promoted(None if promotions is None else promotions.asked)
        if promotion is None or promotion.version.version == owned.data.model:
            return False
        if not owned.data.swept:
            return True
        number, shelf = promotion.version.version, self._tools.shelf
        if number in shelf.known and shelf.body(number) != promotion.body:
            log.error("version %d is promoted with other bytes than it had, and is not adopted: promote it under a new number", number)
            return False
        shelf.put(promotion.version, promotion.body)
        self._decisions.adopt_version(owned, promotion.version, owned.data.adopted + 1, {stored_name(number): promotion.body})
        self._announce(owned)
        return True

    def _announce(self, owned: Owned) -> bool:
        """Tell all partitions what partition 0 has adopted, if they have not been told; False where they were told of something later.

        It is in a commit of its own, which waits until the adoption is published.
        """
        data = owned.data
        packed = self._tools.store.announced(ANNOUNCED)
        said = None if packed is None else Announcement.unpack(packed)
        if said is not None and said.epoch >= data.adopted:
            return (said.model, said.epoch) == (data.model, data.epoch)
        if self._decisions.holds(owned) and data.centroids is not None:
            announcement = Announcement(data.model, data.epoch, data.first_epoch, data.centroids)
            announce = {stored_name(data.model): self._tools.shelf.body(data.model), ANNOUNCED: announcement.pack()}
            self._decisions.commit(owned, owned.next_commit(self._tools.clock.token()), data, announce=announce)
            if self._decisions.holds(owned):
                self._tools.shelf.published(data.model)
        return True

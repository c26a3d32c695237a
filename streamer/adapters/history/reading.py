"""History, read: by one manifest, within a bounded memory.

Law: for one cut-off the rows and their order are the same, whatever was put together anew in between; a record that the journal says was
passed over unread (`quarantine`) is left out.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from streamer.adapters.history import manifest as manifests
from streamer.adapters.history.manifest import FOLDER, Entry, Kind, Manifest, PartitionManifest, path_of
from streamer.adapters.history.store import Store, open_store
from streamer.adapters.history.tables import (
    EVENTS,
    GROUP_ROWS,
    Batch,
    JournalRecord,
    journal_records,
    offsets_of,
    plain_times,
    read_parquet,
    rows_of,
    timestamps_of,
)
from streamer.core.errors import Corrupt, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from streamer.core.columns import I64

HASHED_BYTES = 1 << 20


class NoHistory(Misconfigured):
    """There is no history, or none of the partitions that were asked for."""


def open_history(url: str, partitions: Sequence[int] | None = None) -> History:
    """Open a history as it is now.

    Args:
        url: a local path, or a URL of an object store (`store.open_store` says which).
        partitions: which partitions; None for all.

    Raises:
        NoHistory: there is none.
        Misconfigured: no client knows the URL.
        Unavailable: the store does not answer.
        Corrupt: a manifest is not what this program writes.

    """
    return History(open_store(url), partitions)


def load(store: Store, partitions: Sequence[int] | None = None) -> tuple[dict[int, PartitionManifest], dict[int, PartitionManifest]]:
    """Read partitions' manifests, None for all: of events, and of the journal."""
    if partitions is None:
        paths = [stored.path for stored in store.files(FOLDER) if stored.path.endswith(".json")]
    else:
        paths = [path_of(kind, partition) for kind in Kind for partition in partitions]
    found: dict[Kind, dict[int, PartitionManifest]] = {kind: {} for kind in Kind}
    for path in paths:
        data = store.read(path)
        if data is not None:
            one = manifests.read(data, f"{store.place}/{path}")
            found[one.kind][one.partition] = one
    return found[Kind.EVENTS], found[Kind.JOURNAL]


class History:
    """All that was archived when it was opened. It can be read by several threads, and pickled to other processes as its URL."""

    def __init__(self, store: Store, partitions: Sequence[int] | None = None) -> None:
        """Read the manifests of some partitions, or all."""
        self._store = store
        events, journal = load(store, partitions)
        if not events:
            message = f"there is no history at {store.place}: `streamer archive` writes it; see `history.url`"
            raise NoHistory(message)
        self._manifest = manifests.whole(events, journal, self._first_at)

    def manifest(self) -> Manifest:
        """Give the manifest by which everything is read."""
        return self._manifest

    def events(
        self,
        cutoff: Mapping[int, int],
        columns: Sequence[str] | None = None,
        batch_rows: int = GROUP_ROWS,
        *,
        first: Mapping[int, int] | None = None,
    ) -> Iterator[Batch]:
        """Read the events before a cut-off, in the order of (partition, offset).

        Args:
            cutoff: of each partition that is to be read, the first offset that is not.
            columns: which columns, in which order; None for all. Of: partition, offset, kafka_timestamp, event_id, customer_id,
                event_type, occurred_at, amount, currency, quantity, product_id, category, session_id, properties. Times are 64-bit
                milliseconds since 1970, `properties` is a map of strings.
            batch_rows: the most rows of a batch.
            first: of a partition, the first offset that is wanted; all from the beginning where it says nothing.

        Yields:
            `pyarrow.RecordBatch`es, none of them empty.

        Raises:
            BadInput: history does not reach the cut-off.
            ValueError: there is no such column.
            Corrupt: a file is missing or not the one that the manifest names.
            Unavailable: the store does not answer.

        """
        wanted = list(EVENTS.names if columns is None else columns)
        unknown = [name for name in wanted if name not in EVENTS.names]
        if unknown:
            message = f"events have no column {', '.join(unknown)}"
            raise ValueError(message)
        self._manifest.check(cutoff)
        for partition in sorted(cutoff):
            passed_over, begin = self._passed_over(partition), (first or {}).get(partition, 0)
            for entry in self._manifest.events[partition].entries:
                if entry.first < cutoff[partition] and entry.end > begin and entry.rows:
                    yield from self._rows(entry, wanted, batch_rows, (begin, cutoff[partition]), passed_over)

    def journal(self, partition: int) -> list[JournalRecord]:
        """Read a partition's journal, in the order in which it was written."""
        found = self._manifest.journal.get(partition)
        entries = () if found is None else found.entries
        return [record for e in entries if e.rows for b in self._read(e, None, GROUP_ROWS) for record in journal_records(plain_times(b))]

    def verify(self, progress: Callable[[int], None] = lambda _: None) -> None:
        """Read every byte and compare it with the manifest; `progress` is told of bytes read.

        Raises:
            Corrupt: names the first file that differs.

        """
        for found in (self._manifest.events, self._manifest.journal):
            for entry in (entry for partition in sorted(found) for entry in found[partition].entries if entry.path):
                hashed = hashlib.sha256()
                with self._open(entry) as source:
                    while data := source.read(HASHED_BYTES):
                        hashed.update(data)
                        progress(len(data))
                if hashed.hexdigest() != entry.sha256:
                    message = f"{self._store.place}/{entry.path} is not what was written: put back a copy of it"
                    raise Corrupt(message)

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as the store and the manifests, so that what is read elsewhere is the same."""
        return _reopened, (self._store.url, self._manifest.events, self._manifest.journal)

    def _passed_over(self, partition: int) -> I64:
        found = self._manifest.journal.get(partition)
        return np.array(sorted({offset for entry in (found.entries if found else ()) for offset in entry.quarantined}), np.int64)

    def _rows(self, entry: Entry, wanted: list[str], batch_rows: int, within: tuple[int, int], passed_over: I64) -> Iterator[Batch]:
        """Read a file's wanted rows; offsets are read besides where some rows are not wanted."""
        begin, end = within
        some = entry.first < begin or entry.end > end or bool(((passed_over >= entry.first) & (passed_over < entry.end)).any())
        asked = [*wanted, *(["offset"] if some and "offset" not in wanted else [])]
        for batch in self._read(entry, asked, batch_rows):
            kept = batch
            if some:
                offset = offsets_of(batch)
                rows = np.flatnonzero((offset >= begin) & (offset < end) & ~np.isin(offset, passed_over))
                kept = batch if len(rows) == len(offset) else rows_of(batch, rows)
            if kept.num_rows:
                yield plain_times(kept.select(wanted))

    def _first_at(self, entry: Entry, as_of_ms: int) -> int:
        for batch in self._read(entry, ["offset", "kafka_timestamp"], GROUP_ROWS):
            rows = np.flatnonzero(timestamps_of(batch) >= as_of_ms)
            if len(rows):
                return int(offsets_of(batch)[rows[0]])
        return entry.end  # it was erased

    def _read(self, entry: Entry, columns: list[str] | None, batch_rows: int) -> Iterator[Batch]:
        try:
            yield from read_parquet(self._open(entry), columns, batch_rows)
        except (pa.ArrowInvalid, OSError) as error:
            message = f"{self._store.place}/{entry.path} can't be read: {error}"
            raise (Corrupt if isinstance(error, pa.ArrowInvalid) else Unavailable)(message) from error

    def _open(self, entry: Entry) -> Any:  # noqa: ANN401  # Arrow has no types
        try:
            source = self._store.open(entry.path)
        except FileNotFoundError as error:
            message = (
                f"{self._store.place}/{entry.path} is gone: history was put together anew or a customer was erased meanwhile; begin again"
            )
            raise Corrupt(message) from error
        if source.size() != entry.size_bytes:
            message = f"{self._store.place}/{entry.path} has {source.size()} bytes, not {entry.size_bytes}: put back a copy of it"
            raise Corrupt(message)
        return source


def _reopened(url: str, events: dict[int, PartitionManifest], journal: dict[int, PartitionManifest]) -> History:
    found = History.__new__(History)
    found._store = open_store(url)  # noqa: SLF001  # the class's own
    found._manifest = manifests.whole(events, journal, found._first_at)  # noqa: SLF001
    return found

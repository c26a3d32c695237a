"""History: events and the journal as Parquet files, and the manifest that names them (docs/history.md)."""

from streamer.adapters.history.manifest import Entry, Kind, Manifest, PartitionManifest
from streamer.adapters.history.reading import History, NoHistory, open_history
from streamer.adapters.history.store import open_store
from streamer.adapters.history.tables import (
    ERASE,
    EVENTS,
    INTO,
    MERGE,
    MERGED,
    Batch,
    JournalRecord,
    erased_in,
    event_rows,
    hops_in,
    joined_rows,
    journal_rows,
)
from streamer.adapters.history.writing import HistoryWriter, Limits, day_of

__all__ = [
    "ERASE",
    "EVENTS",
    "INTO",
    "MERGE",
    "MERGED",
    "Batch",
    "Entry",
    "History",
    "HistoryWriter",
    "JournalRecord",
    "Kind",
    "Limits",
    "Manifest",
    "NoHistory",
    "PartitionManifest",
    "day_of",
    "erased_in",
    "event_rows",
    "hops_in",
    "joined_rows",
    "journal_rows",
    "open_history",
    "open_store",
]

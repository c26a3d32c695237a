"""One file of events or orders, read through a mapping as `streamer ingest` reads it, into batches as the history has them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from offline.events import batch_of
from streamer.adapters import declaration_file
from streamer.adapters.files import mapping as m
from streamer.adapters.files.load import load
from streamer.adapters.files.mappings import load_mapping
from streamer.adapters.files.rejects import nothing_usable
from streamer.adapters.files.tables import read_table
from streamer.adapters.files.values import TimeRule, text_of
from streamer.core.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pyarrow as pa

    from streamer.adapters.files.load import Loaded
    from streamer.adapters.files.tables import Chunk
    from streamer.core.declaration import Declaration

EVENT_COLUMNS = frozenset({"customer_id", "event_type", "occurred_at"})
BATCH_EVENTS = 65_536
SECONDS_BELOW = 10**11  # a smaller time is in seconds, any other in milliseconds


@dataclass(frozen=True, slots=True)
class FileEvents:
    """A file's events in the order of their time, and by which declaration they are to be read."""

    batches: tuple[pa.RecordBatch, ...]
    declaration: Declaration
    last_ms: int  # of the last event
    warnings: tuple[str, ...]


def has_events(file: Path) -> bool:
    """Tell whether a file's own columns are those of our events."""
    return set(next(iter(read_table(file))).columns) >= EVENT_COLUMNS


def read_events(file: Path, mapping: str | None, declaration: Path | None) -> FileEvents:
    """Read a file by a mapping, or by its own columns; without a declaration, by the packaged one in the file's own currency.

    Raises:
        BadInput: the file can't be read or used, with what to mend.
        Misconfigured: the mapping or the declaration is wrong.

    """
    chosen = load_mapping(mapping) if mapping is not None else _own_mapping(next(iter(read_table(file))))
    loaded = load(file, chosen)
    if not len(loaded.events):
        message = f"{file}: {nothing_usable(loaded)}"
        raise BadInput(message)
    features = declaration_file.load(declaration)
    if declaration is None:
        features = replace(features, currency=_currency(file, loaded, features.currency))
    warnings = tuple(f"{count:,} rows were rejected: {reason}" for reason, count in loaded.totals.rejected.items())
    return FileEvents(tuple(_batches(loaded)), features, int(loaded.events.occurred_at[-1]), warnings)


def _batches(loaded: Loaded) -> list[pa.RecordBatch]:
    records = loaded.events.records()
    found, at = [], 0
    while piece := list(islice(records, BATCH_EVENTS)):
        try:
            found.append(batch_of(piece, 0, at))
        except UnicodeEncodeError as error:
            message = f"a text can't be written as UTF-8: {error.object!r}: mend it, or skip such rows in the mapping"
            raise BadInput(message) from error
        at += len(piece)
    return found


def _currency(file: Path, loaded: Loaded, default: str) -> str:
    """Take the file's own currency where there is one."""
    found = sorted({currency for _, currency in loaded.totals.amounts if currency})
    if len(found) > 1:
        message = f"{file}: it has amounts in {', '.join(found)}: say with --features what is to become of them"
        raise BadInput(message)
    return found[0] if found else default


def _own_mapping(chunk: Chunk) -> m.Mapping:
    """Map a file whose columns are those of our events onto themselves; amounts are in minor units."""
    names = chunk.columns
    texts: list[tuple[str, m.Text]] = [(name, m.FromColumn(name)) for name in m.TEXT_FIELDS if name in names]
    texts += [(name, m.FromColumn(name)) for name in names if name.startswith(m.PROPERTY)]
    times: Sequence[Any] = names["occurred_at"].values
    unit = None
    if times and text_of(times[0]).lstrip("-").isdigit():
        unit = "s" if int(text_of(times[0])) < SECONDS_BELOW else "ms"
    own: m.Text = m.FromColumn("event_id") if "event_id" in names else m.Joined(("customer_id", "event_type"), row=True)
    return m.Mapping(
        "events",
        own,
        m.Time("occurred_at", TimeRule(ZoneInfo("UTC"), None, unit)),
        tuple(texts),
        amount=m.Amount(("amount",), 0) if "amount" in names else None,
        quantity=m.Quantity("quantity") if "quantity" in names else None,
    )

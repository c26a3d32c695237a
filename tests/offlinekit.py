"""Events laid out as the history gives them, for tests of the nightly job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offline.events import batch_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa


def batches(events: Sequence[Mapping[str, Any]], size: int = 1000) -> list[pa.RecordBatch]:
    """Lay events out in batches of up to `size`, in the order given."""
    return [batch_of(list(events[begin : begin + size]), 0, begin) for begin in range(0, max(len(events), 1), size)]

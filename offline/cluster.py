"""Buckets of customers computed on a Dask cluster.

Laws: every bucket is computed by the very function that computes it here (`offline.features.bucket`), which depends on its arguments alone,
and results are put together in the order of the buckets: so what comes out is equal to the byte. Workers need neither the history nor a
common file system: they are sent their buckets, a few at a time.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from offline.features import bucket
from offline.versions import code_version
from streamer.core.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from offline.events import Reading
    from offline.features import Computed

CONNECT_S_MAX = 30
AHEAD = 2  # buckets under way for each thread of the cluster


class Pool(Protocol):
    """Computes buckets elsewhere."""

    def computed(self, reading: Reading, pieces: Iterable[Iterable[pa.RecordBatch]], as_of: int) -> Iterator[Computed]:
        """Compute buckets, in their order."""


class Cluster:
    """A Dask cluster, as a `Pool`."""

    def __init__(self, client: Any) -> None:  # noqa: ANN401  # Dask has no types
        """Compute by a client of `distributed`."""
        self._client = client

    def computed(self, reading: Reading, pieces: Iterable[Iterable[pa.RecordBatch]], as_of: int) -> Iterator[Computed]:
        """Compute buckets, in their order; only a few are under way at once, so memory stays bounded here and there.

        Raises:
            Misconfigured: the cluster runs other code than this process.
            Unavailable: the cluster has lost its workers, or its scheduler.

        """
        from distributed.client import FutureCancelledError  # noqa: PLC0415  # an optional extra
        from distributed.scheduler import KilledWorker  # noqa: PLC0415

        try:
            threads = self._same_code()
            waiting: deque[Any] = deque()
            for piece in pieces:
                waiting.append(self._client.submit(bucket_of, reading, self._sent(piece), as_of, pure=False))
                if len(waiting) >= AHEAD * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except (OSError, TimeoutError, FutureCancelledError, KilledWorker) as error:
            message = f"the Dask cluster could not compute the features: {error}: see its scheduler's and workers' logs"
            raise Unavailable(message) from error

    def _sent(self, piece: Iterable[pa.RecordBatch]) -> Any:  # noqa: ANN401
        return self._client.scatter(packed(piece), hash=False)

    def _same_code(self) -> int:
        """See that all workers run this very code; gives how many threads they have."""
        workers: dict[str, int] = self._client.nthreads()
        if not workers:
            message = "the Dask cluster has no workers: start some"
            raise Unavailable(message)
        ours = code_version()
        others = [where for where, code in self._client.run(code_version).items() if code != ours]
        if others:
            message = (
                f"workers of the Dask cluster run another release of this program ({', '.join(sorted(others))}): install this one there"
            )
            raise Misconfigured(message)
        return sum(workers.values())


@contextmanager
def cluster(address: str) -> Iterator[Cluster]:
    """Connect to a Dask scheduler for the length of the block.

    Raises:
        Misconfigured: the extra `dask` is not installed.
        Unavailable: no scheduler answers there.

    """
    try:
        from distributed import Client  # noqa: PLC0415
    except ImportError as error:
        message = "--scheduler needs the extra `dask`: pip install 'segment-streamer[dask]'"
        raise Misconfigured(message) from error
    try:
        client: Any = Client(address, timeout=CONNECT_S_MAX, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        message = f"no Dask scheduler answers at {address}: {error}"
        raise Unavailable(message) from error
    try:
        yield Cluster(client)
    finally:
        client.close()


def packed(piece: Iterable[pa.RecordBatch]) -> bytes:
    """Write batches in Arrow's stream format; no batches are no bytes."""
    sink, writer = pa.BufferOutputStream(), None
    for batch in piece:
        if writer is None:
            writer = pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="lz4"))
        writer.write_batch(batch)
    if writer is None:
        return b""
    writer.close()
    return bytes(sink.getvalue())


def bucket_of(reading: Reading, data: bytes, as_of: int) -> Computed:
    """Compute a bucket that `packed` wrote."""
    if not data:
        return bucket(reading, [], as_of)
    with pa.ipc.open_stream(pa.py_buffer(data)) as batches:
        return bucket(reading, batches, as_of)

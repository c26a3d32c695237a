"""What a partition's owner knows of it beside the profiles: clock, adopted model, sums, sweep; packed into one string with each commit.

Laws: `unpack_state(pack_state(x))` equals x, but for the hashes of who was erased and the table of who was merged, which change seldom and
are kept beside it. Sums belong to the adopted version alone: adopting a version begins them at nothing.
Nothing is adopted, neither an epoch nor the next version, before everybody is judged by the present version and as of the last boundary of
time (`swept`): else it would show which customers had been swept by then.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from streamer.core.erasure import NOBODY
from streamer.core.fold import Judge, Sums
from streamer.core.hashing import xxh64
from streamer.core.merging import NO_REDIRECTS
from streamer.core.profile import DAY_MS, HOUR_MS, NEVER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import I64, U64
    from streamer.core.declaration import Declaration
    from streamer.core.merging import Redirects
    from streamer.core.model import ModelVersion

LAYOUT = 1
BEGINS = "0"  # the cursor of a sweep, or of another walk, when it begins
DONE = "done"  # and when it is over
PASSED_OVER_KEPT = 64
"""Each of them has ended several processes, so these go back far."""


@dataclass(frozen=True, slots=True)
class Learned:
    """The votes of a partition for the `k` segments and `f` features of its version."""

    count: I64  # (k,)
    total: I64  # (k, f)
    square: I64  # (k, f)
    members: I64  # (k + 1,) customers by published segment, `new` last

    @classmethod
    def nothing(cls, k: int, f: int) -> Learned:
        """Begin with no votes."""
        return cls(np.zeros(k, np.int64), np.zeros((k, f), np.int64), np.zeros((k, f), np.int64), np.zeros(k + 1, np.int64))


@dataclass(frozen=True, slots=True)
class PartitionData:
    """One partition's own knowledge. `model` is 0 before the first version; then `centroids` (k, f) are those of the adopted epoch.

    `k` counts the version's segments that are not retired, in their order. Epochs are numbered on from version to version, so that a number
    names one set of centroids for ever, also where an older version is adopted again.
    """

    feature_version: str
    watermark: int = NEVER
    began: int = -NEVER  # the earliest event time
    model: int = 0
    epoch: int = 0
    first_epoch: int = 0  # the one that the version began with: the centroids of its fit
    as_of: int = NEVER
    at_offset: int = 0
    cursor: str = DONE  # of the sweep
    sweeping_to: int = NEVER  # as of when, at least, the sweep leaves everybody judged
    settled: int = NEVER  # as of when, at least, everybody is judged
    ticked: int = NEVER  # what the wall clock moved the watermark to last
    rebuilding: bool = False  # it is behind what was published
    passed_over: tuple[int, ...] = ()  # the offsets of the latest quarantined records, at most PASSED_OVER_KEPT
    strays: bool = False  # some customers whom a rebuild did not find again have still to be told that they left
    reconcile: str = ""  # the latest request to tell everybody's segment again
    reconcile_cursor: str = DONE  # of the walk for it
    reconciled: int = 0  # profiles it has come by so far
    scrub: bool = False  # the outbox names customers who were erased, or may: another commit must follow
    erased_key: str = ""  # the name of the key that `erased` was made with; "" where nobody was erased
    erased_digest: str = ""  # of `erased`
    erased: U64 = field(default_factory=lambda: NOBODY)  # the keyed hashes of who was erased and is refused, in order
    redirects_digest: str = ""  # of `redirects`
    redirects: Redirects = NO_REDIRECTS  # whose events are sent on, to whom
    centroids: I64 | None = None
    learned: Learned | None = None

    def erasing(self, key_name: str, erased: U64) -> PartitionData:
        """Take in who was erased so far: keyed hashes, in order."""
        if not len(erased):
            return replace(self, erased_key="", erased_digest="", erased=NOBODY)
        return replace(self, erased_key=key_name, erased_digest=digest(erased), erased=erased)

    def redirecting(self, redirects: Redirects) -> PartitionData:
        """Take in whose events are sent on."""
        return replace(self, redirects=redirects, redirects_digest=redirects.digest())

    @property
    def adopted(self) -> int:
        """Give the number of the epoch that was adopted last, of whatever version; -1 before the first."""
        return self.epoch if self.model else -1

    @property
    def reconciling(self) -> bool:
        """Tell whether a walk that tells everybody's segment again is under way."""
        return self.reconcile_cursor != DONE

    def passing(self, offsets: Sequence[int]) -> PartitionData:
        """Take in that the records at these offsets, which come after all that were, are passed over unread."""
        return replace(self, passed_over=(*self.passed_over, *offsets)[-PASSED_OVER_KEPT:]) if offsets else self

    @property
    def swept(self) -> bool:
        """Tell whether every customer has been judged by the adopted version, and as of the last boundary."""
        return self.cursor == DONE

    def went_on(self, hourly: bool, cursor: int | None = None) -> PartitionData:  # noqa: FBT001  # the declaration's
        """Take in that the watermark moved, and that a slice of a sweep left the `cursor`, 0 after the last.

        A boundary that the watermark crossed begins a sweep, once the one before is over. With `hourly`, boundaries are hours, else days.
        """
        now = self
        if cursor is not None:
            now = replace(now, cursor=str(cursor) if cursor else DONE, settled=now.settled if cursor else now.sweeping_to)
        tile_ms = HOUR_MS if hourly else DAY_MS
        if now.model and now.swept and now.watermark // tile_ms > now.settled // tile_ms:
            return replace(now, cursor=BEGINS, sweeping_to=now.watermark // tile_ms * tile_ms)
        return now


_PLAIN = tuple(name for name in PartitionData.__slots__ if name not in {"centroids", "learned", "erased", "redirects"})


def digest(erased: U64) -> str:
    """Tell sets of erased customers apart."""
    packed = np.frombuffer(pack_erased(erased), np.uint8)
    return f"{xxh64(packed, 0, len(packed)):016x}"


def pack_erased(erased: U64) -> bytes:
    """Pack keyed hashes: 64-bit little-endian integers, in order."""
    return erased.astype("<u8").tobytes()


def unpack_erased(packed: bytes) -> U64:
    """Unpack what `pack_erased` packed."""
    return np.frombuffer(packed, "<u8").astype(np.uint64)


def pack_state(data: PartitionData) -> bytes:
    """Pack: a layout byte, the length of a JSON header and the header, then the arrays as 64-bit little-endian integers."""
    arrays: list[I64] = []
    if data.centroids is not None and data.learned is not None:
        arrays = [data.centroids, data.learned.count, data.learned.total, data.learned.square, data.learned.members]
    shape = list(data.centroids.shape) if data.centroids is not None else [0, 0]
    header = json.dumps({**{name: getattr(data, name) for name in _PLAIN}, "shape": shape}, separators=(",", ":")).encode()
    return b"".join([bytes([LAYOUT]), len(header).to_bytes(4, "little"), header, *(array.astype("<i8").tobytes() for array in arrays)])


def unpack_state(packed: bytes) -> PartitionData:
    """Unpack; raises ValueError for another layout, and for what `pack_state` did not pack."""
    if packed[:1] != bytes([LAYOUT]):
        message = f"the partition's state has layout {packed[:1].hex() or 'none'}, this program reads {LAYOUT}"
        raise ValueError(message)
    end = 5 + int.from_bytes(packed[1:5], "little")
    header = json.loads(packed[5:end])
    k, f = header.pop("shape")
    header["passed_over"] = tuple(header["passed_over"])
    if not header["model"]:
        return PartitionData(**header)
    body = np.frombuffer(packed, "<i8", offset=end).astype(np.int64)
    if len(body) != 3 * k * f + 2 * k + 1:
        message = f"the partition's state has {len(body)} numbers where {k} segments and {f} features need {3 * k * f + 2 * k + 1}"
        raise ValueError(message)
    centroids, count, total, square, members = np.split(body, np.cumsum([k * f, k, k * f, k * f]))
    learned = Learned(count, total.reshape(k, f), square.reshape(k, f), members)
    return PartitionData(**header, centroids=centroids.reshape(k, f), learned=learned)


def adopt_version(data: PartitionData, version: ModelVersion, epoch: int, at_offset: int, as_of: int) -> PartitionData:
    """Adopt a version at an offset, as the epoch of that number: sums begin anew, and a sweep begins.

    Customers are judged as of `as_of`, or as of their clock if it is later.
    """
    centroids = version.fixed_centroids()
    return replace(
        data,
        model=version.version,
        epoch=epoch,
        first_epoch=epoch,
        as_of=as_of,
        at_offset=at_offset,
        cursor=BEGINS,
        sweeping_to=as_of,
        centroids=centroids,
        learned=Learned.nothing(*centroids.shape),
    )


def tick(data: PartitionData, as_of: int, *, hourly: bool) -> PartitionData:
    """Move an idle partition's watermark on to a boundary that has come due."""
    return replace(data, watermark=max(data.watermark, as_of), ticked=as_of).went_on(hourly)


def adopt_epoch(data: PartitionData, epoch: int, centroids: I64) -> PartitionData:
    """Adopt an epoch's centroids of the version that the partition has."""
    return replace(data, epoch=epoch, centroids=centroids)


def next_centroids(centroids: I64, parts: Sequence[Learned], finer: int) -> I64:
    """Move each centroid to the mean of all votes for it, rounded to the fixed point; one without votes stays where it is.

    `finer` is how many units of a centroid make one of a vote.
    """
    count = sum((part.count for part in parts), np.zeros(len(centroids), np.int64))
    total = sum((part.total for part in parts), np.zeros(centroids.shape, np.int64))
    voted = np.maximum(count, 1)[:, None]
    mean = (2 * finer * total + voted) // (2 * voted)  # rounds to nearest in whole numbers
    return np.where(count[:, None] > 0, mean, centroids)


def stack_judge(data: Sequence[PartitionData], versions: Mapping[int, ModelVersion], declaration: Declaration) -> Judge:
    """Lay out what `p` partitions judge by, side by side."""
    p = len(data)
    known = [versions[d.model] if d.model else None for d in data]
    k = max((len(v.active) for v in known if v), default=1)
    f = len(declaration.features)
    rules = max((len(v.eligibility) for v in known if v), default=0)
    lifetime = {m.name: i for i, m in enumerate(declaration.lifetimes)}
    judge = Judge(
        version=np.array([d.model for d in data], np.int64),
        epoch=np.array([d.epoch for d in data], np.int64),
        as_of=np.array([d.as_of for d in data], np.int64),
        at_offset=np.array([d.at_offset for d in data], np.int64),
        size=np.array([len(v.active) if v else 0 for v in known], np.int32),
        number=np.zeros((p, k), np.int64),
        centroid=np.zeros((p, k, f), np.int64),
        low=np.zeros((p, f)),
        high=np.zeros((p, f)),
        mean=np.zeros((p, f)),
        scale=np.ones((p, f)),
        weight=np.zeros((p, f)),
        eligible=np.full((p, rules, 2), (0, np.iinfo(np.int64).min), np.int64),  # where a version has fewer rules, one that always holds
        margin=np.zeros(p),
        margin_large=np.zeros(p),
        dwell_ms=np.zeros(p, np.int64),
        retention_ms=np.zeros(p, np.int64),
    )
    for i, (d, v) in enumerate(zip(data, known, strict=True)):
        if v is None or d.centroids is None:
            continue
        judge.number[i, : len(v.active)] = [segment.number for segment in v.active]
        judge.centroid[i, : len(v.active)] = d.centroids
        for name in ("low", "high", "mean", "scale", "weight"):
            getattr(judge, name)[i] = getattr(v.scaling, name)
        for e, (measure, least) in enumerate(v.eligibility):
            judge.eligible[i, e] = lifetime[measure], least
        judge.margin[i], judge.margin_large[i], judge.dwell_ms[i] = v.decision.margin, v.decision.margin_large, v.decision.dwell_ms
        judge.retention_ms[i] = max(v.decision.retention_ms, (declaration.horizon_days + 1) * DAY_MS)
    return judge


def stack_sums(data: Sequence[PartitionData], judge: Judge) -> Sums:
    """Copy the partitions' sums side by side."""
    p, k, f = judge.centroid.shape
    sums = Sums(np.zeros((p, k), np.int64), np.zeros((p, k, f), np.int64), np.zeros((p, k, f), np.int64), np.zeros((p, k + 1), np.int64))
    for i, d in enumerate(data):
        if d.learned is not None:
            n = len(d.learned.count)
            sums.count[i, :n], sums.total[i, :n], sums.square[i, :n] = d.learned.count, d.learned.total, d.learned.square
            sums.members[i, :n], sums.members[i, k] = d.learned.members[:n], d.learned.members[n]
    return sums


def unstack_sums(sums: Sums, i: int, k: int) -> Learned:
    """Copy partition i's sums out, for the `k` segments of its version."""
    members = np.append(sums.members[i, :k], sums.members[i, -1])
    return Learned(sums.count[i, :k].copy(), sums.total[i, :k].copy(), sums.square[i, :k].copy(), members)


@dataclass(frozen=True, slots=True)
class Announcement:
    """What partition 0's owner tells the others to judge by: an epoch of a version, which began with the epoch `first_epoch`."""

    model: int
    epoch: int
    first_epoch: int
    centroids: I64  # (k, f)

    def pack(self) -> bytes:
        """Pack as 64-bit little-endian integers: version, epoch, k, f, then the centroids, then the version's first epoch."""
        head = np.array([self.model, self.epoch, *self.centroids.shape], "<i8")
        return head.tobytes() + self.centroids.astype("<i8").tobytes() + np.array([self.first_epoch], "<i8").tobytes()

    @classmethod
    def unpack(cls, packed: bytes) -> Announcement:
        """Unpack what `pack` packed."""
        model, epoch, k, f = (int(n) for n in np.frombuffer(packed, "<i8", 4))
        centroids, first_epoch = np.split(np.frombuffer(packed, "<i8", offset=32).astype(np.int64), [k * f])
        return cls(model, epoch, int(first_epoch[0]), centroids.reshape(k, f))

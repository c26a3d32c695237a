"""An in-memory state store: the same contract as the one on Redis, and its server's whole state in one copyable value.

A wiped server is a new `FakeRedis`; a rolled-back one is a `copy.deepcopy` taken earlier.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from streamer.core.errors import Unavailable
from streamer.core.ports import CursorLost, Outcome, Packed, PartitionState

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from streamer.core.columns import I64, U8
    from streamer.core.ports import Commit

PARTITIONS = "partitions"
CURSORS = 1 << 64


@dataclass
class FakePartition:
    """One partition's keys."""

    owner: str = ""
    commit_id: str = ""
    previous_commit_id: str = ""
    next_offset: int = 0
    state: bytes = b""
    outbox: bytes = b""
    claims: int = 0
    attempts: bytes = b""
    erased: bytes = b""
    redirects: bytes = b""
    profiles: dict[bytes, bytes] = field(default_factory=dict)

    def __deepcopy__(self, memo: dict[int, Any]) -> FakePartition:
        """Copy what can change; bytes can't."""
        return replace(self, profiles={**self.profiles})


@dataclass
class FakeNamespace:
    """One application's keys in one namespace."""

    partitions: dict[int, FakePartition] = field(default_factory=dict)
    announced: dict[str, bytes] = field(default_factory=dict)


@dataclass
class FakeRedis:
    """A server; `warnings` is what `check` finds, `hashing` says how it orders a hash. Copy it with `copy.deepcopy`."""

    namespaces: dict[tuple[str, str], FakeNamespace] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    hashing: int = 0


class FakeStateStore:
    """A client of a `FakeRedis`, without a state of its own."""

    def __init__(self, server: FakeRedis, namespace: str, app: str) -> None:
        self.server = server
        self._name = (namespace, app)

    @property
    def _namespace(self) -> FakeNamespace:
        return self.server.namespaces.setdefault(self._name, FakeNamespace())

    def _partition(self, partition: int) -> FakePartition:
        return self._namespace.partitions.get(partition) or FakePartition()

    def check(self) -> tuple[str, ...]:
        return self.server.warnings

    def claim(self, partition: int, owner: str) -> PartitionState:
        held = self._namespace.partitions.setdefault(partition, FakePartition())
        held.owner = owner
        held.claims += 1
        return self.read([partition])[0]

    def erased(self, partition: int) -> bytes:
        return self._partition(partition).erased

    def redirects(self, partition: int) -> bytes:
        return self._partition(partition).redirects

    def note_attempts(self, partition: int, attempts: bytes) -> None:
        self._namespace.partitions.setdefault(partition, FakePartition()).attempts = attempts

    def read(self, partitions: Sequence[int]) -> list[PartitionState]:
        held = [self._partition(partition) for partition in partitions]
        return [
            PartitionState(p.owner, p.commit_id, p.previous_commit_id, p.next_offset, p.state, p.outbox, p.claims, p.attempts) for p in held
        ]

    def owners(self, partitions: Sequence[int]) -> list[str]:
        return [self._partition(partition).owner for partition in partitions]

    def load(self, partitions: Sequence[int], ids: Sequence[tuple[U8, I64]], commit_ids: Sequence[str] | None = None) -> list[Packed]:
        for partition, (_, bounds), commit_id in zip(partitions, ids, commit_ids or (), strict=commit_ids is not None):
            if len(bounds) > 1:
                self._must_be(partition, commit_id)
        found = []
        for partition, (joined, bounds) in zip(partitions, ids, strict=True):
            profiles = self._partition(partition).profiles
            found.append(Packed(joined, bounds, *joined_with_bounds([profiles.get(customer, b"") for customer in cut(joined, bounds)])))
        return found

    def _must_be(self, partition: int, commit_id: str) -> None:
        if self._partition(partition).commit_id != commit_id:
            message = f"the fake Redis is not at commit {commit_id} of partition {partition} any more"
            raise Unavailable(message)

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        for commit in commits:
            if commit.announce and (commit.partition != 0 or PARTITIONS in commit.announce):
                message = "only partition 0 announces, and never its partition count"
                raise ValueError(message)
        return [self._commit(commit) for commit in commits]

    def _commit(self, commit: Commit) -> Outcome:
        held = self._partition(commit.partition)
        if held.owner != commit.owner:
            return Outcome.OTHER_OWNER
        if held.commit_id != commit.expected:
            return Outcome.OTHER_COMMIT
        held.previous_commit_id, held.commit_id = held.commit_id, commit.commit_id
        held.next_offset, held.state, held.outbox, held.claims = commit.next_offset, commit.state, commit.outbox, 0
        if commit.erased is not None:
            held.erased = commit.erased
        if commit.redirects is not None:
            held.redirects = commit.redirects
        if commit.clears:
            held.profiles.clear()
        profiles = commit.profiles
        for customer, profile in zip(cut(profiles.ids, profiles.id_bounds), cut(profiles.values, profiles.bounds), strict=True):
            if profile:
                held.profiles[customer] = profile
            else:
                held.profiles.pop(customer, None)
        self._namespace.announced.update(commit.announce)
        return Outcome.APPLIED

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        """Walk in the order of a hash, so that what comes and goes between two steps hides nothing, as in Redis."""
        if commit_id is not None:
            self._must_be(partition, commit_id)
        start, cursor = divmod(cursor, CURSORS)
        if start not in (0, self.server.hashing + 1):
            message = f"the fake Redis was started anew while partition {partition} was walked"
            raise CursorLost(message)
        profiles = self._partition(partition).profiles
        hashed = ((zlib.crc32(customer, self.server.hashing), customer) for customer in profiles)
        order = sorted(one for one in hashed if one[0] >= cursor)
        last = order[min(max(count, 1), len(order)) - 1][0] if order else 0
        taken = [customer for place, customer in order if place <= last]
        following = 0 if len(taken) == len(order) else last + 1 + (self.server.hashing + 1) * CURSORS
        return following, Packed(*joined_with_bounds(taken), *joined_with_bounds([profiles[customer] for customer in taken]))

    def count(self, partitions: Sequence[int]) -> list[int]:
        return [len(self._partition(partition).profiles) for partition in partitions]

    def announced(self, name: str) -> bytes | None:
        return self._namespace.announced.get(name)

    def ask(self, name: str, value: bytes) -> None:
        self._namespace.announced[name] = value

    def record_partitions(self, count: int) -> int:
        return int(self._namespace.announced.setdefault(PARTITIONS, b"%d" % count))

    def drop(self) -> int:
        dropped = self.server.namespaces.pop(self._name, FakeNamespace())
        keys = sum(1 + bool(partition.profiles) for partition in dropped.partitions.values())
        return keys + bool(dropped.announced)

    def close(self) -> None:
        pass


def cut(joined: U8, bounds: I64) -> list[bytes]:
    """Cut joined bytes apart."""
    whole = joined.tobytes()
    return [whole[begin:end] for begin, end in itertools.pairwise(bounds.tolist())]


def joined_with_bounds(values: Iterable[bytes]) -> tuple[U8, I64]:
    """Join bytes."""
    values = list(values)
    return np.frombuffer(b"".join(values), np.uint8), np.cumsum([0, *map(len, values)], dtype=np.int64)

"""`StateStore` on Redis 6.2 or later, or Valkey.

Keys, all of one partition in one hash slot, and the namespace outside the tag so that a replay's namespace can be renamed into place:

- `<namespace>:{<app>:<partition>}:meta`, a hash: owner, commit_id, previous_commit_id, next_offset, state, outbox, claims,
  attempts, erased, redirects
- `<namespace>:{<app>:<partition>}:profiles`, a hash: customer id -> packed profile
- `<namespace>:{<app>:0}:announced`, a hash: values of the application, what a person asked for, and its partition count

Law: a commit is one script call that checks before it writes (`commit.lua`); nothing here sends a commit twice.

Cost, measured with batches of 2,000 customers, ids of 12 bytes and profiles of 400, on 2 shared cores, per customer in microseconds of CPU
(orders of magnitude):

=====================================================  ======  ======
                                                       client  server
=====================================================  ======  ======
load: HMGET packed by compiled code (what is done)        0.4     1.1
load: HMGET by `execute_command`                          1.1     1.4
load: a script that joins the profiles into one reply     0.4     4
commit: script, lengths and bytes apart (what is done)    0.2     2.4
commit: script, each id and profile an argument           1.4     2.8
commit: HSET by `execute_command`, unguarded              1.2     1.4
=====================================================  ======  ======

A commit of 5,000 customers keeps the server from others for some 10 ms.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import re
import zlib
from typing import TYPE_CHECKING, Any

import redis

from streamer.adapters.redis_state import wire
from streamer.adapters.redis_state.link import CLIENT_ERRORS, Link, Request, code_of, explain
from streamer.core.errors import Misconfigured, Unavailable
from streamer.core.ports import CursorLost, Outcome, Packed, PartitionState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.adapters.redis_state.link import RedisSettings, Reply
    from streamer.core.columns import I64, U8
    from streamer.core.ports import Commit

VERSION_MIN = (6, 2)
JOIN_BELOW_BYTES = 1 << 16
"""Smaller commits are copied into one buffer: cheaper than another system call."""

_META = (b"owner", b"commit_id", b"previous_commit_id", b"next_offset", b"state", b"outbox", b"claims", b"attempts")
_CURSORS = 1 << 64  # one server's cursors are below; what a scan gives counts them from another place for each start of a server
_PARTITIONS = "partitions"
_OUTCOMES = {0: Outcome.APPLIED, 1: Outcome.OTHER_OWNER, 2: Outcome.OTHER_COMMIT}
_NAME = re.compile(r"[A-Za-z0-9_.:-]+")


class RedisStateStore:
    """Profiles and partition states of one application in one namespace.

    Not for several threads at a time.
    """

    def __init__(self, settings: RedisSettings, namespace: str, app: str) -> None:
        """Prepare; nothing is sent yet, except to a cluster.

        Raises:
            Misconfigured: a name can't be part of a key, redis-py doesn't know an option, or the URL isn't one.

        """
        for name, value in (("namespace", namespace), ("app", app)):
            if _NAME.fullmatch(value) is None:
                message = f"`redis.{name}` is {value!r}: use letters, digits and _ . : - only, as it becomes part of every key"
                raise Misconfigured(message)
        self._prefix = f"{namespace}:{{{app}:"
        self._link = Link(settings)
        self._require_noeviction = settings.require_noeviction
        self._source = importlib.resources.files(__package__).joinpath("commit.lua").read_bytes()
        self._sha = hashlib.sha1(self._source).hexdigest().encode()  # noqa: S324  # how the server names a script

    def check(self) -> tuple[str, ...]:
        """Look at every server's version, role and eviction; returns warnings."""
        warnings: list[str] = []
        for client in self._link.primaries():
            try:
                info: dict[str, Any] = client.info()
            except redis.exceptions.NoPermissionError as error:
                warnings.append(f"Redis at {self._link.where} does not let us look at its version and eviction policy: {error}")
                continue
            except CLIENT_ERRORS as error:
                raise explain(error, self._link.where) or error from error
            warnings += judge(info, self._link.where, require_noeviction=self._require_noeviction)
        return tuple(warnings)

    def claim(self, partition: int, owner: str) -> PartitionState:
        """Write the owner token, then read the state."""
        key = self._key(partition, "meta")
        claims = wire.request(b"HSET", key, b"owner", owner.encode()) + wire.request(b"HINCRBY", key, b"claims", b"1")
        parts = [claims + wire.request(b"HMGET", key, *_META)]
        [replies] = self._link.ask([Request(key, parts, 3)], reads_only=True)  # a repeated claim is the same claim, counted twice
        return _state(self._link.checked(replies)[2])

    def erased(self, partition: int) -> bytes:
        """Read what is kept of a partition's erased customers."""
        return self._beside(partition, b"erased")

    def redirects(self, partition: int) -> bytes:
        """Read whose events a partition sends on."""
        return self._beside(partition, b"redirects")

    def _beside(self, partition: int, name: bytes) -> bytes:
        key = self._key(partition, "meta")
        [reply] = self._read([(key, (b"HGET", key, name))])
        return bytes(reply or b"")

    def note_attempts(self, partition: int, attempts: bytes) -> None:
        """Keep what is about to be attempted, beside the state."""
        key = self._key(partition, "meta")
        self._read([(key, (b"HSET", key, b"attempts", attempts))])

    def read(self, partitions: Sequence[int]) -> list[PartitionState]:
        """Read states without claiming."""
        keys = [self._key(partition, "meta") for partition in partitions]
        return [_state(reply) for reply in self._read([(key, (b"HMGET", key, *_META)) for key in keys])]

    def owners(self, partitions: Sequence[int]) -> list[str]:
        """Read each partition's owner token, and nothing else."""
        keys = [self._key(partition, "meta") for partition in partitions]
        return [(reply or b"").decode() for reply in self._read([(key, (b"HGET", key, b"owner")) for key in keys])]

    def load(self, partitions: Sequence[int], ids: Sequence[tuple[U8, I64]], commit_ids: Sequence[str] | None = None) -> list[Packed]:
        """Read the profiles of each partition's customers, in order; an absent one is empty."""
        asked = [i for i, (_, bounds) in enumerate(ids) if len(bounds) > 1]
        keys = {i: self._key(partitions[i], "profiles") for i in asked}
        parts: dict[int, list[bytes | memoryview]] = {i: [wire.hmget(keys[i], *ids[i]), self._ask_commit_id(partitions[i])] for i in asked}
        replies = self._link.ask([Request(keys[i], parts[i], 2) for i in asked], reads_only=True)
        found = [wire.packed(*one, []) if len(one[1]) == 1 else None for one in ids]
        for i, reply in zip(asked, replies, strict=True):
            values, commit_id = self._link.checked(reply)
            if commit_ids is not None:
                _must_be(partitions[i], commit_id, commit_ids[i])
            found[i] = wire.packed(*ids[i], values)
        return [one for one in found if one is not None]

    def commit(self, commits: Sequence[Commit]) -> list[Outcome]:
        """Apply each commit if its owner and expected commit id are the stored ones, else write nothing of it.

        Raises:
            Unavailable: there was no reply, or the server takes no writes; any of them may or may not have been applied.
            Misconfigured: a key holds another type, or the user may not run scripts.

        """
        requests = [self._commit_request(commit) for commit in commits]
        replies = [reply for [reply] in self._link.ask(requests)]
        unknown = [i for i, reply in enumerate(replies) if isinstance(reply, redis.ResponseError) and code_of(reply) == "NOSCRIPT"]
        if unknown:  # those wrote nothing
            self._load_script([requests[i] for i in unknown])
            for i, [reply] in zip(unknown, self._link.ask([requests[i] for i in unknown]), strict=True):
                replies[i] = reply
        return [_OUTCOMES[code] for code in self._link.checked(replies)]

    def scan(self, partition: int, cursor: int, count: int, commit_id: str | None = None) -> tuple[int, Packed]:
        """Walk about `count` of the partition's profiles; the walk ends when the cursor returned is 0.

        A cursor has the server's own in its low 64 bits, and the process that gave it above.
        """
        key = self._key(partition, "profiles")
        start, place = divmod(cursor, _CURSORS)
        asked = (
            wire.request(b"HSCAN", key, b"%d" % place, b"COUNT", b"%d" % count),
            self._ask_commit_id(partition),
            wire.request(b"INFO", b"server"),
        )
        [replies] = self._link.ask([Request(key, [b"".join(asked)], 3)], reads_only=True)
        [following, pairs], found, info = self._link.checked(replies)
        if commit_id is not None:
            _must_be(partition, found, commit_id)
        run = zlib.crc32(next((line for line in info.splitlines() if line.startswith(b"run_id:")), b""))
        if start not in (0, run):
            message = f"Redis was started anew while partition {partition} was walked: its cursors count otherwise now, begin again"
            raise CursorLost(message)
        return (int(following) + run * _CURSORS if int(following) else 0), wire.packed_pairs(pairs)

    def count(self, partitions: Sequence[int]) -> list[int]:
        """Count each partition's customers."""
        keys = [self._key(partition, "profiles") for partition in partitions]
        return [int(reply) for reply in self._read([(key, (b"HLEN", key)) for key in keys])]

    def announced(self, name: str) -> bytes | None:
        """Read a value of the application that partition 0's owner announced."""
        [reply] = self._read([(self._announced, (b"HGET", self._announced, name.encode()))])
        return None if reply is None else bytes(reply)

    def ask(self, name: str, value: bytes) -> None:
        """Write a value of the application that a person gives, beside those that partition 0's owner announces."""
        self._read([(self._announced, (b"HSET", self._announced, name.encode(), value))])  # repeated, it does the same

    def record_partitions(self, count: int) -> int:
        """Record the input's partition count at the first start; returns the count on record."""
        key, name = self._announced, _PARTITIONS.encode()
        parts = [wire.request(b"HSETNX", key, name, b"%d" % count) + wire.request(b"HGET", key, name)]
        [replies] = self._link.ask([Request(key, parts, 2)], reads_only=True)  # repeated, it does the same
        return int(self._link.checked(replies)[1])

    def drop(self) -> int:
        """Delete every key of this application in this namespace; returns how many.

        The recorded partition count tells which there are; it goes last, so that a drop that was cut short can be repeated.
        """
        partitions = int(self.announced(_PARTITIONS) or 0)
        keys = [self._key(p, part) for p in range(partitions) for part in ("meta", "profiles")]
        deleted = sum(self._read([(key, (b"UNLINK", key)) for key in keys]))
        return deleted + int(self._read([(self._announced, (b"UNLINK", self._announced))])[0])

    def close(self) -> None:
        """Close all connections."""
        self._link.close()

    @property
    def _announced(self) -> bytes:
        return self._key(0, "announced")

    def _ask_commit_id(self, partition: int) -> bytes:
        """Ask for the commit that profiles are of, in the same breath: whatever takes them away also cuts the connection or takes this."""
        return wire.request(b"HGET", self._key(partition, "meta"), b"commit_id")

    def _key(self, partition: int, part: str) -> bytes:
        return f"{self._prefix}{partition}}}:{part}".encode()

    def _read(self, commands: Sequence[tuple[bytes, tuple[bytes, ...]]]) -> list[Reply]:
        requests = [Request(key, [wire.request(*command)], 1) for key, command in commands]
        return [self._link.checked(replies)[0] for replies in self._link.ask(requests, reads_only=True)]

    def _load_script(self, requests: Sequence[Request]) -> None:
        loads = [Request(request.key, [wire.request(b"SCRIPT", b"LOAD", self._source)], 1) for request in requests]
        for replies in self._link.ask(loads, reads_only=True):
            self._link.checked(replies)

    def _commit_request(self, commit: Commit) -> Request:
        if commit.announce and (commit.partition != 0 or _PARTITIONS in commit.announce):
            message = f"commit {commit.commit_id} of partition {commit.partition}: only partition 0 announces, and never {_PARTITIONS!r}"
            raise ValueError(message)
        keys = [self._key(commit.partition, "meta"), self._key(commit.partition, "profiles")]
        if commit.announce:
            keys.append(self._announced)
        profiles = commit.profiles
        announced = [part for name, value in commit.announce.items() for part in (name.encode(), value)]
        before = (
            b"EVALSHA",
            self._sha,
            b"%d" % len(keys),
            *keys,
            commit.owner.encode(),
            commit.expected.encode(),
            commit.commit_id.encode(),
            b"%d" % commit.next_offset,
            commit.state,
            commit.outbox,
            b"%d" % commit.clears,
            b"%d" % (commit.erased is not None),
            commit.erased or b"",
            b"%d" % (commit.redirects is not None),
            commit.redirects or b"",
            b"%d" % (len(profiles.id_bounds) - 1),
            wire.lengths(profiles),
        )
        head = b"*%d\r\n%b" % (len(before) + 1 + len(announced), wire.arguments(*before))
        begin = b"%b$%d\r\n%b" % (head, len(profiles.ids) + len(profiles.values), profiles.ids.tobytes())
        end = b"\r\n" + wire.arguments(*announced)
        if len(profiles.values) < JOIN_BELOW_BYTES:
            return Request(keys[0], [begin + profiles.values.tobytes() + end], 1)
        return Request(keys[0], [begin, wire.bytes_view(profiles.values), end], 1)


def judge(info: dict[str, Any], where: str, *, require_noeviction: bool = True) -> list[str]:
    """Judge what a server says of itself; returns warnings.

    Raises:
        Misconfigured: it is too old, takes no writes or evicts our keys.

    """
    version = str(info.get("redis_version", "0.0"))
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers < VERSION_MIN:
        message = f"Redis at {where} is version {version}: use Redis 6.2 or later, or Valkey"
        raise Misconfigured(message)
    if info.get("role") == "slave" and info.get("slave_read_only", 1):
        message = f"Redis at {where} is a read-only replica: point `redis.url` at the primary"
        raise Misconfigured(message)
    policy = str(info.get("maxmemory_policy", ""))
    if policy.startswith("allkeys"):
        message = f"Redis at {where} evicts keys, so profiles would vanish unseen: set maxmemory-policy noeviction (it is {policy})"
        if require_noeviction:
            raise Misconfigured(message)
        return [message]
    if policy != "noeviction":
        what = f"is {policy}, which keeps our keys, as they never expire" if policy else "is not told"
        return [f"Redis at {where}: maxmemory-policy {what}; set it to noeviction to be sure"]
    return []


def _must_be(partition: int, found: bytes | None, expected: str) -> None:
    if (found or b"").decode() != expected:
        message = f"Redis is not at commit {expected or 'none'} of partition {partition} any more, but at {(found or b'none').decode()}"
        raise Unavailable(message)


def _state(reply: Sequence[bytes | None]) -> PartitionState:
    owner, commit_id, previous, next_offset, state, outbox, claims, attempts = (value or b"" for value in reply)
    names = owner.decode(), commit_id.decode(), previous.decode()
    return PartitionState(*names, int(next_offset or 0), state, outbox, int(claims or 0), attempts)

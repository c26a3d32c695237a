"""Erasure: which rows of a batch are of customers who were erased before, told by keyed hashes of their ids.

Laws:
1. Of who was erased nothing is kept but SipHash-2-4 of the id, 64 bits, under a key that stands in no server.
2. Where later events are refused, one is if an erasure of its customer comes before it in its partition, wherever batches begin and end. A
   refused event leaves no trace: neither in a profile nor in the partition's clock. So is a command that merges such a customer, or merges
   another into them.

Among a billion customers and a million who were erased, 0.00005 are taken for one of these by chance.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamer.core.columns import I64, U8, U64, Bool, read_only
from streamer.core.compiled import compiled
from streamer.core.errors import Misconfigured
from streamer.core.fold import ERASE, ERASED, MERGE, MERGED
from streamer.core.hashing import siphash

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from streamer.core.fold import Rows
    from streamer.core.intake import Customers

KEY_BYTES = 16
NOBODY: U64 = np.zeros(0, np.uint64)
_PERSON = b"streamer-erasure"
_HASH_DIGITS, _KEY_DIGITS = 16, 8


class Rule(NamedTuple):
    """How later events of erased customers are treated, and the key that their ids are hashed with."""

    refuse: bool
    low: int  # the key's first eight bytes, as a little-endian word
    high: int
    key_name: str  # tells keys apart, and not what they are

    def of(self, customer: bytes) -> int:
        """Hash one id."""
        return int(hash_ids(self, np.frombuffer(customer, np.uint8), np.array([0, len(customer)], np.int64))[0])

    def mark(self, customer: bytes) -> str:
        """Name an id for history: the key's name, then the hash, in hexadecimal digits."""
        return f"{self.key_name}{self.of(customer):0{_HASH_DIGITS}x}"


class Heeded(NamedTuple):
    """What erasures make of a batch of `n` rows over `p` partitions."""

    kept: Bool  # (n,) the rows that are not refused
    refused: I64  # (p,) how many rows are
    erased: Sequence[U64]  # (p,) of each partition, the hashes of all who were erased, in order


def make_rule(secret: str | None, *, refuse: bool) -> Rule:
    """Make a rule of a configured secret; without one the key is the same everywhere, and known."""
    key = blake2b((secret or "").encode(), digest_size=KEY_BYTES, person=_PERSON).digest()
    name = blake2b(key, digest_size=_KEY_DIGITS // 2, person=_PERSON).hexdigest()
    return Rule(refuse, int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little"), name)


@compiled
def _hash_ids(low: int, high: int, ids: U8, bounds: I64) -> U64:
    hashed = np.empty(len(bounds) - 1, np.uint64)
    for i in range(len(hashed)):
        hashed[i] = siphash(low, high, ids, bounds[i], bounds[i + 1] - bounds[i])
    return hashed


def hash_ids(rule: Rule, ids: U8, bounds: I64) -> U64:
    """Hash joined ids, `bounds` (u + 1,), under the rule's key: (u,)."""
    words: tuple[Any, Any] = np.uint64(rule.low), np.uint64(rule.high)  # unsigned, or half of all keys would be compiled for anew
    hashed: U64 = _hash_ids(*words, read_only(ids), bounds)
    return hashed


def marked(rule: Rule, mark: bytes) -> int:
    """Read the hash that `Rule.mark` made a name of.

    Raises:
        Misconfigured: it was made under another key.

    """
    name, digits = mark[:_KEY_DIGITS].decode(), mark[_KEY_DIGITS:].decode()
    same_key(rule, name)
    return int(digits, 16)


def same_key(rule: Rule, key_name: str) -> None:
    """Refuse what was made under another key. Raises `Misconfigured`."""
    if key_name != rule.key_name:
        message = (
            f"customers were erased under another `erasure.key` ({key_name}, this one is {rule.key_name}), and would not be known again: "
            "put it back, or set `erasure.later_events` to accept"
        )
        raise Misconfigured(message)


def among(hashed: U64, erased: U64) -> Bool:
    """Tell which hashes are among some that are in order."""
    place = np.minimum(np.searchsorted(erased, hashed), len(erased) - 1)
    found: Bool = erased[place] == hashed if len(erased) else np.zeros(len(hashed), np.bool_)
    return found


def is_marked(rule: Rule, mark: bytes) -> Callable[[bytes], bool]:
    """Give what tells a customer by the mark that history has in their id's place, and the mark itself."""
    hashed = marked(rule, mark) if mark[:_KEY_DIGITS].decode() == rule.key_name else None
    return lambda customer: customer == mark or (hashed is not None and rule.of(customer) == hashed)


def heed(rule: Rule, rows: Rows, record: I64, customers: Customers, erased: Sequence[U64], said: Mapping[int, bytes]) -> Heeded:
    """Find the rows that are refused, and who was erased by the end of a batch.

    Args:
        rule: how they are treated.
        rows: the batch, `slot` filled in.
        record: (n,) which record each row is.
        customers: its customers.
        erased: of each partition, the hashes of those who were erased before, in order.
        said: by record, whom a MERGE is into.

    Raises:
        Misconfigured: somebody was erased under another key.

    """
    n, parts = len(rows.slot), len(erased)
    refused = np.zeros(parts, np.int64)
    if not rule.refuse:
        return Heeded(np.ones(n, np.bool_), refused, [NOBODY] * parts)
    commands = np.flatnonzero((rows.type == ERASE) | (rows.type == ERASED)).tolist()
    if not commands and not any(len(one) for one in erased):
        return Heeded(np.ones(n, np.bool_), refused, erased)
    hashed = hash_ids(rule, customers.ids, customers.id_bounds)
    gone_at = np.full(len(hashed), n)  # the row that erases each customer; before the first where it was done already
    for part in range(parts):
        mine = slice(customers.start[part], customers.start[part + 1])
        gone_at[mine][among(hashed[mine], erased[part])] = -1
    new: list[dict[int, int]] = [{} for _ in range(parts)]  # whom the batch erases, and the row that does so first
    for i in commands:
        part, slot = int(rows.part[i]), int(rows.slot[i])
        mine = slice(customers.start[part], customers.start[part + 1])
        if rows.type[i] == ERASE:
            one = int(hashed[slot])
        else:
            one = marked(rule, customers.ids[customers.id_bounds[slot] : customers.id_bounds[slot + 1]].tobytes())
        gone_at[mine] = np.where(hashed[mine] == np.uint64(one), np.minimum(gone_at[mine], i), gone_at[mine])
        new[part].setdefault(one, i)
    kept = ((rows.type < 0) & (rows.type != MERGE) & (rows.type != MERGED)) | (np.arange(n) < gone_at[rows.slot])
    for i in np.flatnonzero(kept & (rows.type == MERGE)).tolist():
        part, into = int(rows.part[i]), rule.of(said[int(record[i])])
        kept[i] = not among(np.array([into], np.uint64), erased[part])[0] and i < new[part].get(into, n)
    np.add.at(refused, rows.part[~kept], 1)
    together = [np.union1d(old, np.fromiter(some, np.uint64, len(some))) if some else old for old, some in zip(erased, new, strict=True)]
    return Heeded(kept, refused, together)

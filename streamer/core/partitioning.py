"""Where a customer's events are: murmur2 of the key modulo the partitions, as Java's clients and our producers have it.

Law: the same numbers as `org.apache.kafka.common.utils.Utils.murmur2`, so that a customer can be found without asking every partition.
"""

from __future__ import annotations

from typing import Final

SEED: Final = 0x9747B28C
MULTIPLIER: Final = 0x5BD1E995
SHIFT: Final = 24
WORD: Final = 0xFFFF_FFFF
POSITIVE: Final = 0x7FFF_FFFF
WORD_BYTES: Final = 4


def murmur2(data: bytes) -> int:
    """Hash a key: MurmurHash2, 32 bits, with the seed of Kafka's clients, as a signed number.

    >>> murmur2(b"foobar")
    -790332482
    """
    hashed = (SEED ^ len(data)) & WORD
    whole = len(data) - len(data) % WORD_BYTES
    for begin in range(0, whole, WORD_BYTES):
        k = int.from_bytes(data[begin : begin + WORD_BYTES], "little") * MULTIPLIER & WORD
        k = (k ^ k >> SHIFT) * MULTIPLIER & WORD
        hashed = hashed * MULTIPLIER & WORD ^ k
    if whole < len(data):
        hashed = (hashed ^ int.from_bytes(data[whole:], "little")) * MULTIPLIER & WORD
    hashed = (hashed ^ hashed >> 13) * MULTIPLIER & WORD
    hashed ^= hashed >> 15
    return hashed - (WORD + 1) if hashed > POSITIVE else hashed


def partition_of(key: bytes, partitions: int) -> int:
    """Tell the partition of a key's records among `partitions`, with the partitioner `murmur2`.

    >>> partition_of(b"foobar", 8)
    6
    """
    return (murmur2(key) & POSITIVE) % partitions

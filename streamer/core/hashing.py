"""XXH64 with seed 0, and SipHash-2-4 with a key, over a range of a byte array.

Law: the same numbers as the reference implementations give, on any machine, compiled or not. XXH64 names bytes inside one run of the
product and in profiles (duplicate event ids, distinct buckets); customers are told apart by their bytes, never by it. SipHash is what is
kept of an erased customer's id: who has not its key can't test a guess.

Words are Python integers when uncompiled, so every product and sum is cut to 64 bits; compiled, the cut costs nothing.
Sources of the constants and steps: the XXH64 specification, version 0.1.1, section "XXH64 algorithm description"; Aumasson and Bernstein,
"SipHash: a fast short-input PRF", 2012, section 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from streamer.core.compiled import kernel

if TYPE_CHECKING:
    from streamer.core.columns import U8

MASK: Final = 0xFFFFFFFFFFFFFFFF
PRIME_1: Final = 0x9E3779B185EBCA87
PRIME_2: Final = 0xC2B2AE3D27D4EB4F
PRIME_3: Final = 0x165667B19E3779F9
PRIME_4: Final = 0x85EBCA77C2B2AE63
PRIME_5: Final = 0x27D4EB2F165667C5
LANE_1: Final = 0x60EA27EEADC0B5D6  # PRIME_1 + PRIME_2, cut to 64 bits
LANE_4: Final = 0x61C8864E7A143579  # 0 - PRIME_1, cut to 64 bits
STRIPE_BYTES: Final = 32
WORD_BYTES: Final = 8
HALF_BYTES: Final = 4
HASH_OF_EMPTY: Final = 0xEF46DB3751D8E999
SIP_0: Final = 0x736F6D6570736575
SIP_1: Final = 0x646F72616E646F6D
SIP_2: Final = 0x6C7967656E657261
SIP_3: Final = 0x7465646279746573
SIP_END: Final = 0xFF
SIP_LAST_ROUNDS: Final = 4


@kernel
def word(value: int) -> int:
    """Give a number as an unsigned 64-bit word (compiled), or as a Python integer (uncompiled)."""
    return int(np.uint64(value))


@kernel
def load_8(values: U8, start: int) -> int:
    """Read 8 bytes, little-endian, as one unsigned word. The caller has checked that they are there."""
    # Unsigned indices can't be negative, so the compiler makes this one unaligned load.
    i = word(start)
    return (
        word(values[i])
        | word(values[i + word(1)]) << 8
        | word(values[i + word(2)]) << 16
        | word(values[i + word(3)]) << 24
        | word(values[i + word(4)]) << 32
        | word(values[i + word(5)]) << 40
        | word(values[i + word(6)]) << 48
        | word(values[i + word(7)]) << 56
    )


@kernel
def load_4(values: U8, start: int) -> int:
    """Read 4 bytes, little-endian, as one unsigned word. The caller has checked that they are there."""
    i = word(start)
    return word(values[i]) | word(values[i + word(1)]) << 8 | word(values[i + word(2)]) << 16 | word(values[i + word(3)]) << 24


@kernel
def _rotate(value: int, bits: int) -> int:
    return ((value << bits) & MASK) | (value >> (64 - bits))


@kernel
def _round(lane: int, data: int) -> int:
    lane = (lane + data * PRIME_2) & MASK
    return (_rotate(lane, 31) * PRIME_1) & MASK


@kernel
def _merge(total: int, lane: int) -> int:
    total ^= _round(word(0), lane)
    return (total * PRIME_1 + PRIME_4) & MASK


@kernel
def xxh64(values: U8, start: int, length: int) -> int:
    """Hash `values[start:start + length]`; the caller has checked that the range is there.

    Example:
        >>> hex(xxh64(np.frombuffer(b"abc", np.uint8), 0, 3))
        '0x44bc2cf5ad770999'
    """
    i = start
    left = length
    if left >= STRIPE_BYTES:
        lane_1 = word(LANE_1)
        lane_2 = word(PRIME_2)
        lane_3 = word(0)
        lane_4 = word(LANE_4)
        while left >= STRIPE_BYTES:
            lane_1 = _round(lane_1, load_8(values, i))
            lane_2 = _round(lane_2, load_8(values, i + 8))
            lane_3 = _round(lane_3, load_8(values, i + 16))
            lane_4 = _round(lane_4, load_8(values, i + 24))
            i += STRIPE_BYTES
            left -= STRIPE_BYTES
        total = (_rotate(lane_1, 1) + _rotate(lane_2, 7) + _rotate(lane_3, 12) + _rotate(lane_4, 18)) & MASK
        total = _merge(_merge(_merge(_merge(total, lane_1), lane_2), lane_3), lane_4)
    else:
        total = word(PRIME_5)
    total = (total + word(length)) & MASK
    while left >= WORD_BYTES:
        total ^= _round(word(0), load_8(values, i))
        total = (_rotate(total, 27) * PRIME_1 + PRIME_4) & MASK
        i += WORD_BYTES
        left -= WORD_BYTES
    if left >= HALF_BYTES:
        total ^= (load_4(values, i) * PRIME_1) & MASK
        total = (_rotate(total, 23) * PRIME_2 + word(PRIME_3)) & MASK
        i += HALF_BYTES
        left -= HALF_BYTES
    while left > 0:
        total ^= (word(values[i]) * word(PRIME_5)) & MASK
        total = (_rotate(total, 11) * PRIME_1) & MASK
        i += 1
        left -= 1
    total ^= total >> 33
    total = (total * PRIME_2) & MASK
    total ^= total >> 29
    total = (total * word(PRIME_3)) & MASK
    return total ^ (total >> 32)


@kernel
def _sip_round(v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    v0 = (v0 + v1) & MASK
    v1 = _rotate(v1, 13) ^ v0
    v0 = _rotate(v0, 32)
    v2 = (v2 + v3) & MASK
    v3 = _rotate(v3, 16) ^ v2
    v0 = (v0 + v3) & MASK
    v3 = _rotate(v3, 21) ^ v0
    v2 = (v2 + v1) & MASK
    v1 = _rotate(v1, 17) ^ v2
    return v0, v1, _rotate(v2, 32), v3


@kernel
def siphash(low: int, high: int, values: U8, start: int, length: int) -> int:
    """Hash `values[start:start + length]` with SipHash-2-4 under a key of two words; the caller has checked that the range is there.

    Example, of the key 00 01 ... 0f and the bytes 00 01 ... 0e, from the paper's appendix A:
        >>> hex(siphash(0x0706050403020100, 0x0F0E0D0C0B0A0908, np.arange(15, dtype=np.uint8), 0, 15))
        '0xa129ca6149be45e5'
    """
    v0 = word(low) ^ word(SIP_0)
    v1 = word(high) ^ word(SIP_1)
    v2 = word(low) ^ word(SIP_2)
    v3 = word(high) ^ word(SIP_3)
    i = start
    left = length
    while left >= WORD_BYTES:
        data = load_8(values, i)
        v3 ^= data
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
        v0 ^= data
        i += WORD_BYTES
        left -= WORD_BYTES
    data = (word(length) << 56) & MASK
    for n in range(left):
        data |= word(values[i + n]) << word(8 * n)
    v3 ^= data
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    v0 ^= data
    v2 ^= word(SIP_END)
    for _ in range(SIP_LAST_ROUNDS):
        v0, v1, v2, v3 = _sip_round(v0, v1, v2, v3)
    return v0 ^ v1 ^ v2 ^ v3

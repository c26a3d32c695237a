"""Keys fall where Java's clients put them."""

from __future__ import annotations

import pytest

from streamer.core.partitioning import murmur2, partition_of

# As Java's Utils.murmur2 computes them: the vectors of its own test, and of every length of tail.
KNOWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "expected"), KNOWN.items())
def test_a_key_has_the_hash_that_java_gives_it(key: bytes, expected: int) -> None:
    assert expected == murmur2(key)


def test_a_partition_is_the_hash_without_its_sign_modulo_their_number() -> None:
    assert [(number & 0x7FFF_FFFF) % 7 for number in KNOWN.values()] == [partition_of(key, 7) for key in KNOWN]
    assert {0} == {partition_of(key, 1) for key in KNOWN}


def test_an_empty_key_has_a_hash_too() -> None:
    assert 275646681 == murmur2(b"")

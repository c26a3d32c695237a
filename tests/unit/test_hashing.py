"""XXH64 against the reference implementation's Python binding."""

from __future__ import annotations

import numpy as np
import pytest
import xxhash

from streamer.core.hashing import HASH_OF_EMPTY, load_4, load_8, xxh64


@pytest.mark.parametrize("length", [*range(40), 63, 64, 65, 96, 100, 1000])
def test_a_hash_is_the_reference_implementations_at_every_length_and_offset(length: int) -> None:
    data = np.random.default_rng(length).integers(0, 256, length + 16, dtype=np.uint8)
    for start in (0, 1, 7):
        expected = xxhash.xxh64_intdigest(data[start : start + length].tobytes(), seed=0)
        assert expected == int(xxh64(data, start, length))


def test_the_hash_of_nothing_is_the_constant() -> None:
    assert HASH_OF_EMPTY == int(xxh64(np.zeros(1, np.uint8), 0, 0)) == xxhash.xxh64_intdigest(b"")


def test_words_are_read_little_endian_at_any_alignment() -> None:
    data = np.arange(250, 266, dtype=np.int64).astype(np.uint8)
    assert int.from_bytes(data[3:11].tobytes(), "little") == int(load_8(data, 3))
    assert int.from_bytes(data[5:9].tobytes(), "little") == int(load_4(data, 5))

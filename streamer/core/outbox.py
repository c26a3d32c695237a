"""The outbox: all that a commit will publish, packed into one string beside it.

Law: `unpack(pack(x))` equals x, so what a crash left unpublished is published as it was, to the byte.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from streamer.core.ports import OutRecord, Topic

if TYPE_CHECKING:
    from collections.abc import Sequence

LAYOUT = 1
_TOPICS = tuple(Topic)
_HEAD = struct.Struct("<BiiiH")  # topic, partition (-1: by key), key and value length (-1: null), headers
_HEADER = struct.Struct("<Hi")  # lengths of name and value (-1: null)


def pack(records: Sequence[OutRecord]) -> bytes:
    """Pack records; none give no bytes."""
    if not records:
        return b""
    parts = [bytes([LAYOUT])]
    for r in records:
        parts.append(
            _HEAD.pack(
                _TOPICS.index(r.topic),
                -1 if r.partition is None else r.partition,
                -1 if r.key is None else len(r.key),
                -1 if r.value is None else len(r.value),
                len(r.headers),
            )
        )
        parts.append(r.key or b"")
        parts.append(r.value or b"")
        for name, value in r.headers:
            encoded = name.encode()
            parts.append(_HEADER.pack(len(encoded), -1 if value is None else len(value)))
            parts.append(encoded)
            parts.append(value or b"")
    return b"".join(parts)


def unpack(packed: bytes) -> list[OutRecord]:
    """Unpack records; raises ValueError for another layout."""
    if not packed:
        return []
    if packed[0] != LAYOUT:
        message = f"the outbox has layout {packed[0]}, this program reads {LAYOUT}"
        raise ValueError(message)
    at = 1
    records = []

    def take(length: int) -> bytes | None:
        nonlocal at
        begin, at = at, at + max(length, 0)
        return None if length < 0 else packed[begin:at]

    while at < len(packed):
        topic, partition, key_length, value_length, count = _HEAD.unpack_from(packed, at)
        at += _HEAD.size
        key, value = take(key_length), take(value_length)
        headers = []
        for _ in range(count):
            name_length, length = _HEADER.unpack_from(packed, at)
            at += _HEADER.size
            headers.append(((take(name_length) or b"").decode(), take(length)))
        records.append(OutRecord(_TOPICS[topic], None if partition < 0 else partition, key, value, tuple(headers)))
    return records

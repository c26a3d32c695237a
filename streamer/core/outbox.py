"""The outbox: all that a commit will publish, packed into one string beside it.

Law: `unpack(pack(x))` equals x, so what a crash left unpublished is published as it was, to the byte. Bytes that `pack` did not make are
refused, never guessed at.

Layout 1, integers little-endian: the layout (1 byte), then for each record the topic (1 byte, its place in `Topic`), partition (4 bytes
signed, -1: by key), lengths of key and value and number of headers (4 bytes signed each, -1: null), key and value; then for each header the
lengths of name and value (4 bytes signed each), the name in UTF-8 and the value.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from streamer.core.errors import Corrupt
from streamer.core.ports import OutRecord, Topic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import Headers

LAYOUT = 1
_TOPICS = tuple(Topic)
_HEAD = struct.Struct("<Biiii")
_HEADER = struct.Struct("<ii")


def topic_number(topic: Topic) -> int:
    """Give a topic's number in an outbox."""
    return _TOPICS.index(topic)


def pack_headers(headers: Headers) -> bytes:
    """Pack the headers of a record."""
    parts = []
    for name, value in headers:
        encoded = name.encode()
        parts += [_HEADER.pack(len(encoded), -1 if value is None else len(value)), encoded, value or b""]
    return b"".join(parts)


def pack(records: Sequence[OutRecord], packed: bytes = b"") -> bytes:
    """Pack records, after those that are packed already, without their first byte; none give no bytes."""
    if not records and not packed:
        return b""
    parts = [bytes([LAYOUT]), packed]
    for r in records:
        parts.append(
            _HEAD.pack(
                topic_number(r.topic),
                -1 if r.partition is None else r.partition,
                -1 if r.key is None else len(r.key),
                -1 if r.value is None else len(r.value),
                len(r.headers),
            )
        )
        parts.append(r.key or b"")
        parts.append(r.value or b"")
        parts.append(pack_headers(r.headers))
    return b"".join(parts)


def unpack(packed: bytes) -> list[OutRecord]:
    """Unpack records.

    Raises:
        Corrupt: the bytes are of another layout, or not what `pack` makes.

    """
    if not packed:
        return []
    if packed[0] != LAYOUT:
        message = f"the outbox has layout {packed[0]}, this program reads {LAYOUT}: run the version of the program that wrote it"
        raise Corrupt(message)
    reader = _Reader(packed)
    records = []
    while reader.at < len(packed):
        records.append(reader.record())
    return records


class _Reader:
    """Reads an outbox from its second byte on."""

    def __init__(self, packed: bytes) -> None:
        self.packed = packed
        self.at = 1

    def record(self) -> OutRecord:
        topic, partition, key_length, value_length, headers = self.numbers(_HEAD)
        if topic >= len(_TOPICS) or partition < -1:
            raise self.corrupt()
        key, value = self.text(key_length), self.text(value_length)
        return OutRecord(_TOPICS[topic], None if partition < 0 else partition, key, value, tuple(self.header() for _ in range(headers)))

    def header(self) -> tuple[str, bytes | None]:
        name_length, value_length = self.numbers(_HEADER)
        try:
            return (self.text(name_length) or b"").decode(), self.text(value_length)
        except UnicodeDecodeError as error:
            raise self.corrupt() from error

    def numbers(self, layout: struct.Struct) -> tuple[int, ...]:
        begin, self.at = self.at, self.at + layout.size
        if self.at > len(self.packed):
            raise self.corrupt()
        return layout.unpack_from(self.packed, begin)

    def text(self, length: int) -> bytes | None:
        if length == -1:
            return None
        begin, self.at = self.at, self.at + length
        if length < 0 or self.at > len(self.packed):
            raise self.corrupt()
        return self.packed[begin : self.at]

    def corrupt(self) -> Corrupt:
        message = f"the outbox is damaged at byte {self.at} of {len(self.packed)}: rebuild its partition"
        return Corrupt(message)

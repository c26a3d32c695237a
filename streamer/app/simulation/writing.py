"""Events as the values of records, written in columns: version 1 of BehaviourEvent in Confluent's first framing.

Law: what is written is byte for byte what fastavro writes of the same records (a test holds the two together).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamer.adapters.avro import wire
from streamer.app.simulation.visits import CATEGORIES, NONE, PRODUCTS_PER_CATEGORY, SEARCH, TYPES, Events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import I64, U8

SCHEMA: Final = "behaviour_event"
SCHEMA_VERSION: Final = 1
CURRENCY: Final = "EUR"
DEPARTMENTS: Final = ("women", "men", "children", "home", "garden", "kitchen", "sports", "books")
KINDS: Final = ("basics", "seasonal", "premium")
NAMES: Final = tuple(f"{department} {kind}" for kind in KINDS for department in DEPARTMENTS)
DAY_DIGITS, NUMBER_DIGITS, PRODUCT_DIGITS = 5, 8, 4

_FIELDS: Final = ("customer", "type", "occurred", "amount", "quantity", "category", "product", "session", "day", "number")

Piece = tuple["U8", "I64"]  # (n, w) bytes, and how many of each row count


def records(rows: Events, digest: str, digits: int) -> list[dict[str, Any]]:
    """Give events as records of the schema, one by one: for looking at, and for malformed ones to be made of."""
    columns = (rows[name].tolist() for name in _FIELDS)
    return [
        {
            "event_id": f"{digest}-{day:0{DAY_DIGITS}d}-{number:0{NUMBER_DIGITS}d}",
            "customer_id": f"c-{customer:0{digits}d}",
            "event_type": TYPES[kind],
            "occurred_at": occurred,
            "amount": None if amount == NONE else amount,
            "currency": None if amount == NONE else CURRENCY,
            "quantity": None if quantity == NONE else quantity,
            "product_id": None if product == NONE else f"p-{product:0{PRODUCT_DIGITS}d}",
            "category": None if kind == SEARCH else NAMES[category],
            "session_id": None if session == NONE else f"s-{day:0{DAY_DIGITS}d}-{session:0{NUMBER_DIGITS}d}",
            "properties": {"query": NAMES[category]} if kind == SEARCH else {},
        }
        for customer, kind, occurred, amount, quantity, category, product, session, day, number in zip(*columns, strict=True)
    ]


def keys(rows: Events, digits: int) -> list[bytes]:
    """Give the records' keys: the customers' ids."""
    n = len(rows)
    text = np.hstack([np.tile(np.frombuffer(b"c-", np.uint8), (n, 1)), _digits(rows["customer"].astype(np.int64), digits)])
    found: list[bytes] = np.ascontiguousarray(text).view(f"S{digits + 2}").ravel().tolist()
    return found


def values(rows: Events, digest: str, digits: int, schema_id: int) -> list[bytes]:
    """Write events as records' values."""
    n = len(rows)
    if not n:
        return []
    day, number, session = (rows[name].astype(np.int64) for name in ("day", "number", "session"))
    searched = rows["type"] == SEARCH
    given = rows["session"] != NONE
    id_size = len(digest) + DAY_DIGITS + NUMBER_DIGITS + 2
    pieces = [
        _same(wire.prefix(schema_id) + _text_length(id_size) + digest.encode() + b"-", n),
        _always(_digits(day, DAY_DIGITS)),
        _same(b"-", n),
        _always(_digits(number, NUMBER_DIGITS)),
        _same(_text_length(digits + 2) + b"c-", n),
        _always(_digits(rows["customer"].astype(np.int64), digits)),
        _looked_up(_TYPES, rows["type"]),
        _varint(rows["occurred"]),
        *_optional_number(rows["amount"]),
        _looked_up(_CURRENCIES, rows["amount"] != NONE),
        *_optional_number(rows["quantity"]),
        _looked_up(_PRODUCTS, rows["product"]),
        _looked_up(_CATEGORIES, np.where(searched, NONE, rows["category"])),
        _looked_up([b"\x00", b"\x02" + _text_length(DAY_DIGITS + NUMBER_DIGITS + 3) + b"s-"], given),
        _where(given, _digits(day, DAY_DIGITS)),
        _where(given, np.tile(np.frombuffer(b"-", np.uint8), (n, 1))),
        _where(given, _digits(session, NUMBER_DIGITS)),
        _looked_up(_QUERIES, np.where(searched, rows["category"], NONE)),
    ]
    mask = np.hstack([np.arange(piece.shape[1]) < size[:, None] for piece, size in pieces])
    flat = np.hstack([piece for piece, _ in pieces])[mask].tobytes()
    ends = np.cumsum(mask.sum(axis=1)).tolist()
    return [flat[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _text_length(size: int) -> bytes:
    return bytes([2 * size])  # zigzag, and below 64


def _text(text: str) -> bytes:
    return _text_length(len(text)) + text.encode()


_TYPES: Final = [_text(name) for name in TYPES]
_CURRENCIES: Final = [b"\x00", b"\x02" + _text(CURRENCY)]
# Place NONE, the last, is null.
_PRODUCTS: Final = [*(b"\x02" + _text(f"p-{p:0{PRODUCT_DIGITS}d}") for p in range(CATEGORIES * PRODUCTS_PER_CATEGORY)), b"\x00"]
_CATEGORIES: Final = [*(b"\x02" + _text(name) for name in NAMES), b"\x00"]
_QUERIES: Final = [*(b"\x02" + _text("query") + _text(name) + b"\x00" for name in NAMES), b"\x00"]


def _same(text: bytes, n: int) -> Piece:
    return np.broadcast_to(np.frombuffer(text, np.uint8), (n, len(text))), np.full(n, len(text))


def _always(matrix: U8) -> Piece:
    return matrix, np.full(len(matrix), matrix.shape[1])


def _where(given: Any, matrix: U8) -> Piece:  # noqa: ANN401  # a field of EVENT
    return matrix, np.where(given, matrix.shape[1], 0)


def _looked_up(texts: Sequence[bytes], places: Any) -> Piece:  # noqa: ANN401  # a field of EVENT
    width = max(map(len, texts))
    table = np.frombuffer(b"".join(text.ljust(width, b"\x00") for text in texts), np.uint8).reshape(len(texts), width)
    places = np.asarray(places).astype(np.int64)
    return table[places], np.array([len(text) for text in texts])[places]


def _digits(numbers: I64, width: int) -> U8:
    out = np.empty((len(numbers), width), np.uint8)
    left = numbers.astype(np.int64)
    for column in range(width - 1, -1, -1):
        left, digit = np.divmod(left, 10)
        out[:, column] = digit + 48
    return out


def _varint(numbers: Any) -> Piece:  # noqa: ANN401  # a field of EVENT
    zigzag = numbers.astype(np.uint64) << np.uint64(1)  # none is negative
    width = max(1, -(-int(zigzag.max(initial=0)).bit_length() // 7))
    out = np.empty((len(numbers), width), np.uint8)
    size = np.ones(len(numbers), np.int64)
    for column in range(width):
        rest = zigzag >> np.uint64(7)
        more = rest > 0
        out[:, column] = (zigzag & np.uint64(0x7F)) | (more.astype(np.uint64) << np.uint64(7))
        size += more
        zigzag = rest
    return out, size


def _optional_number(numbers: Any) -> tuple[Piece, Piece]:  # noqa: ANN401  # a field of EVENT
    given = numbers != NONE
    matrix, size = _varint(np.where(given, numbers, 0))
    return _looked_up([b"\x00", b"\x02"], given), (matrix, np.where(given, size, 0))

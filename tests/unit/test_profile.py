"""The bytes of a profile: what is kept, what is dropped. The laws of packing are in tests/properties/test_fold_laws.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamer.core.hashing import xxh64
from streamer.core.plan import horizon_ms
from streamer.core.profile import CORRUPT, LAYOUT, NEVER, PRESENT, pack
from tests.corekit import DAY_MS, HOUR_MS, T0, Event, Stream, closed, event, opened, packaged

TREE: dict[str, Any] = {
    "duplicates": {"ids_max": 4, "age": "1d"},
    "measures": {
        "spend": {"sum": "amount"},
        "least": {"min": "amount"},
        "most": {"max": "amount"},
        "kinds": {"distinct": "category"},
        "first": {"first": "any"},
        "last": {"last": "buy"},
        "events": {"lifetime_count": "any"},
        "spent": {"lifetime_sum": "amount"},
    },
    "features": {
        "spend_2d": {"sum": "spend", "window": "2d"},
        "spend_5h": {"sum": "spend", "window": "5h"},
        "least_2d": {"min": "least", "window": "2d"},
        "most_2d": {"max": "most", "window": "2d"},
        "kinds_2d": {"distinct": "kinds", "window": "2d"},
        "since": {"recency": "first", "cap": "9d"},
        "since_buy": {"recency": "last", "cap": "9d"},
        "spent": {"lifetime": "spent"},
    },
    "eligibility": {"events": 1},
}


def stream_of(*rows: dict[str, Any], tree: Any = None) -> Stream:
    """Fold events in one batch."""
    stream = Stream.of(tree or TREE)
    stream.fold([Event(0, i, row) for i, row in enumerate(rows)])
    return stream


def test_the_bytes_are_those_that_the_layout_describes() -> None:
    stream = stream_of(event("buy", T0 + 1, event_id="a", amount=-3))
    clock = varint(2 * (T0 + 1))
    known = int(xxh64(np.frombuffer(b"a", np.uint8), 0, 1)) >> 16
    body = (
        bytes([LAYOUT])
        + int(stream.plan.tag).to_bytes(4, "little")
        + bytes([1, 1, 1])
        + clock
        + bytes([0, 0, 0, 0])
        + varint(2 * -NEVER - 1)
        + bytes([0, 0])
        + bytes([1, 1, 2, 5])
        + bytes([0])
        + known.to_bytes(6, "little")
        + bytes([0])
        + bytes([0, 0b111, 5, 5, 5])
        + bytes([0, 0b001, 5])
    )
    check = int(xxh64(np.frombuffer(body, np.uint8), 0, len(body))) & 0xFFFFFFFF
    assert body + check.to_bytes(4, "little") == stream.profiles[0, "ann"]


def varint(value: int) -> bytes:
    """Write a LEB128 varint."""
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_what_is_beyond_every_window_is_dropped_and_lifetimes_stay() -> None:
    early = [event("buy", T0 - hours * HOUR_MS, amount=1, category=f"{hours}") for hours in (0, 5, 6, 48, 49)]
    stream = stream_of(*early)
    work = stream.work()
    assert ([3], [2]) == (work.days.count.tolist(), work.hours.count.tolist())
    assert 4 == int((work.seen >= 0).sum())
    later = stream_of(*early, event("look", T0 + 30 * DAY_MS))
    work = later.work()
    assert ([1], [1], 0) == (work.days.count.tolist(), work.hours.count.tolist(), int((work.seen >= 0).sum()))
    assert [T0 - 49 * HOUR_MS, T0, 6, 5] == work.life[0].tolist()
    assert 3 * DAY_MS == horizon_ms(later.plan)


def test_a_time_that_never_was_stays_unknown() -> None:
    work = stream_of(event("look", T0)).work()
    assert [T0, NEVER, 1, 0] == work.life[0].tolist()


@pytest.mark.parametrize("value", [0, -1, 63, 64, 10**18, -(10**18), 2**62, -(2**62) - 1, 2**63 - 1, -(2**63)])
def test_every_64_bit_number_survives(value: int) -> None:
    stream = stream_of(event("buy", T0, amount=7))
    work = stream.work()
    work.days.value[0, :3] = value
    work.life[0, 3] = value
    packed = closed(stream.plan, work)
    again = opened(stream.plan, packed)
    assert [value] * 4 == [*again.days.value[0, :3].tolist(), int(again.life[0, 3])]
    assert packed == closed(stream.plan, again)


def test_a_sum_beyond_64_bits_wraps_around_and_comes_back() -> None:
    stream = stream_of(event("buy", T0, amount=7))
    work = stream.work()
    work.life[0, 3] = 2**63 - 1
    stream.profiles[0, "ann"] = closed(stream.plan, work)[0]
    with np.errstate(over="ignore"):
        stream.fold([Event(0, 1, event("buy", T0, event_id="more", amount=5))])
        assert -(2**63) + 4 == int(stream.work().life[0, 3])
        stream.fold([Event(0, 2, event("buy", T0, event_id="less", amount=-5))])
    assert 2**63 - 1 == int(stream.work().life[0, 3])


def test_chosen_customers_are_packed_in_the_order_given() -> None:
    stream = stream_of(event("buy", T0, "ann", amount=1), event("buy", T0, "bob", amount=2), event("buy", T0, "cyd", amount=3))
    work = stream.work()
    data, bounds = pack(stream.plan, work, np.array([2, 0]))
    assert stream.profiles[0, "cyd"] + stream.profiles[0, "ann"] == data.tobytes()
    assert [0, len(stream.profiles[0, "cyd"]), len(data)] == bounds.tolist()
    assert (0, [0]) == (len(pack(stream.plan, work, np.zeros(0, np.int64))[0]), pack(stream.plan, work, np.zeros(0, np.int64))[1].tolist())


def test_a_refused_profile_leaves_the_columns_of_a_new_customer_to_its_neighbours() -> None:
    stream = stream_of(event("buy", T0, "ann", amount=1), event("buy", T0, "bob", amount=2))
    ann, bob = stream.profiles[0, "ann"], stream.profiles[0, "bob"]
    work = opened(stream.plan, [ann, bob[:-1] + b"\0\0", bob, b"", b"short"])
    assert [PRESENT, CORRUPT, PRESENT, 0, CORRUPT] == work.found.tolist()
    assert [1, 0, 2, 0, 0] == work.life[:, 3].tolist()
    assert [T0, NEVER, T0, NEVER, NEVER] == work.head[:, 0].tolist()


def test_a_customer_of_whom_nothing_is_known_packs_to_no_bytes() -> None:
    stream = Stream.of(TREE)
    assert [b"", b""] == closed(stream.plan, opened(stream.plan, [b"", b""]))


def foreign(stream: Stream, body: bytes) -> int:
    """Tell what is found of a body under the right tag and checksum."""
    whole = stream.profiles[0, "ann"][:5] + body
    check = int(xxh64(np.frombuffer(whole, np.uint8), 0, len(whole))) & 0xFFFFFFFF
    return int(opened(stream.plan, [whole + check.to_bytes(4, "little")]).found[0])


def test_a_body_that_is_no_profile_is_refused_though_its_checksum_is_right() -> None:
    stream = stream_of(event("buy", T0, event_id="a", amount=-3))
    good = stream.profiles[0, "ann"][5:-4]
    clock = len(varint(2 * T0))
    held = 3 + clock + 4 + len(varint(2 * -NEVER - 1)) + 1  # where `held` is, the last of the head
    bad = {
        "nothing": b"",
        "more day tiles than bytes": b"\x7f" + good[1:],
        "more hour tiles than bytes": good[:1] + b"\x7f" + good[2:],
        "more ids than are remembered": good[:2] + b"\5" + good[3:],
        "an endless number": good[:3] + b"\x80" * 11 + good[3 + clock :],
        "a clock before all time": good[:3] + b"\xff" * 9 + b"\1" + good[3 + clock :],
        "an event after the clock": good[: held - 1] + b"\xff" * 9 + b"\1" + good[held:],
        "a vote without coordinates": good[:held] + b"\1",
        "a vote after the end": good[:held],
        "more buckets than there are": good[: held + 5] + b"\x41" + good[held + 6 :],
        "a bucket that is not there": good[: held + 5] + b"\1\x40\0" + good[held + 6 :],
        "an id without its hash": good[: held + 6] + b"\0\0",
        "a measure that is not there": good[:-7] + b"\x0f" + good[-7:],
        "something after the end": good + b"\0",
        "an end too soon": good[:-1],
    }
    assert PRESENT == foreign(stream, good)
    assert dict.fromkeys(bad, CORRUPT) == {name: foreign(stream, body) for name, body in bad.items()}


def test_a_profile_of_twenty_active_days_takes_about_two_hundred_bytes() -> None:
    stream = Stream.of(packaged())
    rows = [event("view", T0 + day * DAY_MS, category=f"k{day % 9}") for day in range(0, 80, 4)]
    stream.fold([Event(0, i, row) for i, row in enumerate(rows)])
    assert len(stream.profiles[0, "ann"]) < 200

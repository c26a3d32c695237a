"""Dead letters: what is written of a refused record, how it is found, and what is sent again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.adapters.avro import wire
from streamer.app import letters
from streamer.app.letters import KEY_BYTES_MAX, LETTER_BYTES_MAX, OWN_HEADERS_BYTES_MAX
from streamer.core.columns import Fetched
from streamer.core.ports import Topic
from streamer.core.reasons import REMEDIES, Reason
from tests.fakes.job import INPUT, Job, headers, shop

if TYPE_CHECKING:
    from streamer.core.columns import Headers
    from streamer.core.ports import OutRecord

NOW = 1_700_000_000_000
RECORD = b"\0\0\0\0\1rest"


def fetched(key: bytes | None, value: bytes | None, own: Headers = ()) -> Fetched:
    """Two records: one of no interest, and this one, which was refused."""
    whole = RECORD + (value or b"")
    bounds = np.array([0, len(RECORD), len(whole)])
    empty = np.array([False, value is None])
    place = np.array([4, 4], np.int32), np.array([100, 101]), np.array([NOW, NOW])
    return Fetched(*place, whole, bounds, empty, (b"other", key), {1: own} if own else {})


def size(letter: OutRecord) -> int:
    return sum(len(part or b"") for part in (letter.key, letter.value, *(part for _, part in letter.headers)))


# Writing


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.OK])
def test_a_letter_is_the_record_with_reason_remedy_and_source_after_its_own_headers(reason: Reason) -> None:
    own = (("trace", b"1"), ("none", None))
    letter = letters.write(fetched(b"k", b"value", own), 1, reason, "customer-events")
    assert (Topic.DEAD_LETTERS, None, b"k", b"value", own) == (*letter[:4], letter.headers[:2])
    assert ("dlq.reason", reason.name.lower().encode()) == letter.headers[2]
    assert ("dlq.error", REMEDIES[reason].encode()) == letter.headers[3]
    name, source = letter.headers[4]
    assert "dlq.source" == name
    assert {"topic": "customer-events", "partition": 4, "offset": 101, "timestamp": NOW} == json.loads(source or b"")
    assert 5 == len(letter.headers)


def test_a_record_without_key_value_or_headers_is_a_letter_without_them() -> None:
    letter = letters.write(fetched(None, None), 1, Reason.NO_VALUE, "customer-events")
    assert (None, None, ["dlq.reason", "dlq.error", "dlq.source"]) == (letter.key, letter.value, [name for name, _ in letter.headers])


@pytest.mark.parametrize(
    ("key", "value", "own"),
    [
        (b"k", b"v" * 5_000_000, ()),
        (b"k" * 1_000_000, b"v", ()),
        (b"k" * 400_000, b"v" * 400_000, tuple((f"h{i}", b"x" * 100) for i in range(2_000))),
        (None, b"v" * LETTER_BYTES_MAX, (("h", b"x"),)),
        (b"k", None, (("h", b"x" * LETTER_BYTES_MAX),)),
        (b"k", b"v", tuple(("", None) for _ in range(60_000))),
    ],
)
def test_a_record_beyond_any_message_is_cut_and_says_what_it_was(key: bytes | None, value: bytes | None, own: Headers) -> None:
    letter = letters.write(fetched(key, value, own), 1, Reason.TOO_LARGE, "customer-events")
    assert size(letter) < LETTER_BYTES_MAX + 1_000
    whole = json.loads(headers(letter)["dlq.cut"] or b"")
    assert {"key": len(key or b""), "value": len(value or b""), "headers": len(own)} == whole
    assert (key is None, value is None) == (letter.key is None, letter.value is None)
    assert (key or b"").startswith(letter.key or b"")
    assert (value or b"").startswith(letter.value or b"")
    assert len(letter.key or b"") == min(len(key or b""), KEY_BYTES_MAX)
    kept = letter.headers[:-4]
    assert own[: len(kept)] == kept
    assert sum(len(name) + len(part or b"") for name, part in kept) <= OWN_HEADERS_BYTES_MAX


def test_the_longest_record_that_is_not_cut_is_whole() -> None:
    letter = letters.write(fetched(b"k", b"v" * (LETTER_BYTES_MAX - 1)), 1, Reason.TRUNCATED, "customer-events")
    assert LETTER_BYTES_MAX - 1 == len(letter.value or b"")
    assert "dlq.cut" not in headers(letter)


def test_a_worker_outlives_a_record_that_was_compressed_from_megabytes() -> None:
    job = Job()
    job.send(shop(20, 5))
    job.broker.append(INPUT, 1, b"c", wire.framed(b"\0" * 20_000_000, 1))
    job.send(shop(20, 5, seed=1))
    job.settle(job.worker())
    [letter] = job.records(Topic.DEAD_LETTERS)
    assert b"too_large" == headers(letter)["dlq.reason"]
    assert 20_000_005 == json.loads(headers(letter)["dlq.cut"] or b"")["value"]
    assert len(letter.value) <= LETTER_BYTES_MAX
    assert 40 == sum(job.counts().values())

"""The invariant of hostile input, and who judges it.

**Whatever the bytes of a record are, under whatever framing and writer's schema that was taken:**

1. it comes out as one row, or as one reason, and nothing is raised;
2. it is a row exactly where an independent reader of Avro's rules lets it pass, fastavro reads it to its last byte, and the event keeps the
   limits; the row then says what fastavro read;
3. no byte outside of the record is read: there is none in a batch of one, and in a batch of many each comes out as it does alone;
4. reading it takes no longer than its length and the limit on items allow.

The reasons are judged as well. Where a body breaks a rule and holds what the reader's schema can't take besides, either may come first.
"""

from __future__ import annotations

import base64
from collections import Counter
from io import BytesIO
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np
import xxhash

from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.app.intake import EVENT, Intake, Taken
from streamer.core.columns import Fetched
from streamer.core.declaration import declare
from streamer.core.fold import ERASE, ERASED, MERGE, MERGED, PASSED
from streamer.core.intake import EARLIEST_MS, LATEST_MS, NUMBER_MAX, Limits
from streamer.core.reasons import Reason
from tests import oracle
from tests.fuzz.records import DECLARED, FIRST_ID, NOW_MS, Texts, record_of, writer
from tests.properties.strict_avro import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from streamer.core.columns import Headers

ITEMS_MAX, BYTES_MAX = 200, 5_000
LIMITS = Limits()
SUMS, DISTINCTS = ("spend", "pieces", "fee"), ("kinds", "colours")
FEATURES: dict[str, Any] = {
    "money": {"currency": "EUR"},
    "measures": {
        "events": {"lifetime_count": "any"},
        "spend": {"sum": "amount", "of": "purchase"},
        "pieces": {"sum": "quantity"},
        "fee": {"sum": "properties.fee", "decimals": 2},
        "kinds": {"distinct": "category"},
        "colours": {"distinct": "properties.colour"},
    },
    "features": {
        **{f"{name}_30d": {"sum": name, "window": "30d"} for name in SUMS},
        **{f"{name}_30d": {"distinct": name, "window": "30d"} for name in DISTINCTS},
    },
    "eligibility": {"events": 2},
}
DECLARATION = declare(FEATURES)
RESOLUTION = {"BAD_BRANCH", "BAD_UTF8"}
COMMANDS = {"$erase": ERASE, "$merge": MERGE, "$merged": MERGED, "$erased": ERASED, "$passed": PASSED}


def intake() -> Intake:
    """Make what is judged."""
    return Intake(DECLARATION, WriterSchemas(Texts()), LIMITS, ITEMS_MAX, BYTES_MAX)


def fetched(cases: Sequence[bytes]) -> Fetched:
    """Make a batch of cases."""
    records = [record_of(case) for case in cases]
    bounds = np.cumsum([0, *(len(value) for value, _ in records)], dtype=np.int64)
    n = len(records)
    headers = {i: given for i, (_, given) in enumerate(records) if given}
    place = np.zeros(n, np.int32), np.arange(n), np.full(n, NOW_MS)
    return Fetched(*place, b"".join(value for value, _ in records), bounds, np.zeros(n, np.bool_), (b"k",) * n, headers)


def expected(value: bytes, headers: Headers) -> tuple[set[str], Mapping[str, Any] | None]:  # noqa: PLR0911  # a line for each way to end
    """Judge a record alone: the reasons of which it must have one, and what fastavro reads of it where that may be said."""
    opening = wire.opening(value, headers)
    if opening.schema_id is None:
        return {opening.reason.name}, None
    if len(value) > BYTES_MAX:
        return {"TOO_LARGE"}, None
    index = (opening.schema_id if isinstance(opening.schema_id, int) else opening.schema_id.int) - FIRST_ID
    if not 0 <= index < len(DECLARED):
        return {"UNKNOWN_SCHEMA"}, None
    body = value[opening.body :]
    broken = refusal(DECLARED[index], body, ITEMS_MAX)
    if broken is not None:
        return {broken} if index == 0 else {broken, *RESOLUTION}, None
    stream = BytesIO(body)
    try:
        event: dict[str, Any] = fastavro.schemaless_reader(stream, writer(index).plain, codec.working_copy(EVENT).plain)  # type: ignore[assignment]
    except Exception:  # noqa: BLE001  # fastavro has no one exception for a bad body
        return RESOLUTION, None
    if stream.tell() != len(body):
        return {"TRAILING_BYTES"}, None
    return {_event_reason(event)}, event


def _event_reason(event: Mapping[str, Any]) -> str:  # noqa: C901, PLR0911  # a line for each rule
    for name, most in (
        ("event_id", LIMITS.event_id_bytes_max),
        ("customer_id", LIMITS.customer_id_bytes_max),
        ("event_type", LIMITS.event_type_bytes_max),
    ):
        if not 0 < len(event[name].encode()) <= most:
            return f"BAD_{name.upper()}"
    if event["event_type"].startswith("$") and event["event_type"] not in COMMANDS:
        return "UNKNOWN_COMMAND"
    if not EARLIEST_MS <= event["occurred_at"] < LATEST_MS:
        return "TIME_OUT_OF_RANGE"
    if event["occurred_at"] > NOW_MS + LIMITS.future_ms_max:
        return "TIME_IN_FUTURE"
    for name in ("amount", "quantity"):
        if abs(event[name] or 0) > NUMBER_MAX:
            return f"{name.upper()}_OUT_OF_RANGE"
    if event["amount"] is not None and event["currency"] not in {None, "EUR"}:
        return "CURRENCY_REFUSED"
    if event["event_type"] in COMMANDS:  # whatever else it says; those that only history has come from nobody else
        return _command_reason(event)
    fee = event["properties"].get("fee", "0")
    if oracle.scaled(fee, 2) is not None:
        return "OK"
    return "PROPERTY_NOT_A_NUMBER" if oracle._NUMBER.fullmatch(fee) is None else "PROPERTY_OUT_OF_RANGE"


def _command_reason(event: Mapping[str, Any]) -> str:
    """Judge a command; a profile of our own making is nothing that a fuzzer finds."""
    if event["event_type"] == "$erase":
        return "OK"
    if event["event_type"] == "$merge":
        into = event["properties"].get("into", "")
        return "OK" if 0 < len(into.encode()) <= LIMITS.customer_id_bytes_max and into != event["customer_id"] else "BAD_MERGE"
    return "BAD_MERGE" if event["event_type"] == "$merged" else "UNKNOWN_COMMAND"


def _row(taken: Taken, n: int) -> tuple[Any, ...]:
    rows = taken.rows
    customer = taken.values[taken.id_start[n] : taken.id_start[n] + taken.id_length[n]].tobytes()
    sources = tuple(int(value) if there else None for value, there in zip(rows.value[:, n], rows.there[:, n], strict=True))
    texts = tuple(int(value) if there else None for value, there in zip(rows.text[:, n], rows.text_there[:, n], strict=True))
    return customer, int(rows.time[n]), int(rows.type[n]), int(rows.event_id[n]), sources, texts


def _row_of(event: Mapping[str, Any]) -> tuple[Any, ...]:
    kinds = {name: place for place, name in enumerate(DECLARATION.types)}
    command = event["event_type"] in COMMANDS
    kind = COMMANDS[event["event_type"]] if command else kinds.get(event["event_type"], len(kinds))
    properties = event["properties"]
    numbers = (
        dict.fromkeys(("amount", "quantity", "properties.fee"))
        if command
        else {
            "amount": event["amount"] if event["event_type"] == "purchase" else None,
            "quantity": event["quantity"],
            "properties.fee": oracle.scaled(properties["fee"], 2) if "fee" in properties else None,
        }
    )
    texts = {"category": event["category"], "properties.colour": properties.get("colour")}
    hashed = {name: None if text is None else xxhash.xxh64_intdigest(text.encode()) for name, text in texts.items()}
    return (
        event["customer_id"].encode(),
        event["occurred_at"],
        kind,
        xxhash.xxh64_intdigest(event["event_id"].encode()),
        tuple(numbers[source.field] for source in DECLARATION.sources),
        tuple(hashed[measure.field] for measure in DECLARATION.distincts),
    )


def judge(cases: Sequence[bytes], taker: Intake) -> Counter[str]:
    """Take cases in one batch and hold each to the invariant; counts the reasons.

    Raises:
        AssertionError: a case breaks the invariant; the message is that case.

    """
    batch = fetched(cases)
    taken = taker.take(batch, np.zeros(len(cases), np.int32))
    place = {int(record): n for n, record in enumerate(taken.record)}
    reasons: Counter[str] = Counter()
    for i, case in enumerate(cases):
        got = Reason(int(taken.status[i])).name
        allowed, event = expected(*record_of(case))
        named = f"{base64.b64encode(case).decode()}: {got}, not {sorted(allowed)}"
        assert got in allowed, named
        assert (got == "OK") == (i in place), named
        if got == "OK" and event is not None:
            assert _row_of(event) == _row(taken, place[i]), named
        reasons[got] += 1
    return reasons

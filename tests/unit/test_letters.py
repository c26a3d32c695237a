"""Dead letters: what is written of a refused record, how it is found, and what is sent again."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

from streamer.adapters.avro import wire
from streamer.app import dlq_command, letters, wiring
from streamer.app.letters import KEY_BYTES_MAX, LETTER_BYTES_MAX, OWN_HEADERS_BYTES_MAX, Address, Again, Letter, Retried, Round, Wanted
from streamer.app.reading import read
from streamer.app.session import Session
from streamer.cli import app
from streamer.core.columns import Fetched
from streamer.core.errors import Unavailable
from streamer.core.ports import LogRecord, Topic
from streamer.core.reasons import REMEDIES, Reason
from tests.fakes.job import INPUT, Job, encoded, headers, shop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from typer.testing import Result

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


# Finding

EVENT: dict[str, Any] = {"event_id": "e", "customer_id": "c1", "event_type": "view", "occurred_at": NOW}
PAGE = Path(__file__).parents[2] / "docs" / "dead-letters.md"


class FakeLog:
    """Looks at the fake broker's topics."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.most = 0

    def partitions(self, topic: str) -> int | None:
        logs = self.job.broker.topics.get(topic)
        return None if logs is None else len(logs)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return 0, self.job.broker.topics[topic][partition].high

    def between(self, topic: str, partition: int, first: int, end: int) -> list[LogRecord]:
        self.most = max(self.most, end - first)
        found = [record for record in self.job.broker.topics[topic][partition].records if first <= record.offset < end]
        return [LogRecord(r.offset, r.timestamp, r.key, r.value, r.headers) for r in found]

    def close(self) -> None:
        pass


class FakeSender:
    """Appends to the fake broker's topics; fails after so many calls, if told to."""

    def __init__(self, job: Job, topic: str, calls_left: int = 1_000) -> None:
        self.job, self.topic, self.calls_left = job, topic, calls_left

    def _called(self) -> None:
        self.calls_left -= 1
        if self.calls_left < 0:
            raise Unavailable

    def send(self, records: Sequence[Again]) -> None:
        self._called()
        for record in records:
            self.job.broker.append(INPUT, record.partition if record.partition >= 0 else None, record.key, record.value, record.headers)

    def note(self, partition: int, headers: Headers) -> None:
        self._called()
        self.job.broker.append(self.topic, partition, None, None, headers)

    def close(self) -> None:
        pass


class Shop:
    """A job whose worker refused some records."""

    def __init__(self) -> None:
        self.job = Job()
        self.topic = self.job.topics(self.job.run)[Topic.DEAD_LETTERS]
        self.log = FakeLog(self.job)
        right = encoded(EVENT)
        own = (("trace", b"1"), ("dlq.reason", b"forged"))
        bad = [(1, b"k", right + b"\0", own), (2, None, None, ()), (1, b"k", right[:-1], ()), (3, b"\xff", b"\x1b[2J", ())]
        for partition, key, value, given in bad:
            self.job.broker.append(INPUT, partition, key, value, given)
            self.job.broker.now_ms += 60_000
        self.worker = self.job.worker()
        self.settle()

    def settle(self) -> None:
        self.job.settle(self.worker)

    def find(self, scan_max: int = 1_000, **filters: Any) -> letters.Found:
        return letters.find(self.log, self.topic, 1, Wanted(**filters), scan_max)

    def retry(
        self, sender: FakeSender | None = None, *, again: bool = False, limit: int = 100, **filters: Any
    ) -> tuple[letters.Chosen, Retried]:
        chosen = letters.choose(self.find(**filters).letters, limit, again=again)
        done = Retried([], [])
        where = Round(self.log, sender or FakeSender(self.job, self.topic), self.topic, INPUT, self.job.partitions)
        letters.send_again(where, chosen.letters, done, lambda: NOW)
        return chosen, done

    def reasons(self, **filters: Any) -> list[str]:
        return [letter.reason for letter in self.find(**filters).letters]


@pytest.fixture
def shop_() -> Shop:
    return Shop()


def test_every_letter_is_found_with_where_it_came_from(shop_: Shop) -> None:
    found = shop_.find()
    assert sorted(["trailing_bytes", "no_value", "truncated", "no_schema_id"]) == sorted(shop_.reasons())
    assert (4, True) == (found.seen, found.complete)
    for letter in found.letters:
        assert letter.source is not None
        record = shop_.job.broker.topics[INPUT][letter.source.partition].records[letter.source.offset]
        assert (record.key, record.timestamp) == (letter.key, letter.source.timestamp)
        assert letter.value_bytes == (None if record.value is None else len(record.value))
        assert (False, False, False) == (letter.cut, letter.again, letter.retried)


def test_a_letter_is_meant_if_every_filter_lets_it_through(shop_: Shop) -> None:
    assert ["truncated"] == shop_.reasons(reasons=frozenset({"truncated"}))
    assert {"truncated", "trailing_bytes"} == set(shop_.reasons(partitions=frozenset({1})))
    assert [] == shop_.reasons(partitions=frozenset({1}), reasons=frozenset({"no_value"}))
    [first, *_] = shop_.find().letters
    assert [first.reason] == shop_.reasons(addresses=frozenset({first.address}))
    assert [] == shop_.reasons(since_ms=first.refused_ms + 1)
    assert 4 == shop_.find(since_ms=first.refused_ms + 1).seen


def test_the_search_is_bounded_and_says_so(shop_: Shop) -> None:
    whole = shop_.find().searched[0]
    found = shop_.find(scan_max=3)
    assert (False, whole.end - 3) == (found.complete, found.searched[0].first)
    assert len(found.letters) < 4


def test_what_others_write_to_the_topic_is_passed_over(shop_: Shop) -> None:
    for given in ((), (("dlq.note", b"{"),), (("dlq.note", b'{"retried": 7}'),), (("dlq.note", b"[" * 9_999),)):
        shop_.job.broker.append(shop_.topic, 0, b"k", b"v", given)
    odd: tuple[bytes | None, ...] = (b"7", b"{}", b'{"topic": "t", "partition": 1e999, "offset": 1, "timestamp": 1}', None, b"\xff")
    for source in odd:
        shop_.job.broker.append(shop_.topic, 0, b"k", b"v", (("dlq.reason", b"made up"), ("dlq.source", source)))
    found = shop_.find(reasons=frozenset({"made up"}))
    assert [None] * len(odd) == [letter.source for letter in found.letters]
    assert [] == shop_.retry(reasons=frozenset({"made up"}))[1].gone


# Sending again


def test_a_retried_record_is_the_original_in_its_partition_and_names_its_letter(shop_: Shop) -> None:
    [letter] = shop_.find(reasons=frozenset({"trailing_bytes"})).letters
    first = shop_.job.broker.topics[INPUT][1].records[0]
    _, done = shop_.retry(reasons=frozenset({"trailing_bytes"}))
    sent = shop_.job.broker.topics[INPUT][1].records[-1]
    assert [letter.address] == done.sent
    assert (first.key, first.value) == (sent.key, sent.value)
    assert ("trace", b"1") == sent.headers[0]
    assert ["trace", "dlq.retried_from"] == [name for name, _ in sent.headers]
    assert {"topic": shop_.topic, "partition": 0, "offset": letter.address.offset} == json.loads(sent.headers[1][1] or b"")


def test_nothing_is_retried_twice_unless_told_so(shop_: Shop) -> None:
    assert 4 == len(shop_.retry()[1].sent)
    assert {True} == {letter.retried for letter in shop_.find().letters}
    chosen, done = shop_.retry()
    assert ([], {"retried": 4}) == (done.sent, chosen.skipped)
    shop_.settle()
    assert 8 == shop_.find().seen
    chosen, done = shop_.retry()
    assert ([], {"retried": 4, "refused_again": 4}) == (done.sent, chosen.skipped)
    assert 8 == len(shop_.retry(again=True)[1].sent)


def test_a_record_that_was_right_all_along_counts_once_however_often_it_is_retried(shop_: Shop) -> None:
    value = encoded(EVENT)
    source = json.dumps({"topic": INPUT, "partition": 1, "offset": 0, "timestamp": NOW}).encode()
    shop_.job.broker.append(shop_.topic, 0, b"c1", value, (("dlq.reason", b"unknown_schema"), ("dlq.source", source)))
    for _ in range(2):
        assert 1 == len(shop_.retry(reasons=frozenset({"unknown_schema"}), again=True)[1].sent)
    shop_.settle()
    assert {"c1": 1} == shop_.job.counts()


def test_the_oldest_are_retried_first_and_the_rest_is_told(shop_: Shop) -> None:
    chosen, done = shop_.retry(limit=3)
    assert (3, 1) == (len(done.sent), chosen.left)
    chosen, done = shop_.retry(limit=3)
    assert (1, 0, {"retried": 3}) == (len(done.sent), chosen.left, chosen.skipped)


def test_after_a_failure_it_is_known_what_was_done(shop_: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "CHUNK_RETRIED", 2)
    where = Round(shop_.log, FakeSender(shop_.job, shop_.topic, calls_left=3), shop_.topic, INPUT, shop_.job.partitions)
    done = Retried([], [])
    chosen = letters.choose(shop_.find().letters, 100, again=False)
    with pytest.raises(Unavailable):
        letters.send_again(where, chosen.letters, done, lambda: NOW)
    assert 2 == len(done.sent) == sum(letter.retried for letter in shop_.find().letters)
    assert 2 == len(shop_.retry()[1].sent)


def test_a_letter_that_was_cut_is_retried_whole_while_its_record_is_on_the_input() -> None:
    shop_ = Shop()
    whole = encoded({**EVENT, "session_id": "x" * 2_000_000})
    shop_.job.broker.append(INPUT, 2, b"c1", whole)
    shop_.settle()
    [letter] = shop_.find(reasons=frozenset({"too_large"})).letters
    assert (True, True) == (letter.cut, (letter.value_bytes or 0) < len(whole))
    assert [letter.address] == shop_.retry(reasons=frozenset({"too_large"}))[1].sent
    assert whole == shop_.job.broker.topics[INPUT][2].records[-1].value
    del shop_.job.broker.topics[INPUT][2].records[:]
    assert [letter.address] == shop_.retry(reasons=frozenset({"too_large"}), again=True)[1].gone


def test_letters_far_apart_are_read_without_what_lies_between(shop_: Shop) -> None:
    shop_.job.broker.topics[shop_.topic][0].high = 1_000_000
    shop_.log.most = 0
    assert {0, 3} == set(letters.read_at(shop_.log, shop_.topic, 0, [0, 3, 600_000, 999_999, 2_000_000, -1]))
    assert shop_.log.most <= letters.CHUNK_OFFSETS


# What a record decodes to


class Texts:
    """One schema, and one that is none."""

    def by_id(self, schema_id: int, /) -> str | None:
        import schemas  # noqa: PLC0415  # only here

        return {1: schemas.text("behaviour_event", 1), 9: "{"}.get(schema_id)

    def by_guid(self, guid: object, /) -> str | None:
        raise Unavailable(str(guid))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "has no value"),
        (b"text", "not in Confluent's wire format"),
        (b"\0\0\0\0\7", "schema 7 is not known"),
        (b"\0\0\0\0\x09", "not JSON"),
        (b"\1" + b"\0" * 20, "00000000"),
        (encoded(EVENT)[:-1], "truncated: "),
        (wire.framed(b"\xfe" + b"\xff" * 8 + b"\1", 1), "bad_length: "),
    ],
)
def test_what_stops_a_record_from_being_read_is_told(value: bytes | None, said: str) -> None:
    event, why_not = read(Texts(), value, (), 100)
    assert event is None
    assert said in str(why_not)


def test_a_record_is_read_by_the_schema_that_it_names() -> None:
    event, why_not = read(Texts(), encoded({**EVENT, "properties": {"a": "b"}}), (), 100)
    assert why_not is None
    assert event is not None
    assert ("c1", NOW, {"a": "b"}) == (event["customer_id"], event["occurred_at"], event["properties"])


# The command


@pytest.fixture
def command(shop_: Shop, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command over the job in memory."""

    @contextmanager
    def sender(_: object) -> Iterator[FakeSender]:
        yield FakeSender(shop_.job, shop_.topic)

    monkeypatch.setattr(wiring, "kafka_tail", lambda _: shop_.log)
    monkeypatch.setattr(wiring, "letter_sender", sender)
    monkeypatch.setattr(wiring, "input_partitions", lambda _: shop_.job.partitions)
    environment = {"STREAMER_TOPICS__DEAD_LETTERS": shop_.topic, "STREAMER_TOPICS__EVENTS": INPUT}

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["dlq", *arguments], obj=Session(environment=environment), env={"COLUMNS": "250"})

    return run


def test_a_list_counts_reasons_and_shows_the_latest(command: Any) -> None:
    told = command("list")
    assert 0 == told.exit_code, told.output
    for words in ("4 dead letters", "trailing_bytes", "customer-events 1:0", REMEDIES[Reason.NO_VALUE], "ff"):
        assert words in told.output
    seen = json.loads(command("list", "--json", "-n", "1").output)
    assert {"trailing_bytes": 1, "no_value": 1, "truncated": 1, "no_schema_id": 1} == seen["reasons"]
    assert (4, True, 1) == (seen["letters_seen"], seen["complete"], len(seen["letters"]))
    assert "None of the 4" in command("list", "--partition", "0").output
    assert "Older ones may be there" in command("list", "--scan", "2").output


def test_a_letter_is_shown_with_its_bytes_and_no_terminal_obeys_them(command: Any, shop_: Shop) -> None:
    addresses = {letter.reason: str(letter.address) for letter in shop_.find().letters}
    told = command("show", addresses["no_schema_id"]).output
    assert "\x1b" not in told
    assert "1b 5b 32 4a" in told
    assert "not decoded" in told
    assert "no value" in command("show", addresses["no_value"]).output
    told = command("show", addresses["trailing_bytes"], "--bytes", "16").output
    for words in ("trace: 1", "more: --bytes", "trailing_bytes: "):
        assert words in told
    seen = json.loads(command("show", addresses["trailing_bytes"], "--json").output)
    assert (encoded(EVENT) + b"\0").hex() == seen["value"]
    assert ["trace", "1"] == seen["headers"][0]


def test_a_record_that_reads_well_is_shown_as_read(command: Any, shop_: Shop) -> None:
    offset = shop_.job.broker.append(shop_.topic, 0, b"c1", encoded(EVENT), (("dlq.reason", b"time_in_future"),))
    told = command("show", f"0:{offset}").output
    assert '"customer_id": "c1"' in told
    assert "decodes to" in told


def test_a_retry_says_what_it_did(command: Any, shop_: Shop) -> None:
    assert (
        "2 letters would be sent to customer-events: 1 trailing_bytes, 1 truncated"
        in command("retry", "--partition", "1", "--dry-run").output
    )
    assert {False} == {letter.retried for letter in shop_.find().letters}
    assert "2 letters were sent to customer-events" in command("retry", "--partition", "1").output
    told = command("retry", "--all", "-n", "1").output
    assert "1 letters were sent" in told
    assert "2 were retried before: --again" in told
    assert "1 more fit" in told
    did = json.loads(command("retry", "--all", "--json").output)
    assert (1, {"retried": 3}, 0) == (len(did["sent"]), did["skipped"], did["left"])
    assert 3 <= command("list").output.count("retried")


def test_what_is_not_there_or_was_not_said_is_told(command: Any, shop_: Shop) -> None:
    for arguments in (["show", "0:99"], ["show", "7:0"], ["retry", "0:99"]):
        told = command(*arguments)
        assert dlq_command.NOT_THERE == told.exit_code
        assert f"there is no letter {arguments[1]}" in told.stderr
    for wrong in (["retry"], ["show", "7"], ["show", "a:b"], ["list", "--reason", "bad"], ["list", "--since", "yesterday"]):
        assert 2 == command(*wrong).exit_code
    shop_.job.broker.topics[shop_.topic][0].records.clear()
    assert "nothing was refused" in command("list").output
    told = command("retry", "--all")
    assert (0, True) == (told.exit_code, "nothing was refused" in told.output)
    del shop_.job.broker.topics[shop_.topic]
    assert "streamer run" in str(command("list").exception)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0s", NOW),
        ("2h", NOW - 7_200_000),
        ("7d", NOW - 7 * 86_400_000),
        ("2023-11-14", 1_699_920_000_000),
        ("2023-11-14T01:00+01:00", 1_699_920_000_000),
    ],
)
def test_a_time_is_how_long_ago_or_when(text: str, expected: int) -> None:
    assert expected == dlq_command.since_ms(text, NOW)


def test_every_command_and_option_is_on_the_page() -> None:
    page = PAGE.read_text()
    group: Any = typer.main.get_command(dlq_command.app)
    for name, command in group.commands.items():
        assert f"streamer dlq {name}" in page
        names = {option for parameter in command.params for option in parameter.opts if option.startswith("--")} - {"--help"}
        assert set() == {option for option in names if f"`{option}" not in page}


def test_every_header_is_on_the_page() -> None:
    written = {letters.REASON, letters.ERROR, letters.SOURCE, letters.CUT, letters.RETRIED_FROM, letters.NOTE}
    assert written == set(re.findall(r"`(dlq\.\w+)`", PAGE.read_text()))


def test_a_place_is_written_as_it_is_read() -> None:
    assert "3:17" == str(Address(3, 17))
    assert not Letter(Address(0, 0), 0, "", "", None, None, None, cut=False, again=False).retried

"""Hostile records: whatever their bytes are, each is one event or one dead letter with a reason. The invariant is `tests.fuzz.judge`'s."""

from __future__ import annotations

import base64
import json
import random
from typing import TYPE_CHECKING, Any

import pytest

from streamer.app.first_model import FirstFit
from streamer.core.intake import LATEST_MS
from streamer.core.model import Decision
from streamer.core.ports import Topic
from streamer.core.reasons import Reason
from tests.fakes.job import INPUT, NAME, Job, headers
from tests.fuzz import corpus, records
from tests.fuzz.judge import COMMANDS, FEATURES, expected, intake, judge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamer.app.intake import Intake

MUTATED = 150_000
THROUGH_WORKER = 20_000
BATCH = 2_000


@pytest.fixture(scope="module")
def taker() -> Intake:
    return intake()


@pytest.fixture
def rng() -> random.Random:
    """A source whose seed is told where a test fails."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # noqa: T201  # pytest shows it with a failure
    return random.Random(seed)


def mutated(rng: random.Random, count: int) -> Iterator[bytes]:
    """Mutate what was found, and what comes of that."""
    pool = corpus.read()
    for _ in range(count):
        case = records.mutate(rng, rng.choice(pool)) if rng.random() < 0.9 else records.fresh(rng)
        pool[rng.randrange(len(pool))] = case
        yield case


def test_what_fuzzing_has_found_keeps_the_invariant(taker: Intake) -> None:
    cases = corpus.read()
    reasons = judge(cases, taker)
    assert len(cases) == sum(reasons.values())
    decided_elsewhere = {
        "NO_VALUE",
        "TOO_DEEP",
        "QUARANTINED",
    }  # a case has a value; no schema that is taken nests as deep; none ended a process
    assert {reason.name for reason in Reason} - decided_elsewhere == set(reasons)


def test_a_record_comes_out_alone_as_among_others(taker: Intake) -> None:
    cases = corpus.read()
    assert judge(cases, taker) == sum((judge([case], taker) for case in cases), judge([], taker))


def test_the_corpus_is_small_and_says_nothing_twice() -> None:
    cases = corpus.read()
    assert len(set(cases)) == len(cases)
    assert corpus.FILE.stat().st_size < 300 * 1024


def test_both_sides_of_every_limit_are_told_apart(taker: Intake) -> None:
    cases = records.boundaries()
    assert len(cases) == sum(judge(cases, taker).values())


@pytest.mark.parametrize("size", range(4))
def test_the_shortest_values_are_taken_whatever_they_are(size: int, taker: Intake) -> None:
    source = random.Random(size)
    judge([b"", *(source.randbytes(2 + size) for _ in range(200))], taker)


def test_a_case_that_breaks_the_invariant_is_named(taker: Intake, monkeypatch: pytest.MonkeyPatch) -> None:
    case = records.fresh(random.Random(0))
    monkeypatch.setattr("tests.fuzz.judge.expected", lambda *_: ({"NO_VALUE"}, None))
    with pytest.raises(AssertionError, match=base64.b64encode(case).decode().replace("+", r"\+")):
        judge([case], taker)


@pytest.mark.long
@pytest.mark.compiled
def test_mutations_of_what_was_found_keep_the_invariant(taker: Intake, rng: random.Random) -> None:
    cases = list(mutated(rng, MUTATED))
    reasons = sum((judge(cases[begin : begin + BATCH], taker) for begin in range(0, MUTATED, BATCH)), judge([], taker))
    assert MUTATED == sum(reasons.values())
    assert reasons["OK"] > MUTATED // 100


@pytest.mark.long
@pytest.mark.compiled
def test_a_worker_makes_of_every_hostile_record_an_event_or_a_letter_with_its_reason(taker: Intake, rng: random.Random) -> None:
    first_fit = FirstFit(NAME, 3, 12, 0, 1_000, Decision(dwell_ms=0, retention_ms=LATEST_MS))  # nobody leaves, and takes counts along
    job = Job(partitions=1, features=FEATURES, settings={"records_max": 1_000}, first_fit=first_fit)
    sent: list[tuple[bytes, Any]] = []
    for case in mutated(rng, THROUGH_WORKER):
        event = expected(*records.record_of(case))[1]
        if event is not None and event["event_type"] in COMMANDS:
            continue  # it takes away what is counted below; test_erasure_laws.py has them
        sent.append(records.record_of(case))
        job.broker.append(INPUT, 0, b"k", *sent[-1], records.NOW_MS)
    worker = job.worker()
    object.__setattr__(worker._tools, "intake", taker)
    job.settle(worker)
    letters = {}
    for letter in job.records(Topic.DEAD_LETTERS):
        offset = json.loads(headers(letter)["dlq.source"] or b"")["offset"]
        letters[offset] = (headers(letter)["dlq.reason"] or b"").decode().upper(), letter.value
    events = 0
    for offset, (value, given) in enumerate(sent):
        reason, told = letters.get(offset, ("OK", value))
        assert reason in expected(value, given)[0], offset
        assert value == told
        events += reason == "OK"
    assert len(sent) == events + len(letters) == worker.totals.events == job.store.read([0])[0].next_offset
    assert events == worker.totals.applied + worker.totals.duplicates > 0
    assert worker.totals.applied == sum(job.counts().values())
    assert job.check().clean

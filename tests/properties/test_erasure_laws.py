"""The laws of erasure, for any declaration, events, model and erasures: batches do not show, nothing is left, and nobody else notices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from streamer.core.profile import NEVER
from tests import oracle
from tests.corekit import ACCEPT, REFUSE, Stream, log, valid
from tests.properties.strategies import declarations, events
from tests.properties.test_fold_laws import versions

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Row = dict[str, Any]


@st.composite
def erasing(draw: st.DrawFn) -> tuple[Row, list[Row]]:
    """A declaration, and a log in which some customers, known or not, are erased at any time, before or after the events' own."""
    tree = draw(declarations())
    rows = [dict(row) for row in valid(draw(events(tree)), tree)]
    known = sorted({row["customer_id"] for row in rows}) or ["nobody"]
    times = [row["occurred_at"] for row in rows] or [oracle.BEGIN_MS]
    for n in range(draw(st.integers(1, 3))):
        who = draw(st.sampled_from([*known, "somebody else"]))
        row = {"event_id": f"erase-{n}", "customer_id": who, "event_type": "$erase", "occurred_at": draw(st.sampled_from(times))}
        rows.insert(draw(st.integers(0, len(rows))), row)
    return tree, rows


def judged(data: st.DataObject, tree: Row, **arguments: Any) -> Stream:
    """A stream that has a model from its start, or none."""
    made = Stream.of(tree, **arguments)
    number = data.draw(st.integers(0, 1), label="model")
    if number:
        made.adopt(data.draw(versions(made.declaration, 1)), 0, 0, NEVER)
    return made


def again(stream: Stream) -> Stream:
    """The same stream at its start."""
    other = Stream(stream.declaration, rule=stream.rule, states=[*stream.states])
    other.versions = stream.versions
    return other


@given(erasing(), st.data(), st.sampled_from([REFUSE, ACCEPT]))
def test_neither_batches_nor_sweeps_show_where_customers_are_erased(made: tuple[Row, list[Row]], data: st.DataObject, rule: Any) -> None:
    tree, rows = made
    whole = judged(data, tree, rule=rule)
    single = again(whole)
    placed = log(rows)
    whole.fold(placed)
    for one in placed:
        single.fold([one])
        if data.draw(st.booleans(), label="sweep"):
            single.sweep(0)
    whole.sweep(0)
    single.sweep(0)
    assert whole.profiles == single.profiles
    assert told(whole.changes) == told(single.changes)
    assert whole.data().watermark == single.data().watermark
    assert whole.erased[0].tolist() == single.erased[0].tolist()
    assert whole.refused == single.refused


@given(erasing(), st.data(), st.sampled_from([REFUSE, ACCEPT]))
def test_who_has_a_profile_is_who_has_events_that_count(made: tuple[Row, list[Row]], data: st.DataObject, rule: Any) -> None:
    tree, rows = made
    stream = judged(data, tree, rule=rule)
    stream.fold_all(log(rows), data.draw(st.lists(st.integers(1, 45), max_size=5)))
    later = "refuse" if rule is REFUSE else "accept"
    left = {customer for _, customer in stream.profiles}
    gone = {change.customer for change in stream.changes if change.cause == "expired"}
    assert set(oracle.counted(oracle.frame(rows), tree, later)["customer_id"]) - gone <= left
    assert left <= set(oracle.counted(oracle.frame(rows), tree, later)["customer_id"])
    if stream.data().model:
        assert stream.recounted(0) == stream.sums(0)


@given(erasing(), st.data())
def test_what_scrubbed_history_keeps_gives_everybody_else_the_same(made: tuple[Row, list[Row]], data: st.DataObject) -> None:
    tree, rows = made
    first = judged(data, tree)
    second = again(first)
    erased = {row["customer_id"] for row in rows if row["event_type"] == "$erase"}
    first.fold_all(log(rows), data.draw(st.lists(st.integers(1, 45), max_size=3)))
    second.fold_all(log(scrubbed(rows)), data.draw(st.lists(st.integers(1, 45), max_size=3)))
    assert first.profiles == second.profiles
    assert [change for change in told(first.changes) if change[0] not in erased] == told(second.changes)
    assert first.states == second.states
    assert first.erased[0].tolist() == second.erased[0].tolist()


def scrubbed(rows: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Put marks in the place of commands, and times in the place of events before them; what comes later stays, and is refused."""
    first = {row["customer_id"]: at for at, row in reversed(list(enumerate(rows))) if row["event_type"] == "$erase"}
    found: list[Row] = []
    for at, row in enumerate(rows):
        who = row["customer_id"]
        if row["event_type"] == "$erase":
            found.append({**row, "event_type": "$erased", "customer_id": REFUSE.mark(who.encode())})
        elif at < first.get(who, -1):
            found.append({"event_id": "$", "customer_id": "$", "event_type": "$passed", "occurred_at": row["occurred_at"]})
        else:
            found.append({**row})
    return found


def told(changes: Sequence[Any]) -> list[Any]:
    """Each customer's changes in order; who comes first where batches differ says nothing."""
    return sorted(changes, key=lambda change: (change.customer, change.version))

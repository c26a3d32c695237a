"""The journal: an entry is what was decided, and following it gives the decisions that a state lacks, each once and in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from streamer.adapters.avro import codec, wire
from streamer.app import journal
from streamer.app.journal import EPOCH, VERSION, Entry
from streamer.core.partition import PASSED_OVER_KEPT, PartitionData
from streamer.core.ports import LogRecord, Topic
from streamer.core.profile import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from streamer.core.columns import I64

CENTROIDS = np.array([[1, -2, 3], [-(2**31), 2**31 - 1, 0]], np.int64)


def entry(model: int, epoch: int, at_offset: int = 7, kind: str | None = None) -> Entry:
    return Entry(kind or (EPOCH if epoch else VERSION), at_offset, 1_700_000_000_000, model, epoch, b"digest")


def read(entries: Sequence[Entry]) -> list[Entry]:
    written = [journal.record(one, 3, "commit", 1_700_000_000_001, 4) for one in entries]
    return journal.read([LogRecord(i, 0, record.key, record.value, record.headers) for i, record in enumerate(written)])


def test_an_entry_is_read_as_it_was_written() -> None:
    entries = [entry(1, 0), entry(1, 1), entry(2, 2, kind=VERSION)]
    assert entries == read(entries)


def test_a_record_names_its_kind_its_partition_and_all_that_the_schema_asks_for() -> None:
    record = journal.record(entry(1, 2), 3, "commit", 1_700_000_000_001, 4)
    assert record.value is not None
    assert (Topic.JOURNAL, 3, b"epoch", ()) == (record.topic, record.partition, record.key, record.headers)
    assert wire.prefix(4) == record.value[: wire.ID_BYTES]
    expected = {
        "commit_id": "commit",
        "kind": "epoch",
        "at_offset": 7,
        "as_of": 1_700_000_000_000,
        "model_version": 1,
        "epoch": 2,
        "payload": b"digest",
        "written_at": 1_700_000_000_001,
    }
    assert expected == codec.decode("journal_entry", record.value[wire.ID_BYTES :])


def test_repetitions_and_what_is_older_are_dropped() -> None:
    assert [entry(1, 0), entry(1, 1), entry(2, 2, kind=VERSION)] == read(
        [entry(1, 0), entry(1, 0, 8), entry(1, 1), entry(1, 0), entry(1, 1, 9), entry(2, 2, kind=VERSION), entry(1, 2)]
    )


def test_an_older_version_that_is_adopted_again_is_the_later_decision() -> None:
    entries = [entry(1, 0), entry(1, 1), entry(2, 2, kind=VERSION), entry(2, 3), entry(1, 4, kind=VERSION), entry(1, 5)]
    assert entries == read(entries)
    assert entries[3:] == list(journal.script(entries, PartitionData("v", model=2, epoch=2), 0))
    assert entries[5:] == list(journal.script(entries, PartitionData("v", model=1, epoch=4), 0))
    assert not journal.leads_to(entries, PartitionData("v", model=1, epoch=1, centroids=FIXED), 8, FIXED)
    assert journal.leads_to(entries[:5], PartitionData("v", model=1, epoch=4, centroids=FIXED), 8, FIXED)


def test_records_without_a_value_are_passed_over() -> None:
    assert [] == journal.read([LogRecord(0, 0, b"epoch", None, ())])


def test_what_a_state_has_taken_already_is_not_in_its_script() -> None:
    entries = [entry(1, 0), entry(1, 1), entry(1, 2), entry(2, 3, kind=VERSION)]
    assert entries == list(journal.script(entries, PartitionData("v"), 0))
    assert entries[2:] == list(journal.script(entries, PartitionData("v", model=1, epoch=1), 0))
    assert [] == list(journal.script(entries, PartitionData("v", model=2, epoch=3), 0))


def test_a_versions_entry_names_its_bytes_and_an_epochs_its_centroids() -> None:
    data = PartitionData("v", watermark=55, model=3, epoch=0, as_of=44, at_offset=12)
    assert Entry(VERSION, 12, 44, 3, 0, b"sha") == journal.version_entry(data, b"sha")
    learned = PartitionData("v", watermark=55, model=3, epoch=9, as_of=44, at_offset=12, centroids=CENTROIDS)
    found = journal.epoch_entry(learned, 80)
    assert (EPOCH, 80, 55, 3, 9) == (found.kind, found.at_offset, found.as_of, found.model, found.epoch)
    assert CENTROIDS.tolist() == found.centroids((2, 3)).tolist()


def test_centroids_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="reshape"):
        journal.epoch_entry(PartitionData("v", model=1, epoch=1, centroids=CENTROIDS), 0).centroids((2, 4))


def test_what_is_passed_over_stands_once_and_is_due_where_the_log_has_not_been_read() -> None:
    known = PartitionData("v", model=1, epoch=2)
    passed_over = [journal.quarantine_entry(known, offset) for offset in (5, 5, 9)]
    entries = read([entry(1, 2), *passed_over])
    assert [("epoch", 0), ("quarantine", 5), ("quarantine", 9)] == [
        (one.kind, one.at_offset if one.kind == "quarantine" else 0) for one in entries
    ]
    assert [9] == [one.at_offset for one in journal.script(entries, known, 6)]


FIXED = np.array([[1, 2], [3, 4]], np.int64)
MOVED = FIXED + 1


def led_to(model: int, epoch: int, next_offset: int, centroids: I64 | None = None) -> bool:
    """Hold a state against a journal that adopted a version at offset 10 and its first epoch at 20."""
    adopted = PartitionData("f", model=1, epoch=1, centroids=MOVED)
    entries = [entry(1, 0, 10), journal.epoch_entry(adopted, 20)]
    data = PartitionData("f", model=model, epoch=epoch, centroids=centroids)
    return journal.leads_to(entries, data, next_offset, FIXED)


def test_a_journal_leads_to_each_state_that_took_its_decisions_at_their_offsets() -> None:
    assert led_to(0, 0, 0)
    assert led_to(0, 0, 10)
    assert led_to(1, 0, 10, FIXED)
    assert led_to(1, 0, 20, FIXED)
    assert led_to(1, 1, 20, MOVED)
    assert led_to(1, 1, 90, MOVED)


def test_a_journal_does_not_lead_to_a_state_that_took_its_decisions_elsewhere_or_took_others() -> None:
    assert not led_to(0, 0, 11)  # the version should be adopted by now
    assert not led_to(1, 0, 9, FIXED)  # adopted too early
    assert not led_to(1, 0, 21, FIXED)
    assert not led_to(1, 1, 19, MOVED)
    assert not led_to(1, 2, 30, MOVED)  # no such epoch
    assert not led_to(1, 0, 10, MOVED)  # another version of that number
    assert not led_to(1, 1, 20, FIXED)
    assert not journal.leads_to([], PartitionData("f", model=1, centroids=FIXED), 0, FIXED)


def passes_over(told: list[int], state: list[int], next_offset: int, complete_from: int = 0) -> bool:
    """Hold a state that passed over some records against a journal that says which were."""
    entries = [journal.quarantine_entry(PartitionData("f"), offset) for offset in told]
    return journal.leads_to(entries, PartitionData("f").passing(state), next_offset, None, complete_from)


def test_a_journal_leads_to_a_state_that_passed_over_the_records_that_it_names_and_no_others() -> None:
    assert passes_over([], [], 50)
    assert passes_over([5, 9], [5, 9], 10)
    assert passes_over([5, 9], [5], 9)  # the other one is still to come
    assert not passes_over([5, 9], [5], 10)
    assert not passes_over([5, 9], [9], 10)
    assert not passes_over([5], [5, 7], 10)
    assert not passes_over([], [7], 10)
    assert not passes_over([5], [6], 10)


def test_of_what_was_passed_over_before_the_journal_begins_nothing_is_asked() -> None:
    assert passes_over([30], [5, 30], 40, complete_from=20)
    assert not passes_over([30], [5, 25, 30], 40, complete_from=20)
    assert not passes_over([30], [5], 40, complete_from=20)


def test_a_state_is_asked_no_more_than_it_remembers() -> None:
    offsets = [*range(0, 4 * PASSED_OVER_KEPT, 2)]
    assert passes_over(offsets, offsets, 4 * PASSED_OVER_KEPT)
    assert not passes_over(offsets, offsets[:-1], 4 * PASSED_OVER_KEPT)


def ticked(state: int, next_offset: int, told: Sequence[tuple[int, int]] = ((100, 10), (200, 20))) -> bool:
    """Hold a state whose clock ticked last to `state` against a journal that ticked to 100 at offset 10, and to 200 at 20."""
    entries = [journal.tick_entry(PartitionData("f", ticked=as_of), at_offset) for as_of, at_offset in told]
    return journal.leads_to(entries, PartitionData("f", ticked=state), next_offset, None)


def test_a_journal_leads_to_a_state_whose_clock_ticked_as_it_says() -> None:
    assert ticked(NEVER, 0)
    assert ticked(NEVER, 10)
    assert ticked(100, 10)
    assert ticked(100, 20)
    assert ticked(200, 20)
    assert ticked(200, 90)
    assert ticked(200, 20, told=((100, 20), (200, 20)))  # an idle partition's clock goes on at one offset
    assert ticked(100, 20, told=((100, 20), (200, 20)))


def test_a_journal_does_not_lead_to_a_state_whose_clock_ticked_to_another_time_or_elsewhere() -> None:
    assert not ticked(NEVER, 11)  # it should have ticked by now
    assert not ticked(100, 9)  # ticked too early
    assert not ticked(100, 21)
    assert not ticked(200, 19)
    assert not ticked(150, 15)  # no such tick
    assert not ticked(300, 30)
    assert not ticked(100, 10, told=())


def test_in_the_script_of_a_state_are_the_ticks_after_its_own() -> None:
    entries = [journal.tick_entry(PartitionData("f", ticked=as_of), 10) for as_of in (100, 200, 300)]
    assert entries[1:] == list(journal.script(entries, PartitionData("f", ticked=100), 10))
    assert [] == list(journal.script(entries, PartitionData("f", ticked=300), 10))

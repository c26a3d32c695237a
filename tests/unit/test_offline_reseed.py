"""The re-seed: repeatable to the byte, ids and names that stay, refusals that are kept, and a shelf that notices what was altered."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offline import features, models_command
from offline.events import Reading
from offline.features import compute
from offline.fit import points_of
from offline.identity import fixed_old, old_votes
from offline.reseed import Before, Wanted, reseed
from offline.reseed_command import InForce, Request, in_force, run
from offline.settings import Fitting, Settings
from offline.shelf import Shelf, body_of
from streamer.adapters.avro import codec
from streamer.adapters.declaration_file import load
from streamer.adapters.history.tables import JournalRecord
from streamer.core.errors import BadInput, Corrupt, Misconfigured
from streamer.core.lloyd import assign
from streamer.core.model import digest, from_record
from tests.offlinekit import DAY_MS, FakeHistory, batches, end_of, event, shop

if TYPE_CHECKING:
    from collections.abc import Callable

    from offline.features import Computed
    from offline.reseed import Candidate, K
    from offline.shelf import Kept

pytestmark = pytest.mark.compiled

PACKAGED = Path(load.__code__.co_filename).parents[1] / "core" / "default_features.yaml"
DECLARATION = load(None)
ROWS = shop(100, 120)
AS_OF = end_of(ROWS)
NEXT = [*ROWS, *(one for one in shop(101, 120, 3) if one["occurred_at"] >= AS_OF)]


def computed(rows: list[dict[str, Any]]) -> Computed:
    return compute(Reading(DECLARATION), batches(rows), end_of(rows))


NIGHT, NEXT_NIGHT = computed(ROWS), computed(NEXT)


def candidate(found: Computed = NIGHT, before: Before | None = None, k: K = None, as_of: int = AS_OF, **settings: Any) -> Candidate:
    return reseed(Wanted("segments", DECLARATION, as_of, k), found, before, Settings(**settings))


def numbers(found: Candidate) -> list[tuple[int, bool]]:
    return [(segment.number, segment.retired) for segment in found.version.segments]


FIRST = candidate(k=3)
BEFORE = Before(FIRST.version, FIRST.spreads)


# What is fitted


def test_a_first_version_is_fitted_from_nothing_and_passes() -> None:
    assert FIRST.verdict.passed, FIRST.verdict.reasons
    assert [(1, False), (2, False), (3, False)] == numbers(FIRST)
    assert (1, None, AS_OF, AS_OF) == (FIRST.version.version, FIRST.version.previous_version, FIRST.version.as_of, FIRST.version.created_at)
    assert (120.0, 3.0) == (FIRST.version.quality["customers"], FIRST.version.quality["k"])
    assert 120 == sum(segment.members for segment in FIRST.version.segments)
    assert "cold" == FIRST.version.provenance["fit"]


def test_equal_inputs_give_equal_bytes() -> None:
    assert body_of(FIRST.version) == body_of(candidate(computed(ROWS), k=3).version)
    again = candidate(NEXT_NIGHT, BEFORE, as_of=end_of(NEXT))
    assert body_of(again.version) == body_of(candidate(computed(NEXT), BEFORE, as_of=end_of(NEXT)).version)


def test_the_next_night_goes_on_from_the_version_before_with_its_ids_and_names() -> None:
    found = candidate(NEXT_NIGHT, BEFORE, as_of=end_of(NEXT))
    assert found.verdict.passed, found.verdict.reasons
    assert (2, 1, "warm, from version 1") == (found.version.version, found.version.previous_version, found.version.provenance["fit"])
    assert numbers(FIRST) == numbers(found)
    assert [s.name for s in FIRST.version.segments] == [s.name for s in found.version.segments]
    assert found.version.quality["relabelled"] < 0.01
    assert found.version.quality["wcss_ratio"] < 1.01
    assert {"relabelled", "psi"} < {check.name for check in found.verdict.checks}
    assert () == found.audit


def test_segments_keep_their_people_over_a_warm_fit() -> None:
    found = candidate(NEXT_NIGHT, BEFORE, as_of=end_of(NEXT)).version
    points = points_of(NEXT_NIGHT.features, NEXT_NIGHT.facts["eligible"].to_numpy(), FIRST.version.transforms)
    old = assign(old_votes(FIRST.version, points.values), FIRST.version.fixed_centroids())[0]
    new = assign(points.vectors, found.fixed_centroids())[0]
    assert (old == new).mean() > 0.98
    carried = assign(points.vectors, fixed_old(FIRST.version, points.scaling))[0]
    assert (old == carried).mean() > 0.98


def test_more_segments_are_born_under_numbers_never_used_and_fewer_are_retired() -> None:
    more = candidate(NIGHT, BEFORE, k=5)
    assert {1, 2, 3} < {number for number, _ in numbers(more)}
    assert more.matching is not None
    assert set(more.matching.born) <= {4, 5, 6, 7, 8}
    assert 5 == len(more.version.active)
    fewer = candidate(NIGHT, Before(more.version, more.spreads), k=2)
    assert fewer.matching is not None
    assert 2 == len(fewer.version.active)
    assert {n for n, _ in numbers(more)} <= {n for n, _ in numbers(fewer)}
    assert set(fewer.matching.retired) == {n for n, retired in numbers(fewer) if retired} - {n for n, gone in numbers(more) if gone}
    later = candidate(NIGHT, Before(fewer.version), k=4)
    assert max(n for n, _ in numbers(more)) < min(later.matching.born if later.matching else ())
    assert from_record(later.version.record()).segments == later.version.segments


def test_auto_chooses_and_keeps_the_table() -> None:
    found = candidate(NIGHT, k="auto")
    assert found.choice is not None
    assert found.version.quality["k"] == found.choice.loc[found.choice["chosen"], "k"].item()
    assert "warm, from version 1" == candidate(NIGHT, Before(found.version), k="auto").version.provenance["fit"]


def test_a_version_on_other_features_begins_anew_under_numbers_never_used() -> None:
    other = replace(FIRST.version, features=tuple(f"{name}_" for name in FIRST.version.features))
    found = candidate(NIGHT, Before(other, FIRST.spreads))
    assert [(1, True), (2, True), (3, True), (4, False), (5, False), (6, False)] == numbers(found)
    assert "cold, on other features" == found.version.provenance["fit"]
    assert "relabelled" not in found.version.quality


def test_a_person_s_name_is_kept_and_one_in_the_settings_wins() -> None:
    renamed = replace(FIRST.version, segments=(replace(FIRST.version.segments[0], name="Our best"), *FIRST.version.segments[1:]))
    found = candidate(NEXT_NIGHT, Before(renamed), as_of=end_of(NEXT), names={"seg_0002": "VIP", "seg_0009": "Who"})
    assert ("offline.names names seg_0009, which is no segment of this version",) == found.audit
    assert ["Our best", "VIP"] == [segment.name for segment in found.version.segments[:2]]


def test_too_few_customers_are_refused() -> None:
    with pytest.raises(BadInput, match="too few for 200 segments"):
        candidate(NIGHT, k=200)
    with pytest.raises(BadInput, match=r"no event before the cut-off is valid \(there is none\)"):
        candidate(compute(Reading(DECLARATION), [], 0))
    with pytest.raises(BadInput, match=r"is valid \(1 refused: currency_refused\)"):
        candidate(computed([{**event("a", "purchase", AS_OF, "1", 5), "currency": "USD"}]))
    with pytest.raises(BadInput, match=r"none of 1 customers has enough behind it \(events of 2 or more\)"):
        candidate(computed([event("a", "view", AS_OF, "1")]))


def test_who_was_silent_for_longer_than_the_model_keeps_them_is_not_fitted_to() -> None:
    old = [event("gone", "view", end_of(ROWS) - 500 * DAY_MS + n, f"old {n}") for n in range(3)]
    found = candidate(computed([*old, *ROWS]), k=3)
    assert 120.0 == found.version.quality["customers"]
    assert ("gone",) == found.report.oddities["silent for longer than the model keeps them"].examples
    patient = replace(FIRST.version, decision=replace(FIRST.version.decision, retention_ms=600 * DAY_MS))
    assert 121.0 == candidate(computed([*old, *ROWS]), Before(patient)).version.quality["customers"]


def test_a_fit_that_went_astray_is_refused() -> None:
    astray = replace(FIRST.version, centroids=np.stack([FIRST.version.centroids[0], *(np.full((2, 16), 7.0))]))
    found = candidate(NIGHT, Before(astray, FIRST.spreads))
    assert not found.verdict.passed
    assert any("more within-cluster squares" in reason for reason in found.verdict.reasons)
    assert any("the largest segment has 100.0%" in reason for reason in found.verdict.reasons)


# The scale


def test_a_warm_fit_keeps_the_scale_of_the_version_before_and_others_choose_one() -> None:
    warm = candidate(NEXT_NIGHT, BEFORE, as_of=end_of(NEXT))
    assert FIRST.version.record()["features"] == warm.version.record()["features"]
    assert "that of version 1" == warm.version.provenance["scale"]
    assert "saturated" in {check.name for check in warm.verdict.checks}
    asked = reseed(Wanted("segments", DECLARATION, end_of(NEXT), new_scale=True), NEXT_NIGHT, BEFORE, Settings())
    for other in (asked, candidate(NEXT_NIGHT, BEFORE, k=4, as_of=end_of(NEXT))):
        assert FIRST.version.record()["features"] != other.version.record()["features"]
        assert "new" == other.version.provenance["scale"]
        assert "saturated" not in {check.name for check in other.verdict.checks}
    assert FIRST.version.record()["features"] == candidate(NIGHT, k=3).version.record()["features"]  # what it was chosen from


def test_a_scale_that_is_outgrown_is_told_with_the_remedy() -> None:
    scaling = FIRST.version.scaling
    place = list(FIRST.version.features).index("spend_30d")
    low = np.where(np.arange(len(scaling.high)) == place, np.quantile(NIGHT.features["spend_30d"], 0.5), scaling.high)
    small = Before(replace(FIRST.version, scaling=replace(scaling, high=low)), FIRST.spreads)
    reasons = candidate(NIGHT, small).verdict.reasons
    assert any("beyond where spend_30d is clipped: its scale is outgrown, choose another (`--new-scale`)" in one for one in reasons)
    assert not any(
        "outgrown" in one for one in reseed(Wanted("s", DECLARATION, AS_OF, new_scale=True), NIGHT, small, Settings()).verdict.reasons
    )


# What is in force


def decided(kind: str, at_offset: int, version: int, epoch: int, payload: bytes = b"") -> Any:
    return JournalRecord(0, 0, "", kind, at_offset, 0, version, epoch, payload, 0)


def test_what_is_in_force_at_a_cut_off_says_the_journal() -> None:
    journal = [
        decided("version", 0, 1, 0, b"sha"),
        decided("epoch", 3, 1, 1, b"one"),
        decided("tick", 4, 1, 1),
        decided("version", 5, 2, 2, b"sha"),
        decided("epoch", 7, 2, 3, b"three"),
        decided("version", 9, 1, 4, b"sha"),  # a rollback
    ]
    found = [in_force(journal, cutoff, 0) for cutoff in (0, 1, 4, 6, 9, 10)]
    assert [None, InForce(1, 0, None), InForce(1, 1, b"one"), InForce(2, 2, None), InForce(2, 3, b"three"), InForce(1, 4, None)] == found


def test_what_was_adopted_after_the_last_event_of_a_day_counts_if_the_day_was_not_over() -> None:
    journal = [decided("version", 0, 1, 0, b"sha"), replace(decided("version", 5, 2, 1, b"sha"), kafka_timestamp=999)]
    assert [InForce(1, 0, None), InForce(2, 1, None)] == [in_force(journal, 5, as_of) for as_of in (999, 1000)]


def test_a_night_goes_on_from_what_learning_had_made_of_the_version_in_force(tmp_path: Path) -> None:
    night(FakeHistory(ROWS), tmp_path)
    learned = FIRST.version.fixed_centroids() + 2**14
    history = FakeHistory(
        NEXT, "1" * 64, decisions=[decided("version", 0, 1, 0), decided("epoch", 5, 1, 9, learned.astype("<i4").tobytes())]
    )
    kept = night(history, tmp_path, as_of=end_of(NEXT), k=None)
    assert ("1.9", 1) == (kept.version.provenance["in_force"], kept.version.previous_version)
    before = Before(FIRST.version, FIRST.spreads, centroids=learned / 2**20)
    expected = candidate(NEXT_NIGHT, before, as_of=end_of(NEXT)).version
    assert expected.centroids.tolist() == kept.version.centroids.tolist()
    assert expected.quality["relabelled"] == kept.version.quality["relabelled"]


def test_a_night_after_a_rollback_builds_upon_the_older_version_under_numbers_never_used(tmp_path: Path) -> None:
    night(FakeHistory(ROWS), tmp_path)
    more = night(FakeHistory(ROWS, "1" * 64), tmp_path, k=5, again=True, forced="wanted")
    assert 2 == more.version.version
    history = FakeHistory(NEXT, "2" * 64, decisions=[decided("version", 0, 1, 0), decided("version", 3, 2, 1), decided("version", 9, 1, 2)])
    kept = night(history, tmp_path, as_of=end_of(NEXT), k=4, forced="wanted")
    assert (3, 1) == (kept.version.version, kept.version.previous_version)
    taken = {segment.number for segment in more.version.segments}
    assert not (taken - {1, 2, 3}) & {segment.number for segment in kept.version.segments}


def test_a_version_in_force_that_is_not_there_is_told_with_the_remedy(tmp_path: Path) -> None:
    history = FakeHistory(ROWS, decisions=[decided("version", 0, 7, 3)])
    with pytest.raises(Misconfigured, match=r"judged by version 7 at the cut-off, which is not in .*`offline models fetch`"):
        night(history, tmp_path)


# The command and the shelf


def night(history: FakeHistory, place: Path, **request: Any) -> Kept:
    return run(Request(**{"as_of": AS_OF, "k": 3, **request}), history, Shelf(str(place), "segments"), Settings(), lambda _s, _d, _o: None)


def files(place: Path) -> dict[str, bytes]:
    return {str(path.relative_to(place)): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_a_night_writes_the_version_as_the_topic_has_it_and_what_it_saw(tmp_path: Path) -> None:
    kept = night(FakeHistory(ROWS), tmp_path)
    found = files(tmp_path)
    assert {"segments-000001.avro", "segments-000001.json"} == set(found)
    body = found["segments-000001.avro"]
    assert digest(body).hex() == kept.sha256 == json.loads(found["segments-000001.json"])["sha256"]
    assert kept.version.record() == codec.decode("model_version", body)
    assert {"manifest": "0" * 64, "cutoff": json.dumps({"0": len(ROWS)}), "fit": "cold"}.items() <= kept.version.provenance.items()


def test_the_same_night_twice_is_one_and_reads_the_history_once(tmp_path: Path) -> None:
    history = FakeHistory(ROWS)
    first = night(history, tmp_path)
    before, read = files(tmp_path), [*history.read]
    assert first.sha256 == night(history, tmp_path).sha256
    assert (before, read) == (files(tmp_path), history.read)
    night(FakeHistory(ROWS), tmp_path / "elsewhere")
    assert before == files(tmp_path / "elsewhere")


def test_what_is_archived_later_makes_no_other_version_of_the_same_night_unless_asked_for(tmp_path: Path) -> None:
    first = night(FakeHistory(ROWS), tmp_path)
    assert first.sha256 == night(FakeHistory(ROWS, "1" * 64), tmp_path).sha256
    again = night(FakeHistory(ROWS, "1" * 64), tmp_path, again=True, k=None)
    assert (2, 1) == (again.version.version, again.version.previous_version)
    assert again.sha256 == night(FakeHistory(ROWS, "1" * 64), tmp_path, again=True, k=None).sha256


class Killed(BaseException):
    """Ends a night where it stands, as `kill -9` does."""


def test_a_night_that_ends_at_any_step_leaves_the_version_before_and_gives_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def second(place: Path, told: Callable[[str], None] = lambda _step: None) -> Kept:
        shelf = Shelf(str(place), "segments")
        return run(Request(end_of(NEXT)), FakeHistory(NEXT, "1" * 64), shelf, Settings(), lambda step, _d, _o: told(step))

    night(FakeHistory(ROWS), tmp_path / "whole")
    before = files(tmp_path / "whole")
    steps: list[str] = []
    second(tmp_path / "whole", steps.append)
    assert {"reading", "computing", "fitting from the version in force", "measuring"} <= set(steps)
    whole = files(tmp_path / "whole")
    assert before.items() < whole.items()
    writes = [path for path in whole if path not in before]
    assert 2 == len(writes)
    real = Shelf._write
    for point in [*dict.fromkeys(steps), *writes]:

        def reached(here: str, point: str = point) -> None:
            if here == point:
                raise Killed

        def write(shelf: Shelf, path: str, body: bytes, point: str = point) -> None:
            if path == point:
                real(shelf, f"{path}.part", body[: len(body) // 2])  # where a file is made before it has its name
                raise Killed
            real(shelf, path, body)

        place = tmp_path / point
        night(FakeHistory(ROWS), place)
        monkeypatch.setattr(Shelf, "_write", write)
        with pytest.raises(Killed):
            second(place, reached)
        monkeypatch.setattr(Shelf, "_write", real)
        assert [1] == [kept.version.version for kept in Shelf(str(place), "segments").versions()], point
        assert before.items() <= files(place).items(), point
        second(place)
        assert whole == {path: body for path, body in files(place).items() if not path.endswith(".part")}, point


KILLED = """
import os, signal, sys
from offline.reseed_command import Request, run
from offline.settings import Settings
from offline.shelf import Shelf
from tests.offlinekit import FakeHistory, end_of, shop
real = Shelf._write
def write(shelf, path, body):
    if path.endswith(".avro"):
        os.kill(os.getpid(), signal.SIGKILL)
    real(shelf, path, body)
Shelf._write = write
rows = shop(100, 120)
run(Request(end_of(rows), k=3), FakeHistory(rows), Shelf(sys.argv[1], "segments"), Settings(), lambda _s, _d, _o: None)
"""


def test_a_process_that_is_killed_between_a_version_s_two_files_has_made_none_and_the_next_makes_the_same(tmp_path: Path) -> None:
    night(FakeHistory(ROWS), tmp_path / "whole")
    place = tmp_path / "killed"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(place)], check=False, timeout=200)
    assert -signal.SIGKILL == ended.returncode
    assert ["segments-000001.json"] == list(files(place))
    assert [] == Shelf(str(place), "segments").versions()
    night(FakeHistory(ROWS), place)
    assert files(tmp_path / "whole") == files(place)


def test_how_the_work_was_cut_up_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "FOLDED_ROWS", 700)
    cut = Settings(fit=Fitting(buckets=3, rows_in_memory=1000), declaration=Path(PACKAGED))
    whole = night(FakeHistory(ROWS), tmp_path / "whole")
    assert (
        whole.sha256
        == run(Request(AS_OF, k=3), FakeHistory(ROWS), Shelf(str(tmp_path / "cut"), "segments"), cut, lambda _s, _d, _o: None).sha256
    )


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    kept = night(FakeHistory(ROWS), tmp_path / "models", dry_run=True)
    assert not (tmp_path / "models").exists()
    assert kept.sha256 == night(FakeHistory(ROWS), tmp_path / "models").sha256
    assert kept.sha256 == night(FakeHistory(ROWS), tmp_path / "models", dry_run=True).sha256


def test_the_next_night_is_the_next_version(tmp_path: Path) -> None:
    night(FakeHistory(ROWS), tmp_path)
    kept = night(FakeHistory(NEXT, "1" * 64), tmp_path, as_of=end_of(NEXT), k=None)
    assert (2, 1) == (kept.version.version, kept.version.previous_version)
    assert [1, 2] == [one.version.version for one in Shelf(str(tmp_path), "segments").versions()]
    assert kept.details["gate"]["passed"], kept.details["gate"]
    assert "psi" in [check["name"] for check in kept.details["gate"]["checks"]]


def test_a_refused_candidate_is_kept_aside_and_does_not_take_the_number(tmp_path: Path) -> None:
    poisoned = [one for one in ROWS if one["occurred_at"] // DAY_MS != AS_OF // DAY_MS - 5]
    kept = night(FakeHistory(poisoned, "2" * 64), tmp_path)
    assert kept.refused
    assert {f"refused/segments-000001-{kept.sha256[:12]}.{ending}" for ending in ("avro", "json")} == set(files(tmp_path))
    assert night(FakeHistory(poisoned, "2" * 64), tmp_path).refused
    good = night(FakeHistory(ROWS), tmp_path)
    assert (False, 1) == (good.refused, good.version.version)
    forced = night(FakeHistory(poisoned, "2" * 64), tmp_path, forced="the shop was closed")
    assert (False, 2, "the shop was closed") == (forced.refused, forced.version.version, forced.version.provenance["forced"])
    assert ["passed", "forced", "refused"] == [
        models_command.summary(one)["gate"]
        for one in [*Shelf(str(tmp_path), "segments").versions(), *Shelf(str(tmp_path), "segments").refused()]
    ]


def test_who_forces_a_version_vouches_for_its_odd_days_in_the_nights_to_come(tmp_path: Path) -> None:
    closed = AS_OF // DAY_MS - 5
    rows = [one for one in NEXT if one["occurred_at"] // DAY_MS != closed]
    first = [one for one in rows if one["occurred_at"] < AS_OF]
    night(FakeHistory(first, "2" * 64), tmp_path, forced="the shop was closed")
    later = night(FakeHistory(rows, "3" * 64), tmp_path, as_of=end_of(NEXT), k=None)
    assert (False, 2) == (later.refused, later.version.version), later.details["gate"]
    assert "2025-01-07" == later.version.provenance["days_accepted"]
    doubled = [*rows, *(dict(one) for one in rows if one["occurred_at"] // DAY_MS == closed - 1)]
    assert night(FakeHistory(doubled, "4" * 64), tmp_path, as_of=end_of(NEXT), k=None).refused


def test_another_version_under_the_number_is_never_overwritten(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path), "segments")
    shelf.put(FIRST)
    assert shelf.put(FIRST).sha256 == digest(body_of(FIRST.version)).hex()
    with pytest.raises(Misconfigured, match="another version under this number"):
        shelf.put(candidate(k=4))


def test_what_was_altered_or_is_not_there_is_told(tmp_path: Path) -> None:
    shelf = Shelf(str(tmp_path), "segments")
    shelf.put(FIRST)
    with pytest.raises(Misconfigured, match="there is no version 7 of segments"):
        shelf.get(7)
    path = tmp_path / "segments-000001.avro"
    path.write_bytes(body_of(replace(FIRST.version, created_at=1)))
    with pytest.raises(Corrupt, match="it was altered"):
        shelf.get(1)
    path.write_bytes(b"\x02a")
    with pytest.raises(Corrupt, match="not a model version"):
        shelf.versions()
    with pytest.raises(Misconfigured, match="neither a directory nor the URL"):
        Shelf("nowhere://x", "segments")
    assert [] == Shelf(str(tmp_path / "none"), "segments").versions()


def test_versions_are_compared_segment_by_segment() -> None:
    more = candidate(NIGHT, BEFORE, k=5)
    rows = {row["segment_id"]: row for row in models_command.differences(FIRST.version, more.version)}
    assert more.matching is not None
    assert {f"seg_{n:04d}" for n in more.matching.born} == {name for name, row in rows.items() if row["state"] == "born"}
    assert all(row["moved"] is None for row in rows.values() if row["state"] == "born")
    same = models_command.differences(FIRST.version, FIRST.version)
    assert [0.0, 0.0, 0.0] == [pytest.approx(row["moved"], abs=1e-9) for row in same]

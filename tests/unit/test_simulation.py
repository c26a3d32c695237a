"""Simulated traffic: the same bytes from the same seed, rates as the personas say, mishaps as asked for, each with its reason."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from streamer.adapters.avro import codec, wire
from streamer.adapters.avro.writer_schemas import WriterSchemas
from streamer.adapters.registry import PackagedSchemas
from streamer.app import simulation
from streamer.app.intake import Intake
from streamer.app.simulation import PERSONAS, Batch, Counts, Options, Persona, Sale, calendar_sales, expected_events, traffic, truth, visits
from streamer.app.simulation.damage import DAMAGES
from streamer.app.simulation.options import EARLIEST_MS
from streamer.app.simulation.population import digits_of
from streamer.app.simulation.rhythm import DAY_MS, HOURS, MONTHS, WEEKDAYS, day_factor, discount_on, midnight_ms
from streamer.app.simulation.traffic import packaged_schema_id
from streamer.app.simulation.visits import DUPLICATE, LATE, MALFORMED, NONE, PURCHASE, REFUND, SEARCH, VIEW, Events
from streamer.core import fold
from streamer.core.columns import Fetched
from streamer.core.declaration import declare
from streamer.core.errors import Misconfigured
from streamer.core.intake import Limits
from streamer.core.reasons import Reason

START = midnight_ms(date(2026, 3, 2))  # a Monday
SMALL = Options(customers=60, days=4, start_ms=START)
CLEAN = replace(SMALL, late=0, duplicates=0, malformed=0, changes=0)
MANY = replace(CLEAN, customers=6_000, days=7)
SCHEMA_ID = packaged_schema_id()
DECLARATION = declare(yaml.safe_load((Path(fold.__file__).parent / "default_features.yaml").read_text(encoding="utf-8")))


def rows_of(options: Options) -> Events:
    return np.concatenate([batch.rows for batch in traffic(options)])


def bytes_of(options: Options) -> list[tuple[bytes, bytes | None]]:
    return [pair for batch in traffic(options) for pair in zip(batch.record_keys(), batch.values(SCHEMA_ID), strict=True)]


def place(name: str) -> int:
    return [persona.name for persona in PERSONAS].index(name)


def test_equal_options_give_equal_bytes_and_another_seed_gives_others() -> None:
    assert bytes_of(SMALL) == bytes_of(replace(SMALL))
    assert bytes_of(SMALL) != bytes_of(replace(SMALL, seed=2))
    assert truth(SMALL).equals(truth(replace(SMALL)))
    assert not truth(SMALL).equals(truth(replace(SMALL, seed=2)))


def test_values_and_keys_are_what_fastavro_writes_of_the_same_records() -> None:
    for batch in traffic(replace(SMALL, malformed=0)):
        records = batch.records()
        assert [record["customer_id"].encode() for record in records] == batch.record_keys()
        assert [wire.framed(codec.encode("behaviour_event", record), SCHEMA_ID) for record in records] == batch.values(SCHEMA_ID)


def test_event_ids_are_unique_but_for_duplicates_which_are_their_firsts_again_and_follow_them() -> None:
    seen: dict[str, dict[str, Any]] = {}
    again = 0
    for batch in traffic(replace(SMALL, malformed=0, duplicates=0.1)):
        for record, fate in zip(batch.records(), batch.rows["fate"], strict=True):
            if fate == DUPLICATE:
                again += 1
                assert seen[record["event_id"]] == record
            else:
                assert record["event_id"] not in seen
                seen[record["event_id"]] = record
    assert again > 50


def test_ids_of_other_options_are_others() -> None:
    first = {record["event_id"] for batch in traffic(SMALL) for record in batch.records()}
    assert set() == first & {record["event_id"] for batch in traffic(replace(SMALL, seed=2)) for record in batch.records()}


def test_a_duplicate_comes_while_its_first_is_among_the_customers_last_sixteen() -> None:
    last: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in rows_of(replace(SMALL, customers=300, malformed=0, duplicates=0.3)):
        key = (int(row["day"]), int(row["number"]))
        if row["fate"] == DUPLICATE:
            assert key in last[row["customer"]][-16:]
        else:
            last[row["customer"]].append(key)


def test_records_go_in_the_order_of_event_time_but_for_late_ones_and_duplicates() -> None:
    rows = rows_of(SMALL)
    assert (np.diff(rows["sent"]) >= 0).all()
    in_time = rows[(rows["fate"] != LATE) & (rows["fate"] != DUPLICATE)]
    assert (np.diff(in_time["occurred"]) >= 0).all()
    late = rows["fate"] == LATE
    before = np.maximum.accumulate(rows["occurred"])
    assert (before[late] > rows["occurred"][late]).mean() > 0.99


def test_all_events_are_inside_the_period_and_a_batch_is_bounded() -> None:
    options = replace(SMALL, start_ms=START + 40_000_000, customers=500)
    batches = list(traffic(options))
    rows = np.concatenate([batch.rows for batch in batches])
    assert options.start_ms <= rows["occurred"].min()
    assert rows["occurred"].max() < options.until_ms
    assert max(map(len, batches)) <= 10_000


def test_a_busy_day_is_drawn_in_slices_and_still_goes_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "VISITS_AT_ONCE", 7)
    rows = rows_of(SMALL)
    assert (np.diff(rows["sent"]) >= 0).all()
    sound = rows[(rows["fate"] != DUPLICATE) & (rows["fate"] != MALFORMED)]
    assert len(sound) == len({(int(row["day"]), int(row["number"])) for row in sound})
    sessions = sound[sound["session"] != NONE]
    assert len({(int(row["day"]), int(row["session"])) for row in sessions}) > 7 * SMALL.days
    owner = {(int(row["day"]), int(row["session"])): int(row["customer"]) for row in sessions}
    assert all(owner[int(row["day"]), int(row["session"])] == row["customer"] for row in sessions)


def test_no_more_records_are_given_than_asked_for_and_they_are_the_first() -> None:
    assert bytes_of(SMALL)[:100] == [
        pair for batch in traffic(SMALL, records_max=100) for pair in zip(batch.record_keys(), batch.values(SCHEMA_ID), strict=True)
    ]


@pytest.mark.parametrize("persona", [persona for persona in PERSONAS if persona.arrives_days is None], ids=lambda persona: persona.name)
def test_a_personas_rates_hold(persona: Persona) -> None:
    rows = rows_of(MANY)
    own = rows[rows["persona"] == place(persona.name)]
    customers = (truth(MANY)["persona"] == persona.name).sum()
    weeks = 1.0
    days = range(START // DAY_MS, START // DAY_MS + 7)
    decay = 0.0 if persona.fade_days is None else np.log(2) / persona.fade_days
    busy = sum((1.0 if persona.machine else day_factor(day)) * np.exp(-decay * k) for k, day in enumerate(days)) / 7
    visits = customers * persona.sessions_per_week * weeks * busy
    kinds = np.bincount(own["type"], minlength=5)
    views, purchases = visits * persona.views, visits * persona.purchases()
    assert kinds[VIEW] == pytest.approx(views, rel=0.08)
    assert kinds[SEARCH] == pytest.approx(visits * persona.searches, rel=0.15)
    assert kinds[PURCHASE] == pytest.approx(purchases, rel=0.12, abs=4 * np.sqrt(purchases) + 3)
    if purchases > 300:
        amounts = np.log(own["amount"][own["type"] == PURCHASE])
        assert np.exp(np.median(amounts)) == pytest.approx(persona.order_median, rel=0.1)
        assert amounts.std() == pytest.approx(persona.order_sigma, rel=0.1)


def test_what_is_sent_back_comes_later_with_the_amount_of_its_purchase() -> None:
    rows = rows_of(replace(CLEAN, customers=800, days=25))
    persona = PERSONAS[place("returner")]
    own = rows[rows["persona"] == place("returner")]
    early = own[(own["type"] == PURCHASE) & (own["occurred"] < START + 14 * DAY_MS)]
    bought = {(int(row["customer"]), int(row["amount"])): int(row["occurred"]) for row in early}
    back = [row for row in own[own["type"] == REFUND] if (int(row["customer"]), int(row["amount"])) in bought]
    assert len(back) / len(early) == pytest.approx(persona.refund, abs=0.08)
    assert all(row["occurred"] > bought[int(row["customer"]), int(row["amount"])] for row in back)


def test_a_lapsing_customer_fades_and_a_new_one_comes_in_the_last_days_and_at_the_time_that_the_truth_tells() -> None:
    options = replace(CLEAN, customers=1_500, days=20)
    rows = rows_of(options)
    fading = rows["occurred"][rows["persona"] == place("lapsing")]
    assert (fading < START + 10 * DAY_MS).mean() > 0.85
    found = truth(options)
    new = found[found["persona"] == "new"]
    own = rows[rows["persona"] == place("new")]
    first = {int(row["customer"]): int(row["occurred"]) for row in own[::-1]}
    told = {int(c.removeprefix("c-")): int(t.timestamp() * 1000) for c, t in zip(new["customer_id"], new["from"], strict=True)}
    assert told == {customer: pytest.approx(time, abs=1) for customer, time in first.items()}
    assert min(told.values()) > options.until_ms - 6.01 * DAY_MS


def test_customers_change_persona_when_the_truth_says_so() -> None:
    options = replace(CLEAN, customers=1_000, days=20, changes=0.5)
    found = truth(options)
    settled = (found.groupby("customer_id")["persona"].transform("first") != "new").groupby(found["customer_id"]).first()
    twice = found.groupby("customer_id").size()
    assert (twice[settled] == 2).mean() == pytest.approx(0.5, abs=0.06)
    phases = defaultdict(list)
    for row in found.itertuples(index=False):
        customer, persona, begin, end = row
        phases[int(customer.removeprefix("c-"))].append((persona, begin.timestamp() * 1000, end.timestamp() * 1000))
    for one, two in (pair for pair in phases.values() if len(pair) == 2):
        assert one[0] != two[0]
        assert one[2] == two[1]
    rows = rows_of(options)
    visits = rows[(rows["type"] == VIEW) | (rows["type"] == SEARCH)]
    starts = {(int(r["customer"]), int(r["day"]), int(r["session"])): r for r in visits[::-1]}
    for row in starts.values():
        begin, end = next((b, e) for persona, b, e in phases[int(row["customer"])] if persona == PERSONAS[row["persona"]].name)
        assert begin - 1 <= row["occurred"] < end


@pytest.mark.parametrize("share", [0.0, 0.05, 1.0])
def test_mishaps_come_at_their_rates(share: float) -> None:
    counts, records = Counts(), 0
    for batch in traffic(replace(CLEAN, customers=300, malformed=share, duplicates=share / 2, late=share / 2)):
        counts.add(batch)
        records += len(batch)
    n = counts.events
    assert counts.malformed.total() == pytest.approx(share * n, abs=4 * np.sqrt(share * n))
    assert counts.duplicates == pytest.approx(share / 2 * n, abs=4 * np.sqrt(share * n))
    assert counts.late == pytest.approx(share / 2 * n, abs=4 * np.sqrt(share * n))
    assert records == counts.records()


def judged(batch: Batch) -> list[Reason]:
    values = batch.values(SCHEMA_ID)
    n = len(values)
    bounds = np.cumsum([0, *(len(value or b"") for value in values)], dtype=np.int64)
    empty = np.array([value is None for value in values], np.bool_)
    stamps = np.full(n, int(batch.rows["sent"].max()), np.int64)
    joined = b"".join(value or b"" for value in values)
    fetched = Fetched(np.zeros(n, np.int32), np.arange(n), stamps, joined, bounds, empty, tuple(batch.record_keys()), {})
    taken = Intake(DECLARATION, WriterSchemas(PackagedSchemas()), Limits(), 1_000, 1_000_000).take(fetched, np.zeros(n, np.int32))
    return [Reason(int(status)) for status in taken.status]


def test_every_malformed_record_is_refused_for_its_reason_and_every_sound_one_is_taken() -> None:
    told: Counter[Reason] = Counter()
    for batch in traffic(replace(SMALL, customers=150, malformed=0.2)):
        assert [reason or Reason.OK for reason in batch.reasons()] == judged(batch)
        told.update(reason for reason in batch.reasons() if reason is not None)
    assert {damage.reason for damage in DAMAGES} == set(told)
    assert len(DAMAGES) == len({damage.reason for damage in DAMAGES})


def test_counts_tell_events_by_persona_and_type_and_reasons_by_their_headers() -> None:
    counts = Counts()
    for batch in traffic(SMALL):
        counts.add(batch)
    tree = counts.as_tree()
    rows = rows_of(SMALL)
    sound = rows[(rows["fate"] != DUPLICATE) & (rows["fate"] != MALFORMED)]
    assert len(rows) == tree["records"]
    assert len(sound) == tree["events"] == sum(sum(kinds.values()) for kinds in tree["events_by_persona"].values())
    assert (sound["persona"] == place("loyal")).sum() == sum(tree["events_by_persona"]["loyal"].values())
    assert set(tree["malformed"]) <= {damage.reason.name.lower() for damage in DAMAGES}


def test_a_sale_brings_more_visits_most_of_those_who_hunt_for_it_at_lower_prices() -> None:
    first = date(2026, 3, 2)
    sale = replace(MANY, days=3, customers=3_000, sales=(Sale(first, date(2026, 3, 4), 0.5),))
    usual, cheap = rows_of(replace(sale, sales=())), rows_of(sale)

    def of(rows: Events, name: str) -> Events:
        return rows[rows["persona"] == place(name)]

    assert len(of(cheap, "bargain_hunter")) / len(of(usual, "bargain_hunter")) == pytest.approx(3, rel=0.1)
    assert len(of(cheap, "loyal")) / len(of(usual, "loyal")) == pytest.approx(1.3, rel=0.1)
    orders = [np.median(of(rows, "loyal")["amount"][of(rows, "loyal")["type"] == PURCHASE]) for rows in (usual, cheap)]
    assert orders[1] / orders[0] == pytest.approx(0.5, rel=0.1)


def test_people_sleep_and_machines_do_not() -> None:
    rows = rows_of(MANY)
    hour = rows["occurred"] // 3_600_000 % 24
    bots = rows["persona"] == place("bot")
    night = (hour >= 1) & (hour < 5)
    assert night[bots].mean() == pytest.approx(4 / 24, abs=0.02)
    assert night[~bots].mean() == pytest.approx(HOURS[1:5].sum(), abs=0.01)


def test_the_rhythms_average_one_so_that_rates_hold_over_a_year() -> None:
    assert 1.0 == pytest.approx(HOURS.sum())
    assert 1.0 == pytest.approx(np.mean(WEEKDAYS), abs=1e-9)
    assert 1.0 == pytest.approx(np.mean(MONTHS), abs=1e-9)
    assert 1.0 == pytest.approx(sum(persona.share for persona in PERSONAS))


def test_sales_are_read_as_days_and_refused_with_a_remedy() -> None:
    assert Sale(date(2026, 5, 1), date(2026, 5, 3)) == Sale.parse("2026-05-01..2026-05-03")
    assert Sale(date(2026, 5, 1), date(2026, 5, 1)) == Sale.parse("2026-05-01")
    for text in ("soon", "2026-05-03..2026-05-01", "..2026-05-01", ".."):
        with pytest.raises(Misconfigured):
            Sale.parse(text)
    black_week = midnight_ms(date(2026, 11, 27)) // DAY_MS
    assert 0.25 == discount_on(black_week, calendar_sales(2025, 2026))
    assert 0.0 == discount_on(black_week + 10, calendar_sales(2025, 2026))


@pytest.mark.parametrize(
    "wrong",
    [{"customers": 0}, {"days": 0}, {"late": -0.1}, {"duplicates": 1.1}, {"malformed": 2}, {"changes": 9}, {"seed": -1}, {"start_ms": 0}],
)
def test_options_out_of_range_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(Misconfigured, match=f"--{next(iter(wrong)).removesuffix('_ms')}"):
        replace(SMALL, **wrong)
    assert EARLIEST_MS == replace(SMALL, start_ms=EARLIEST_MS).start_ms


def test_followed_traffic_has_no_end_and_nobody_changes() -> None:
    options = replace(SMALL, follow=True, customers=20, days=1)
    batches = list(itertools.islice(traffic(options), 50))
    assert 50 == len(batches)
    assert max(int(batch.rows["day"].max(initial=0)) for batch in batches) > options.until_ms // DAY_MS + 10
    found = truth(options)
    assert options.customers == len(found)
    assert found["until"].isna().all()
    lapsing = [batch.rows["persona"] == place("lapsing") for batch in traffic(replace(options, customers=200), records_max=60_000)]
    assert np.concatenate(lapsing)[-20_000:].any()


def test_records_moved_to_now_happen_now_and_late_ones_as_long_ago_as_they_are_late() -> None:
    batch = next(traffic(replace(SMALL, late=0.2)))
    now = batch.at(START + 99 * DAY_MS)
    late = batch.rows["fate"] == LATE
    delay = batch.rows["sent"] - batch.rows["occurred"]
    assert (now.rows["occurred"][~late] == START + 99 * DAY_MS).all()
    assert (START + 99 * DAY_MS - now.rows["occurred"][late] == delay[late]).all()
    assert [record["event_id"] for record in batch.records()] == [record["event_id"] for record in now.records()]


def test_the_estimate_of_records_is_near_the_truth() -> None:
    options = replace(SMALL, customers=2_000, days=28)
    assert sum(len(batch) for batch in traffic(options)) == pytest.approx(expected_events(options), rel=0.08)


def test_more_customers_than_six_digits_get_longer_ids() -> None:
    assert (6, 6, 7) == (digits_of(1), digits_of(1_000_000), digits_of(1_000_001))
    batch = replace(next(traffic(CLEAN)), digits=7)
    assert {9} == {len(key) for key in batch.record_keys()}
    assert batch.record_keys() == [record["customer_id"].encode() for record in batch.records()]
    assert [wire.framed(codec.encode("behaviour_event", record), SCHEMA_ID) for record in batch.records()] == batch.values(SCHEMA_ID)


def test_the_package_names_what_it_gives() -> None:
    assert [] == [name for name in simulation.__all__ if not hasattr(simulation, name)]

"""The gate: sound nights pass, poisoned histories and bad fits are refused with the reason, and settings are checked whole."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offline.cleaning import report
from offline.events import Reading
from offline.features import compute
from offline.fit import points_of
from offline.gate import Figures, judge, psi, relabelled, spread
from offline.settings import Cleaning, GateLimits, Settings, load, read
from streamer.adapters.declaration_file import load as load_declaration
from streamer.core.errors import Misconfigured
from tests.offlinekit import BEGIN_DAY, DAY_MS, batches, end_of, event, shop

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offline.features import Computed
    from offline.gate import Verdict

pytestmark = pytest.mark.compiled

READING = Reading(load_declaration(None))
SOUND = Figures(1.01, np.array([0.5, 0.3, 0.2]), 0.9, 0.01, {"spend_30d": 0.02}, {"spend_30d": 0.01})
LIMITS = GateLimits()
ROWS = shop(60, 120)
BAD_DAY = BEGIN_DAY + 50


def computed(rows: list[dict[str, Any]]) -> Computed:
    return compute(READING, batches(rows), end_of(rows))


def verdict(rows: list[dict[str, Any]], limits: GateLimits = LIMITS, forced: str | None = None) -> Verdict:
    return judge(SOUND, limits, computed(rows), end_of(rows), forced)


def failed(found: Verdict) -> set[str]:
    return {check.name for check in found.checks if not check.passed}


def on_bad_day(one: dict[str, Any]) -> bool:
    return bool(one["occurred_at"] // DAY_MS == BAD_DAY)


# Poisoned histories


def test_a_sound_night_passes() -> None:
    found = verdict(ROWS)
    assert (True, ()) == (found.passed, found.reasons)
    assert {"day_low", "day_high", "repeated", "amount_day_high", "customer_share_events", "customer_share_purchased"} < {
        check.name for check in found.checks
    }
    assert all(np.isfinite(check.value) for check in found.checks)


def day_missing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one for one in rows if not on_bad_day(one)]


def last_day_missing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    last = end_of(rows) - DAY_MS
    return [*(one for one in rows if one["occurred_at"] < last), event("c000", "view", last, "alone")]


def day_doubled(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows + [{**one} for one in rows if on_bad_day(one)]


def day_doubled_under_new_ids(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows + [{**one, "event_id": f"again {one['event_id']}"} for one in rows if on_bad_day(one)]


def amounts_of_a_day_in_another_unit(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**one, "amount": one["amount"] * 100} if one["amount"] and on_bad_day(one) else one for one in rows]


def one_absurd_amount(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*rows, event("c001", "purchase", BAD_DAY * DAY_MS, "absurd", 10**11)]


def half_of_all_is_one_customer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows + [{**one, "customer_id": "bot", "event_id": f"bot {one['event_id']}"} for one in rows]


@pytest.mark.parametrize(
    ("poison", "check", "says"),
    [
        (day_missing, "day_low", "2024-11-23 has 0.00 of the events that its weekday usually has"),
        (last_day_missing, "day_low", "2024-12-02 has 0.01 of the events"),
        (day_doubled, "repeated", "2024-11-23 has events that came before, 50.0% of them"),
        (day_doubled_under_new_ids, "day_high", "2024-11-23 has 2."),
        (amounts_of_a_day_in_another_unit, "amount_day_high", "2024-11-23 has "),
        (one_absurd_amount, "amount_day_high", "2024-11-23 has "),
        (half_of_all_is_one_customer, "customer_share_events", "customer bot has 50.0% of all events"),
    ],
)
def test_a_poisoned_history_is_refused_with_the_reason(
    poison: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], check: str, says: str
) -> None:
    found = verdict(poison(ROWS))
    assert not found.passed
    assert check in failed(found)
    assert any(says in reason for reason in found.reasons), found.reasons


def test_an_odd_day_that_is_known_to_be_right_is_accepted() -> None:
    assert verdict(day_missing(ROWS), replace(LIMITS, days_accepted=(date(2024, 11, 23),))).passed
    assert verdict(day_missing(ROWS), replace(LIMITS, days=5)).passed


def test_a_forced_version_passes_and_keeps_its_reasons() -> None:
    found = verdict(day_missing(ROWS), forced="the shop was closed")
    assert found.passed
    assert 1 == len(found.reasons)
    assert {"passed": True, "forced": "the shop was closed"}.items() <= found.record().items()


def test_a_young_history_has_too_few_days_to_say_and_none_is_no_fault() -> None:
    rows = shop(10, 30)
    found = verdict(rows)
    assert found.passed
    assert None in [check["value"] for check in found.record()["checks"]]  # type: ignore[attr-defined]
    assert judge(SOUND, LIMITS, compute(READING, [], 0), 0).passed


# Bad fits


@pytest.mark.parametrize(
    ("changed", "check", "says"),
    [
        ({"wcss_ratio": 1.2}, "wcss_ratio", "it has 20.0% more within-cluster squares than a fit from nothing"),
        ({"share": np.array([0.993, 0.004, 0.003])}, "share_max", "the largest segment has 99.3% of the customers"),
        ({"share": np.array([0.993, 0.004, 0.003])}, "share_min", "the smallest segment has 0.30% of the customers"),
        ({"stability": 0.2}, "stability", "an adjusted Rand index of 0.20"),
        ({"relabelled": 0.3}, "relabelled", "it moves 30.0% of the customers, whose behaviour is the same"),
        ({"psi": {"spend_30d": 0.1, "views_7d": 0.6}}, "psi", "views_7d is spread otherwise than at the version before"),
        ({"saturated": {"views_7d": 0.05, "spend_30d": 0.3}}, "saturated", "30.0% of the customers lie beyond where spend_30d is clipped"),
    ],
)
def test_a_bad_fit_is_refused_with_the_reason(changed: dict[str, Any], check: str, says: str) -> None:
    found = judge(replace(SOUND, **changed), LIMITS)
    assert check in failed(found)
    assert any(says in reason for reason in found.reasons), found.reasons


def test_a_first_version_has_nothing_to_be_compared_with() -> None:
    found = judge(replace(SOUND, relabelled=None, psi=None, saturated=None), LIMITS)
    assert {"wcss_ratio", "share_min", "share_max", "stability"} == {check.name for check in found.checks}


def test_customers_are_moved_by_a_version_where_the_margin_says_so_or_their_segment_is_gone() -> None:
    squared = np.array([[1.0, 4.0], [4.0, 1.0], [1.0, 0.9], [1.0, 0.5], [3.0, 1.0]])
    old, new = np.array([0, 0, 0, 0, 1], np.int32), np.array([0, 1, 1, 1, 1], np.int32)
    assert 0.4 == relabelled([0, 1], old, new, squared, 0.1)
    assert 0.6 == relabelled([0, 1], old, new, squared, 0.0)
    assert 0.6 == relabelled([0, None], old, new, squared, 0.1)
    assert 0.0 == relabelled([0], old[:0], new[:0], squared[:0], 0.1)


def test_the_stability_index_is_nothing_for_what_is_spread_alike_and_grows_with_the_shift() -> None:
    rng = np.random.default_rng(3)
    before = rng.normal(0, 1, 20_000)
    known = spread(before)
    assert 0.0 == psi(known, before)
    shifts = [psi(known, rng.normal(by, 1, 20_000)) for by in (0.0, 0.2, 0.5, 1.0)]
    assert shifts == sorted(shifts)
    assert shifts[0] < 0.01 < shifts[1] < 0.25 < shifts[3]
    zeros = spread(np.array([0.0] * 80 + [1.0] * 20))
    assert ((0.0, 1.0), (0.8, 0.2, 0.0)) == (zeros.edges, zeros.shares)


# The report of the data


def test_odd_customers_are_counted_named_and_kept() -> None:
    rows = [*shop(20, 30), event("once", "view", BEGIN_DAY * DAY_MS, "x"), event("back", "refund", BEGIN_DAY * DAY_MS, "y", 10)]
    rows += [event("bot", "view", BEGIN_DAY * DAY_MS + i, f"bot {i}") for i in range(600)]
    found = computed(rows)
    points = points_of(found.features, found.facts["eligible"].to_numpy(), [f.transform for f in READING.declaration.features])
    told = report(found, points, Cleaning(), np.array([customer == "once" for customer in found.features.index]))
    assert ("once",) == told.oddities["silent for longer than the model keeps them"].examples
    assert (2, ("back", "once")) == (told.oddities["too little behind them"].count, told.oddities["too little behind them"].examples)
    assert ("bot",) == told.oddities["more than 500 events on a day"].examples
    assert "back" in told.oddities["refunds larger than purchases"].examples
    assert (33, 31) == (told.customers, told.fitted)
    assert told.oddities["features beyond the clipping quantiles"].count >= 1
    assert 31 == told.record()["fitted"]


# Settings


def test_settings_are_read_from_their_section_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(
        "kafka: {properties: {sasl.password: !file /secret}}\nfeatures: {declaration: mine.yaml}\noffline:\n"
        "  gate: {share_max: 0.5, days_accepted: [2026-12-25]}\n  fit: {k: 4}\n  names: {seg_0001: VIP}\n"
    )
    found = load(path)
    assert (0.5, (date(2026, 12, 25),), 4, {"seg_0001": "VIP"}) == (
        found.gate.share_max,
        found.gate.days_accepted,
        found.fit.k,
        found.names,
    )
    assert tmp_path / "mine.yaml" == found.declaration
    path.write_text("- 1\n")
    assert Settings() == load(None) == load(path) == read({"model": {}}, "x")


def test_all_faults_of_the_settings_are_told_at_once(tmp_path: Path) -> None:
    tree = {
        "gate": {"share_mx": 1, "psi_max": "big", "days_accepted": ["soon"]},
        "fit": {"k": 1, "k_min": 9, "seed": True},
        "names": {"seg_0001": 3},
        "clean": {},
        "cleaning": [],
    }
    with pytest.raises(Misconfigured) as refused:
        read({"offline": tree}, "x.yaml")
    told = str(refused.value)
    for fault in (
        "x.yaml: offline.gate.share_mx: unknown key; did you mean share_max?",
        "offline.gate.psi_max: is 'big': give a number from 0 to 100",
        "offline.gate.days_accepted: is ['soon']: give a list of days such as [2026-12-25]",
        "offline.fit.k: is 1: give a whole number from 2 to 256",
        "offline.fit.seed: is True: give a whole number",
        "offline.names.seg_0001: is 3: give a text",
        "offline.clean: unknown key; did you mean cleaning?",
        "offline.cleaning: must be a mapping",
    ):
        assert fault in told
    with pytest.raises(Misconfigured, match="k_min: is 9, above k_max"):
        read({"offline": {"fit": {"k_min": 9, "k_max": 8}}}, "x")
    with pytest.raises(Misconfigured, match="the settings can't be read"):
        load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(Misconfigured, match="not YAML"):
        load(tmp_path / "bad.yaml")
